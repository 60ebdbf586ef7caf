// SHA-256 hashes of NARs: the texts that Nix writes to one branded form and to hex.
// Accepts `sha256:<52 nix32>`, `sha256:<64 lowercase hex>` and SRI `sha256-<base64>`; inside fleet
// only the first exists. Refuses other algorithms (Nix trusts none but SHA-256 for a NAR), a bare
// digest, upper-case hex, base64 that is not padded or not canonical.

import { FleetError } from '../errors.ts';
import { BASE32_CLASS, decodeBase32, encodeBase32 } from './base32.ts';

/** Always `sha256:<52 nix32>`. */
export type NarHash = string & { readonly __brand: 'NarHash' };

const DIGEST_BYTES = 32;
const PREFIX = 'sha256:';

// 52 digits carry 260 bits: the first digit may only be 0 or 1.
const CANONICAL = new RegExp(`^sha256:[01][${BASE32_CLASS}]{51}$`);
const HEX = /^sha256:[0-9a-f]{64}$/;
const SRI = /^sha256-[0-9A-Za-z+/]{43}=$/;

/** True for the one text that NarHash has. */
export function isNarHash(text: string): text is NarHash {
  return CANONICAL.test(text);
}

/** Any of the three accepted texts; else E_HASH. */
export function parseNarHash(text: string): NarHash {
  if (isNarHash(text)) return text;
  if (HEX.test(text)) return formatNarHash(Buffer.from(text.slice(PREFIX.length), 'hex'));
  if (SRI.test(text)) {
    const base64 = text.slice(PREFIX.length);
    const digest = Buffer.from(base64, 'base64');
    if (digest.toString('base64') === base64) return formatNarHash(digest);
  }
  const shown = text.length > 100 ? `${text.slice(0, 100)}…` : text;
  throw new FleetError('E_HASH', `not a SHA-256 hash as Nix writes it: ${JSON.stringify(shown)}`);
}

/** From the 32 bytes of a SHA-256 digest. */
export function formatNarHash(digest: Uint8Array): NarHash {
  if (digest.length !== DIGEST_BYTES) {
    throw new FleetError('E_HASH', `a SHA-256 digest has 32 bytes, not ${digest.length}`);
  }
  return `${PREFIX}${encodeBase32(digest)}` as NarHash;
}

/** The digest's 32 bytes. */
export function narHashDigest(hash: NarHash): Uint8Array {
  return decodeBase32(hash.slice(PREFIX.length), DIGEST_BYTES);
}

/** 64 lowercase hex digits. */
export function narHashHex(hash: NarHash): string {
  return Buffer.from(narHashDigest(hash)).toString('hex');
}
