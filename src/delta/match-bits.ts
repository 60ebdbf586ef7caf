// What was left of a block → runs that are old bytes at another bit: what is packed in bits (deflate, LLVM's bitcode) moves so. The seeds of what
// was left are put in a table, and the old bytes near where they should be are looked up in it at every bit but the whole ones.
import { type Run, SEED, seedOfWords, wordAt } from './match.ts';
import { shiftedByte } from './patch-format.ts';

/** Less is not worth it. */
const LEAST_LEFT = 96;
const LEAST_RUN = 20;
/** Of the old bytes that are looked at for one gap between runs. */
const MOST_OLD = 2 ** 20;
const AROUND = 2048;
/** A run goes on over bytes that differ while it has this many more the same than not. */
const PATIENCE = 8;
/** Every fourth old byte is enough to find a run by. */
const STEP = 4;
const MIX = 0x9e3779b1;

type Span = { readonly from: number; readonly to: number };

/**
 * `runs` of one block, in order, with shifted ones in between. `old`: a part of the old NAR, to whose beginning `source`s are
 * relative; `expected`: where in it the block's beginning should be.
 */
export function withShifted(
  old: Uint8Array,
  block: Uint8Array,
  runs: readonly Run[],
  expected: number,
): readonly Run[] {
  const left: Span[] = [];
  const near: Span[] = [];
  let [free, source] = [0, expected];
  for (const run of [...runs, null]) {
    const end = run?.from ?? block.length;
    if (end - free >= LEAST_LEFT) {
      left.push({ from: free, to: end });
      // After what came before it, and before what comes after it, which may be elsewhere.
      const reach = Math.min(end - free, MOST_OLD) + AROUND;
      near.push(within(old, source - AROUND, source + reach));
      if (run !== null) near.push(within(old, run.source - reach, run.source + AROUND));
    }
    if (run === null) break;
    free = run.to;
    source = run.source + run.to - run.from;
  }
  if (left.length === 0) return runs;
  const found = new Finder(old, block, left).find(merged(near));
  return [...runs, ...found].sort((a, b) => a.from - b.from);
}

class Finder {
  readonly #old: Uint8Array;
  readonly #block: Uint8Array;
  readonly #table: Int32Array;
  readonly #drop: number;
  /** Bits, 1 where a seed's first word may be in the table: most are not, and need no more looking. */
  readonly #first: Uint8Array;
  readonly #dropFirst: number;
  /** 1 for what has its run. */
  readonly #taken: Uint8Array;

  constructor(old: Uint8Array, block: Uint8Array, left: readonly Span[]) {
    this.#old = old;
    this.#block = block;
    this.#taken = new Uint8Array(block.length).fill(1);
    const bytes = left.reduce((sum, { from, to }) => sum + to - from, 0);
    const bits = Math.min(20, Math.ceil(Math.log2(bytes)) + 1);
    this.#drop = 32 - bits;
    this.#table = new Int32Array(2 ** bits).fill(-1);
    this.#dropFirst = this.#drop - 3;
    this.#first = new Uint8Array(2 ** (32 - this.#dropFirst) / 8);
    for (const { from, to } of left) {
      this.#taken.fill(0, from, to);
      for (let at = from; at + SEED <= to; at++) {
        const first = wordAt(block, at);
        const seed = seedOfWords(first, wordAt(block, at + 4), wordAt(block, at + 8));
        const bit = Math.imul(first, MIX) >>> this.#dropFirst;
        this.#first[bit >>> 3] = (this.#first[bit >>> 3] ?? 0) | (1 << (bit & 7));
        this.#table[seed >>> this.#drop] = at;
      }
    }
  }

  find(near: readonly Span[]): Run[] {
    const runs: Run[] = [];
    const [table, drop, first, dropFirst] = [this.#table, this.#drop, this.#first, this.#dropFirst];
    const [old, block, taken] = [this.#old, this.#block, this.#taken];
    for (const { from, to } of near) {
      for (let at = from; at + SEED < to; at += STEP) {
        const word = wordAt(old, at);
        const next = old[at + 4] ?? 0;
        if (word === 0 && next === 0) continue;
        for (let shift = 1; shift < 8; shift++) {
          const x = (word >>> shift) | (next << (32 - shift));
          const bit = Math.imul(x, MIX) >>> dropFirst;
          if (((first[bit >>> 3] ?? 0) & (1 << (bit & 7))) === 0) continue;
          const w1 = wordAt(old, at + 4);
          const w2 = wordAt(old, at + 8);
          const y = (w1 >>> shift) | (w2 << (32 - shift));
          const z = (w2 >>> shift) | ((old[at + 12] ?? 0) << (32 - shift));
          // Zeros and the like are at every bit and everywhere, and whole bytes have them.
          if (x === y && y === z) continue;
          const place = table[seedOfWords(x, y, z) >>> drop] ?? -1;
          if (place < 0 || wordAt(block, place) !== x || taken[place] === 1) continue;
          const run = this.#extended(place, at, shift);
          if (run === null) continue;
          runs.push(run);
          this.#taken.fill(1, run.from, run.to);
        }
      }
    }
    return runs;
  }

  #extended(place: number, at: number, shift: number): Run | null {
    const drift = at - place;
    const ahead = this.#worthwhile(place, drift, shift, 1);
    const back = this.#worthwhile(place - 1, drift, shift, -1);
    if (ahead + back < LEAST_RUN) return null;
    return { from: place - back, to: place + ahead, source: at - back, shift };
  }

  /** How many bytes, some of which differ, are worth taking. */
  #worthwhile(from: number, drift: number, shift: number, step: 1 | -1): number {
    const [old, block, taken] = [this.#old, this.#block, this.#taken];
    let [score, best, count] = [0, 0, 0];
    for (let at = from; taken[at] === 0; at += step) {
      const source = at + drift;
      if (source < 0 || source + 1 >= old.length) break;
      const byte = shiftedByte(old[source] ?? 0, old[source + 1] ?? 0, shift);
      if (byte === block[at]) {
        if (++score > best) {
          best = score;
          count = Math.abs(at - from) + 1;
        }
      } else if (--score < best - PATIENCE) break;
    }
    return count;
  }
}

function within(old: Uint8Array, from: number, to: number): Span {
  return { from: Math.max(0, from), to: Math.min(old.length, to) };
}

function merged(spans: readonly Span[]): Span[] {
  const all: { from: number; to: number }[] = [];
  for (const { from, to } of [...spans].sort((a, b) => a.from - b.from)) {
    const last = all.at(-1);
    if (last !== undefined && from <= last.to) last.to = Math.max(last.to, to);
    else all.push({ from, to });
  }
  return all;
}
