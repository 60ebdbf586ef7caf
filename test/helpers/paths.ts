// Made-up store paths and path infos for tests, and fast-check arbitraries of them.
import { createHash } from 'node:crypto';
import fc from 'fast-check';
import { encodeBase32 } from '../../src/nix/base32.ts';
import type { PathInfo } from '../../src/nix/closure.ts';
import { formatNarHash, type NarHash } from '../../src/nix/hash.ts';
import { parseStorePath, type StorePath } from '../../src/nix/storepath.ts';

const digest = (seed: string) => createHash('sha256').update(seed).digest();

/** The same path for the same seed. */
export function storePath(seed: string, name = 'x'): StorePath {
  return parseStorePath(`/nix/store/${encodeBase32(digest(seed).subarray(0, 20))}-${name}`);
}

export function narHash(seed: string): NarHash {
  return formatNarHash(digest(seed));
}

export function pathInfo(path: StorePath, references: StorePath[] = [], narSize = 120): PathInfo {
  return { path, narHash: narHash(path), narSize, references: [...references].sort() };
}

export const storePathArbitrary: fc.Arbitrary<StorePath> = fc
  .tuple(
    fc.uint8Array({ minLength: 20, maxLength: 20 }),
    fc.stringMatching(/^[0-9A-Za-z+_?=-][0-9A-Za-z+\-._?=]{0,30}$/),
  )
  .map(([hash, name]) => parseStorePath(`/nix/store/${encodeBase32(hash)}-${name}`));

export const narHashArbitrary: fc.Arbitrary<NarHash> = fc
  .uint8Array({ minLength: 32, maxLength: 32 })
  .map(formatNarHash);

export const pathInfoArbitrary: fc.Arbitrary<PathInfo> = fc.record({
  path: storePathArbitrary,
  narHash: narHashArbitrary,
  narSize: fc.integer({ min: 1, max: Number.MAX_SAFE_INTEGER }),
  references: fc
    .uniqueArray(storePathArbitrary, { maxLength: 8 })
    .map((paths) => [...paths].sort()),
});

/** One byte of `text` replaced by another, printable or a newline. */
export function mutated(text: string, at: number, byte: string): string {
  const index = at % text.length;
  return text.slice(0, index) + byte + text.slice(index + 1);
}

export const byteArbitrary = fc
  .oneof(fc.integer({ min: 0x20, max: 0x7e }), fc.constantFrom(0, 9, 10, 13, 0x7f, 0xe9))
  .map((code) => String.fromCharCode(code));
