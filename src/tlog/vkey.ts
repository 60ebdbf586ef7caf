// A note verifier key ↔ its text `name+<8 hex digits>+<base64(type ‖ public key)>`, C2SP signed-note
// (SPEC §3.3). Type 0x01 signs checkpoints, 0x04 cosigns them with a time (C2SP tlog-cosignature).
// Refuses a key ID that is not the first 4 bytes of SHA-256(name ‖ 0x0A ‖ type ‖ public key).
import { createHash } from 'node:crypto';
import { decodeBase64, encodeBase64 } from '../base64.ts';
import { FleetError } from '../errors.ts';
import { formatPublicKey, type PublicKey, publicKeyBytes } from '../keyfile.ts';

export const NOTE_ED25519 = 0x01;
export const NOTE_COSIGNATURE = 0x04;
export type NoteKeyType = typeof NOTE_ED25519 | typeof NOTE_COSIGNATURE;

export type VerifierKey = {
  /** Not empty, without white space, control characters and `+`. */
  readonly name: string;
  readonly type: NoteKeyType;
  readonly publicKey: PublicKey;
};

/** The first 4 bytes of SHA-256(name ‖ 0x0A ‖ type ‖ public key), 8 lowercase hex digits. */
export function noteKeyId({ name, type, publicKey }: VerifierKey): string {
  const digest = createHash('sha256')
    .update(name)
    .update(Uint8Array.of(0x0a, type))
    .update(publicKeyBytes(publicKey))
    .digest();
  return digest.toString('hex', 0, 4);
}

export function formatVerifierKey(key: VerifierKey): string {
  const body = encodeBase64(
    Buffer.concat([Uint8Array.of(key.type), publicKeyBytes(key.publicKey)]),
  );
  return `${key.name}+${noteKeyId(key)}+${body}`;
}

/** @throws FleetError E_PUBLIC_KEY unless `text` is a verifier key of type `type`. */
export function parseVerifierKey(text: string, type: NoteKeyType): VerifierKey {
  const match = /^([^\s\p{Cc}+]{1,255})\+[0-9a-f]{8}\+([A-Za-z0-9+/=]+)$/u.exec(text);
  const body = decodeBase64(match?.[2] ?? '');
  if (match?.[1] === undefined || body?.[0] !== type) {
    throw new FleetError('E_PUBLIC_KEY', `not a note verifier key of type ${type}`);
  }
  const key = { name: match[1], type, publicKey: formatPublicKey(body.subarray(1)) };
  if (formatVerifierKey(key) !== text) {
    throw new FleetError('E_PUBLIC_KEY', `the key ID of verifier key ${key.name} is wrong`);
  }
  return key;
}
