// Nix's base-32: bytes to text and back. The digits are read from the last byte to the first and
// the alphabet leaves out e, o, u and t (Nix manual, "nix32"; libutil/hash.cc).
// Refuses another length than the caller expects, digits outside the alphabet, and set bits
// beyond the last byte, so that every byte string has exactly one text.

import { FleetError } from '../errors.ts';

const DIGITS = '0123456789abcdfghijklmnpqrsvwxyz';

/** The alphabet as the inside of a regular expression's character class. */
export const BASE32_CLASS = '0-9a-df-np-sv-z';

const VALUES: ReadonlyMap<string, number> = new Map([...DIGITS].map((digit, i) => [digit, i]));

/** Characters that `byteLength` bytes take. */
export function base32Length(byteLength: number): number {
  return Math.ceil((byteLength * 8) / 5);
}

export function encodeBase32(bytes: Uint8Array): string {
  let text = '';
  for (let n = base32Length(bytes.length) - 1; n >= 0; n--) {
    const byte = (n * 5) >> 3;
    const shift = (n * 5) & 7;
    const pair = (bytes[byte] ?? 0) | ((bytes[byte + 1] ?? 0) << 8);
    text += DIGITS.charAt((pair >> shift) & 31);
  }
  return text;
}

/** Throws E_BASE32 unless `text` is the encoding of exactly `byteLength` bytes. */
export function decodeBase32(text: string, byteLength: number): Uint8Array {
  const length = base32Length(byteLength);
  if (text.length !== length) {
    throw new FleetError(
      'E_BASE32',
      `expected ${length} characters of Nix base-32, got ${text.length}`,
    );
  }
  const bytes = new Uint8Array(byteLength);
  for (let n = 0; n < length; n++) {
    const value = VALUES.get(text.charAt(length - 1 - n));
    if (value === undefined) {
      throw new FleetError('E_BASE32', `not Nix base-32: ${JSON.stringify(text)}`);
    }
    const byte = (n * 5) >> 3;
    const pair = value << ((n * 5) & 7);
    bytes[byte] = (bytes[byte] ?? 0) | (pair & 255);
    const carry = pair >> 8;
    if (byte + 1 < byteLength) bytes[byte + 1] = carry;
    else if (carry !== 0) {
      throw new FleetError(
        'E_BASE32',
        `more bits than ${byteLength} bytes hold: ${JSON.stringify(text)}`,
      );
    }
  }
  return bytes;
}
