// Bytes → the store paths that they mention. Two ways: every hash part that stands in a whole store path,
// without knowing beforehand which to look for; and those of a given set that stand anywhere, which is
// what Nix itself does to find references (libstore/references.cc).
import { FleetError } from '../errors.ts';

const PREFIX = Buffer.from('/nix/store/');
const HASH_PART = 32;
/** A mention: prefix, hash part, dash. */
const MENTION = PREFIX.length + HASH_PART + 1;
const DASH = 0x2d;
/** More than any real NAR has; each takes some memory. */
const MAX_MENTIONS = 65_536;

const IS_BASE32 = new Uint8Array(256);
for (const byte of Buffer.from('0123456789abcdfghijklmnpqrsvwxyz')) IS_BASE32[byte] = 1;

/** Finds the hash parts that occur as `/nix/store/HASH-`, whatever pieces the bytes come in. */
export class MentionScanner {
  readonly found = new Set<string>();
  #tail: Buffer = Buffer.alloc(0);

  /** @throws FleetError E_UPLOAD_LIMIT beyond 65,536 different ones */
  push(chunk: Uint8Array): void {
    const bytes = Buffer.from(chunk.buffer, chunk.byteOffset, chunk.length);
    if (this.#tail.length > 0) {
      this.#scan(Buffer.concat([this.#tail, bytes.subarray(0, MENTION - 1)]));
    }
    this.#scan(bytes);
    // A copy: the chunk may be used again by whoever made it.
    const recent = bytes.length >= MENTION - 1 ? bytes : Buffer.concat([this.#tail, bytes]);
    this.#tail = Buffer.from(recent.subarray(Math.max(0, recent.length - MENTION + 1)));
  }

  #scan(bytes: Buffer): void {
    for (let at = bytes.indexOf(PREFIX); at !== -1; at = bytes.indexOf(PREFIX, at + 1)) {
      if (at + MENTION > bytes.length) return;
      const start = at + PREFIX.length;
      const end = start + HASH_PART;
      if (bytes[end] !== DASH || !isHashPart(bytes, start)) continue;
      this.found.add(bytes.toString('latin1', start, end));
      if (this.found.size > MAX_MENTIONS) {
        throw new FleetError('E_UPLOAD_LIMIT', `the NAR mentions over ${MAX_MENTIONS} paths`);
      }
    }
  }
}

/** Those of `wanted` (hash parts) that occur anywhere in `chunks`; reads no further than it must. */
export async function findHashParts(
  chunks: AsyncIterable<Uint8Array>,
  wanted: ReadonlySet<string>,
): Promise<Set<string>> {
  const found = new Set<string>();
  let tail: Buffer = Buffer.alloc(0);
  for await (const chunk of chunks) {
    const bytes = Buffer.concat([tail, chunk]);
    for (let at = 0; at + HASH_PART <= bytes.length; ) {
      // From the end: one byte that cannot be part of a hash rules out all windows that hold it.
      let last = HASH_PART - 1;
      while (last >= 0 && IS_BASE32[bytes[at + last] ?? 0] === 1) last -= 1;
      if (last >= 0) {
        at += last + 1;
        continue;
      }
      const text = bytes.toString('latin1', at, at + HASH_PART);
      if (wanted.has(text)) found.add(text);
      at += 1;
    }
    if (found.size === wanted.size) break;
    tail = Buffer.from(bytes.subarray(Math.max(0, bytes.length - HASH_PART + 1)));
  }
  return found;
}

function isHashPart(bytes: Buffer, start: number): boolean {
  for (let i = start; i < start + HASH_PART; i++) if (IS_BASE32[bytes[i] ?? 0] !== 1) return false;
  return true;
}
