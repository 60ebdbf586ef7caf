// Ed25519 keys as text (SPEC §1.4): secret keys as the PKCS #8 PEM that openssl reads and writes,
// public keys as standard base64 of their 32 bytes. Refuses any other spelling, so that equal keys
// are equal strings, and public keys that `admitPublicKey` does not admit.
import { createHash } from 'node:crypto';
import { decodeBase64, encodeBase64 } from './base64.ts';
import { admitPublicKey, publicKeyOf, secretKeyFromPkcs8, secretKeyToPkcs8 } from './ed25519.ts';
import { FleetError } from './errors.ts';

/** Standard base64 of an admitted Ed25519 public key (44 characters). */
export type PublicKey = string & { readonly __brand: 'PublicKey' };

const HEADER = '-----BEGIN PRIVATE KEY-----';
const FOOTER = '-----END PRIVATE KEY-----';

/** The PEM text of a 32-byte secret key. */
export function formatSecretKey(secret: Uint8Array): string {
  return `${HEADER}\n${encodeBase64(secretKeyToPkcs8(secret))}\n${FOOTER}\n`;
}

/**
 * The 32-byte secret key of a PEM text.
 * @throws FleetError E_KEY_FILE; the message never holds what the file held.
 */
export function parseSecretKey(pem: string): Uint8Array {
  const lines = pem.replace(/\n$/, '').split('\n');
  const der = lines.length === 3 ? decodeBase64(lines[1] ?? '') : undefined;
  const secret =
    lines[0] === HEADER && lines[2] === FOOTER && der !== undefined
      ? secretKeyFromPkcs8(der)
      : undefined;
  if (secret === undefined) throw new FleetError('E_KEY_FILE', 'not an Ed25519 PKCS #8 PEM key');
  return secret;
}

/** The text of a 32-byte public key, admitted. @throws FleetError E_PUBLIC_KEY. */
export function formatPublicKey(raw: Uint8Array): PublicKey {
  return parsePublicKey(encodeBase64(raw));
}

/** @throws FleetError E_PUBLIC_KEY unless the text is that of an admissible public key. */
export function parsePublicKey(text: string): PublicKey {
  if (!isPublicKey(text)) {
    // Only what has the shape of a key is shown: the text may be a secret one's.
    const shown = /^[A-Za-z0-9+/]{43}=$/.test(text) ? text : 'this';
    throw new FleetError(
      'E_PUBLIC_KEY',
      `${shown} is not an Ed25519 public key that can be trusted`,
    );
  }
  return text;
}

/**
 * The public key in a file: its base64 alone, or the PEM that `openssl pkey -pubout` writes.
 * @throws FleetError E_PUBLIC_KEY.
 */
export function parsePublicKeyFile(text: string): PublicKey {
  const pem =
    /^-----BEGIN PUBLIC KEY-----\n([A-Za-z0-9+/]{59}=)\n?-----END PUBLIC KEY-----\n?$/.exec(text);
  if (/PRIVATE KEY|^[^\s:]+:[A-Za-z0-9+/]{86}==\s*$/.test(text)) {
    throw new FleetError(
      'E_PUBLIC_KEY',
      'the file holds a secret key, and its public key is wanted',
      {
        hint: 'give the file beside it that ends in .pub',
      },
    );
  }
  if (pem?.[1] === undefined) return parsePublicKey(text.trim());
  // RFC 8410: 12 bytes of DER before the key.
  const der = Buffer.from(pem[1], 'base64');
  const key = formatPublicKey(Uint8Array.from(der.subarray(12)));
  if (der.subarray(0, 12).toString('hex') === SPKI_HEAD) return key;
  throw new FleetError('E_PUBLIC_KEY', 'the PEM holds no Ed25519 public key');
}

const SPKI_HEAD = '302a300506032b6570032100';

// Admission costs a scalar multiplication; a root names the same few keys again and again.
const admitted = new Set<string>();
const ADMITTED_LIMIT = 1024;

/** True for the text of an admissible public key. */
export function isPublicKey(text: unknown): text is PublicKey {
  if (typeof text !== 'string') return false;
  if (admitted.has(text)) return true;
  const raw = decodeBase64(text);
  if (raw === undefined || !admitPublicKey(raw)) return false;
  if (admitted.size >= ADMITTED_LIMIT) admitted.clear();
  admitted.add(text);
  return true;
}

/** The 32 bytes of a public key. */
export function publicKeyBytes(key: PublicKey): Uint8Array {
  return Uint8Array.from(Buffer.from(key, 'base64'));
}

/** The public key of a 32-byte secret key. */
export function publicKeyOfSecret(secret: Uint8Array): PublicKey {
  return formatPublicKey(publicKeyOf(secret));
}

/** The hint that names a key in envelopes: hex of the first 8 bytes of SHA-256(32 raw bytes). */
export function keyId(key: PublicKey): string {
  return createHash('sha256').update(publicKeyBytes(key)).digest('hex').slice(0, 16);
}

/** What people compare when a host enrols: SHA-256 of the 32 raw bytes, in hex groups of four. */
export function fingerprint(key: PublicKey): string {
  const hex = createHash('sha256').update(publicKeyBytes(key)).digest('hex');
  return (hex.match(/.{4}/g) ?? []).join(' ');
}
