// Base64 (RFC 4648) ↔ bytes, strictly: exact padding, zero in the unused bits, one alphabet per text.
// DSSE lets signers choose the standard or the URL-safe alphabet, and the latter without padding;
// what we write is standard base64 with padding, and keys are read in that one spelling only.

/** The bytes of standard base64 with padding, or undefined. One byte string has one spelling. */
export function decodeBase64(text: string): Uint8Array | undefined {
  const bytes = Buffer.from(text, 'base64');
  return bytes.toString('base64') === text ? Uint8Array.from(bytes) : undefined;
}

/** The bytes of standard or URL-safe base64, the latter padded or not, or undefined. */
export function decodeAnyBase64(text: string): Uint8Array | undefined {
  const standard = decodeBase64(text);
  if (standard !== undefined) return standard;
  const bytes = Buffer.from(text, 'base64url');
  const bare = bytes.toString('base64url');
  const padded = bare.padEnd(Math.ceil(bare.length / 4) * 4, '=');
  return text === bare || text === padded ? Uint8Array.from(bytes) : undefined;
}

/** Standard base64 with padding. */
export function encodeBase64(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('base64');
}
