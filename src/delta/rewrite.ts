// The NAR of an old path → the same with new hash parts in it (SPEC §12.4), at any place and without reading the rest: an occurrence
// begins with a slash and has none in its hash part, so two never overlap, and 42 bytes on each side are enough to know.
import { hashPartOf } from '../nix/storepath.ts';
import { type OldNar, outside } from './old-nar.ts';
import type { Renames } from './pack-index.ts';

const PREFIX = Buffer.from('/nix/store/');
const HASH_PART = 32;
/** Of an occurrence that reaches in from outside. */
const MARGIN = PREFIX.length + HASH_PART - 1;
/** Read and rewritten at a time at most; and at first, when what is read is elsewhere than before: patches jump for a few bytes, or go on. */
const WINDOW = 128 * 1024;
const FIRST_WINDOW = 4 * 1024;

/** `old` rewritten. Holds a buffer of at most 128 KiB. Reads throw what `old` does. */
export function rewritten(old: OldNar, renames: Renames): OldNar {
  const changed = [...renames].map(([from, to]) => [hashPartOf(from), hashPartOf(to)] as const);
  const hashes = new Map(
    changed
      .filter(([from, to]) => from !== to)
      .map(([from, to]) => [from, Buffer.from(to, 'latin1')] as const),
  );
  return new RewrittenNar(old, hashes);
}

class RewrittenNar implements OldNar {
  readonly size: number;
  readonly #old: OldNar;
  readonly #hashes: ReadonlyMap<string, Buffer>;
  readonly #buffer: Buffer;
  /** What the buffer has: `[from, to)` of the rewritten NAR, from `#skip` on. */
  #from = 0;
  #to = 0;
  #skip = 0;
  #window = FIRST_WINDOW;

  constructor(old: OldNar, hashes: ReadonlyMap<string, Buffer>) {
    this.#old = old;
    this.#hashes = hashes;
    this.size = old.size;
    this.#buffer = Buffer.allocUnsafeSlow(Math.min(WINDOW, old.size) + 2 * MARGIN);
  }

  read(offset: number, target: Uint8Array): void {
    if (offset + target.length > this.size) throw outside(offset, target.length, this.size);
    for (let at = 0; at < target.length; ) {
      const position = offset + at;
      if (position < this.#from || position >= this.#to) this.#fill(position, target.length - at);
      const start = this.#skip + position - this.#from;
      const length = Math.min(target.length - at, this.#to - position);
      target.set(this.#buffer.subarray(start, start + length), at);
      at += length;
    }
  }

  #fill(position: number, wanted: number): void {
    const goesOn = position === this.#to && this.#to > 0;
    this.#window = Math.max(wanted, goesOn ? 2 * this.#window : FIRST_WINDOW);
    this.#window = Math.min(this.#window, WINDOW);
    // What is in the buffer until the read succeeds belongs to no place.
    this.#from = this.#to = 0;
    const to = Math.min(position + this.#window, this.size);
    const start = Math.max(0, position - MARGIN);
    const end = Math.min(to + MARGIN, this.size);
    const bytes = this.#buffer.subarray(0, end - start);
    this.#old.read(start, bytes);
    this.#rewrite(bytes);
    this.#skip = position - start;
    [this.#from, this.#to] = [position, to];
  }

  #rewrite(bytes: Buffer): void {
    if (this.#hashes.size === 0) return;
    for (let at = bytes.indexOf(PREFIX); at >= 0; at = bytes.indexOf(PREFIX, at)) {
      at += PREFIX.length;
      const hash = this.#hashes.get(bytes.toString('latin1', at, at + HASH_PART));
      // The slash that ends one may begin another.
      if (hash === undefined) at -= 1;
      else bytes.set(hash, at);
    }
  }
}

/** All of `old`, in pieces that are valid until the next is asked for. */
export function* readNar(old: OldNar): Generator<Uint8Array, void, undefined> {
  const buffer = Buffer.allocUnsafeSlow(Math.min(WINDOW, old.size));
  for (let at = 0; at < old.size; ) {
    const piece = buffer.subarray(0, Math.min(buffer.length, old.size - at));
    old.read(at, piece);
    yield piece;
    at += piece.length;
  }
}
