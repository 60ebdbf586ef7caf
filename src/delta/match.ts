// Where the bytes of a new NAR come from in an old one: runs that are the same but for a few bytes, as in code whose addresses moved
// (the idea of bsdiff; Percival 2003), found by a table of the old one's 12-byte seeds instead of a suffix array, in time linear in the bytes.

/** Bytes `[from, to)` of the new block are, but for some of them, those from `source` on, shifted by `shift` bits. */
export type Run = {
  readonly from: number;
  readonly to: number;
  readonly source: number;
  readonly shift: number;
};

export const SEED = 12;
/** A place in the old one that is not where the last run went on must have as much in common. */
const LEAST_JUMP = 16;
/** Where the last run would go on, less is enough. */
const LEAST_STAY = 8;
/** A run goes on over bytes that differ while it has this many more the same than not. */
const PATIENCE = 8;
const MAX_BITS = 24;

/** Old bytes that can be looked up. At most 64 MiB, which take as much again. */
export class OldBytes {
  readonly bytes: Uint8Array;
  readonly #buffer: Buffer;
  readonly #table: Int32Array;
  readonly #drop: number;

  constructor(bytes: Uint8Array) {
    this.bytes = bytes;
    this.#buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
    // Every place while they fit; then every second, or fourth.
    const step = 2 ** Math.max(0, Math.ceil(Math.log2(bytes.length / 2 ** MAX_BITS)));
    const bits = Math.min(MAX_BITS, Math.max(8, Math.ceil(Math.log2(bytes.length / step + 1)) + 1));
    this.#drop = 32 - bits;
    this.#table = new Int32Array(2 ** bits).fill(-1);
    for (let at = 0; at + SEED <= bytes.length; at += step) {
      this.#table[seedOf(bytes, at) >>> this.#drop] = at;
    }
  }

  /** The last place that may begin like `bytes` at `at`, or -1. */
  find(bytes: Uint8Array, at: number): number {
    return this.#table[seedOf(bytes, at) >>> this.#drop] ?? -1;
  }

  /** How many bytes are the same from `at` of `other` and `place` on. */
  same(other: Uint8Array, at: number, place: number): number {
    const most = Math.min(other.length - at, this.bytes.length - place);
    let same = 0;
    while (same < most && same < 32) {
      if (other[at + same] !== this.bytes[place + same]) return same;
      same++;
    }
    for (let step = 256; same < most; ) {
      const count = Math.min(step, most - same);
      const [from, start] = [place + same, at + same];
      if (this.#buffer.compare(other, start, start + count, from, from + count) === 0) {
        same += count;
        step = Math.min(step * 2, 2 ** 20);
      } else if (count <= 64) {
        while (same < most && other[at + same] === this.bytes[place + same]) same++;
        return same;
      } else step = Math.max(64, count >> 2);
    }
    return same;
  }
}

/** Runs of `block`, in order, none over another. `expected`: where its beginning is likely to come from. */
export function findRuns(old: OldBytes, block: Uint8Array, expected: number): Run[] {
  const runs: Run[] = [];
  let drift = expected;
  let free = 0;
  for (let at = 0; at < block.length; ) {
    const place = bestPlace(old, block, at, drift);
    if (place < 0) {
      at++;
      continue;
    }
    const run = extended(old, block, { at, place, free });
    runs.push(run);
    drift = run.source - run.from;
    at = free = run.to;
  }
  return runs;
}

function bestPlace(old: OldBytes, bytes: Uint8Array, at: number, drift: number): number {
  const ahead = at + drift;
  let [best, place] = [0, -1];
  if (ahead >= 0 && ahead < old.bytes.length && old.bytes[ahead] === bytes[at]) {
    const same = old.same(bytes, at, ahead);
    if (same >= LEAST_STAY) [best, place] = [same, ahead];
  }
  if (best < 2 * LEAST_JUMP && at + SEED <= bytes.length) {
    const other = old.find(bytes, at);
    if (other >= 0) {
      const same = old.same(bytes, at, other);
      if (same >= LEAST_JUMP && (place < 0 || same > best + LEAST_STAY)) place = other;
    }
  }
  return place;
}

function extended(
  old: OldBytes,
  bytes: Uint8Array,
  { at, place, free }: { readonly at: number; readonly place: number; readonly free: number },
): Run {
  const drift = place - at;
  const first = Math.max(free, -drift);
  const end = Math.min(bytes.length, old.bytes.length - drift);
  let to = at + old.same(bytes, at, place);
  for (let more = 1; more > 0; ) {
    more = worthwhile(old.bytes, bytes, { at: to, drift, step: 1, limit: end });
    to += more;
    if (more >= 2 * PATIENCE) to += to < end ? old.same(bytes, to, to + drift) : 0;
  }
  const back = worthwhile(old.bytes, bytes, { at: at - 1, drift, step: -1, limit: first - 1 });
  const from = at - back;
  return { from, to, source: from + drift, shift: 0 };
}

/** How many more bytes, some of which differ, are worth taking: as many as the same ones outweigh the others most clearly. */
function worthwhile(
  old: Uint8Array,
  bytes: Uint8Array,
  way: {
    readonly at: number;
    readonly drift: number;
    readonly step: 1 | -1;
    readonly limit: number;
  },
): number {
  const { drift, step, limit } = way;
  let [score, best, taken] = [0, 0, 0];
  for (let at = way.at, count = 1; at !== limit; at += step, count++) {
    if (bytes[at] === old[at + drift]) {
      score++;
      if (score > best) {
        best = score;
        taken = count;
        if (step === 1 && best >= 2 * PATIENCE) break;
      }
    } else if (--score < -PATIENCE) break;
  }
  return step === 1 && best < PATIENCE / 2 ? 0 : taken;
}

/** The 12 bytes at `at`, mixed: 32 bits. */
function seedOf(bytes: Uint8Array, at: number): number {
  return seedOfWords(wordAt(bytes, at), wordAt(bytes, at + 4), wordAt(bytes, at + 8));
}

export function seedOfWords(x: number, y: number, z: number): number {
  const mixed = Math.imul(x, 0x9e3779b1) ^ Math.imul(y, 0x85ebca6b) ^ Math.imul(z, 0xc2b2ae35);
  return Math.imul(mixed ^ (mixed >>> 15), 0x2c1b3c6d) >>> 0;
}

/** Four bytes, little-endian, as a signed number. */
export function wordAt(bytes: Uint8Array, at: number): number {
  return (
    (bytes[at] ?? 0) |
    ((bytes[at + 1] ?? 0) << 8) |
    ((bytes[at + 2] ?? 0) << 16) |
    ((bytes[at + 3] ?? 0) << 24)
  );
}
