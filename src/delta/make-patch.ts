// The old NAR, rewritten, and the new one → a patch (SPEC §12.5). Work for a thread of its own: up to a second per 10 MiB. Memory: a window of the old
// NAR of 64 MiB, as much for finding things in it, and some blocks; of a larger NAR the window goes along.
import { constants, zstdCompressSync } from 'node:zlib';
import { findRuns, OldBytes, type Run } from './match.ts';
import { withShifted } from './match-bits.ts';
import type { OldNar } from './old-nar.ts';
import { NumberWriter, packedBound, STREAM_ROOM, shiftedByte, zigzag } from './patch-format.ts';

/** Bytes of the new NAR at a time, at most MAX_BLOCK; and of the old one that are looked in. */
type Sizes = { readonly block: number; readonly window: number };
const SIZES: Sizes = { block: 8 * 1024 * 1024, window: 64 * 1024 * 1024 };
const LEVEL = 19;

/** Pieces are whole blocks. Returns how many bytes of memory applying the patch takes. Throws what `old` and `nar` throw. */
export async function* makePatch(
  old: OldNar,
  nar: AsyncIterable<Uint8Array>,
  sizes = SIZES,
): AsyncGenerator<Uint8Array, { memory: number }, undefined> {
  const window = new Window(old, sizes);
  const encoder = new BlockEncoder(sizes.block);
  let made = 0;
  let drift = 0;
  let memory = 0;
  for await (const block of blocksOf(nar, sizes.block)) {
    const { bytes, start } = window.around(made + drift, block.length);
    const expected = made + drift - start;
    const found = findRuns(bytes, block, expected);
    const runs = withShifted(bytes.bytes, block, found, expected);
    const encoded = encoder.encode(block, runs, { old: bytes.bytes, start, made });
    yield encoded.bytes;
    memory = Math.max(memory, encoded.memory);
    const last = runs.at(-1);
    if (last !== undefined) drift = start + last.source - last.from - made;
    made += block.length;
  }
  return { memory: memory + 1024 * 1024 };
}

/** `chunks` as blocks, all full but the last; each valid until the next is asked for. */
async function* blocksOf(
  chunks: AsyncIterable<Uint8Array>,
  size: number,
): AsyncGenerator<Uint8Array> {
  const block = Buffer.allocUnsafeSlow(size);
  let held = 0;
  for await (const chunk of chunks) {
    for (let at = 0; at < chunk.length; ) {
      const count = Math.min(chunk.length - at, size - held);
      block.set(chunk.subarray(at, at + count), held);
      held += count;
      at += count;
      if (held < size) continue;
      yield block;
      held = 0;
    }
  }
  if (held > 0) yield block.subarray(0, held);
}

/** The part of the old NAR in which things are looked for. */
class Window {
  readonly #old: OldNar;
  readonly #block: number;
  readonly #window: number;
  #start = 0;
  #bytes: OldBytes | null = null;

  constructor(old: OldNar, { block, window }: Sizes) {
    this.#old = old;
    this.#block = block;
    this.#window = window;
  }

  around(expected: number, length: number): { readonly bytes: OldBytes; readonly start: number } {
    const { size } = this.#old;
    const end = this.#start + (this.#bytes?.bytes.length ?? 0);
    const isNear =
      (expected - this.#block >= this.#start || this.#start === 0) &&
      (expected + length + this.#block <= end || end === size);
    if (this.#bytes === null || !isNear) {
      const most = Math.max(0, size - this.#window);
      // More of what comes than of what was.
      this.#start = Math.max(0, Math.min(Math.floor(expected - this.#window / 4), most));
      this.#bytes = null;
      const bytes = Buffer.allocUnsafeSlow(Math.min(this.#window, size));
      this.#old.read(this.#start, bytes);
      this.#bytes = new OldBytes(bytes);
    }
    return { bytes: this.#bytes, start: this.#start };
  }
}

/** `start`: where `old`, in which the runs' sources are, begins in its NAR; `made`: how many bytes came before the block. */
type Surroundings = { readonly old: Uint8Array; readonly start: number; readonly made: number };

class BlockEncoder {
  readonly #copies = new NumberWriter();
  readonly #gaps = new NumberWriter();
  readonly #values: Buffer;
  readonly #literals: Buffer;
  readonly #head = new NumberWriter();

  constructor(block: number) {
    this.#values = Buffer.allocUnsafeSlow(block);
    this.#literals = Buffer.allocUnsafeSlow(block);
  }

  encode(
    block: Uint8Array,
    runs: readonly Run[],
    surroundings: Surroundings,
  ): { readonly bytes: Uint8Array; readonly memory: number } {
    const streams = this.#streams(block, runs, surroundings);
    const packed = streams.map(pack);
    this.#head.clear();
    this.#head.add(block.length);
    for (const [i, stream] of streams.entries()) {
      this.#head.add(stream.length);
      this.#head.add(packed[i]?.length ?? 0);
    }
    const sum = [...streams, ...packed].reduce((bytes, { length }) => bytes + length, 0);
    return { bytes: Buffer.concat([this.#head.bytes, ...packed]), memory: sum };
  }

  #streams(
    block: Uint8Array,
    runs: readonly Run[],
    { old, start, made }: Surroundings,
  ): readonly Uint8Array[] {
    const [copies, gaps] = [this.#copies, this.#gaps];
    copies.clear();
    gaps.clear();
    let [values, literals, gap] = [0, 0, 0];
    let [done, source] = [0, made];
    const literal = (to: number): void => {
      this.#literals.set(block.subarray(done, to), literals);
      literals += to - done;
    };
    for (const run of runs) {
      copies.add(run.from - done);
      copies.add(run.to - run.from);
      const distance = zigzag(start + run.source - source);
      copies.add(distance * 2 + (run.shift === 0 ? 0 : 1));
      if (run.shift > 0) copies.add(run.shift);
      literal(run.from);
      let carry = 0;
      for (let at = run.from, from = run.source; at < run.to; at++, from++) {
        let sum = shiftedByte(old[from] ?? 0, old[from + 1] ?? 0, run.shift) + carry;
        if ((sum & 255) === block[at]) gap++;
        else {
          gaps.add(gap);
          gap = 0;
          const value = ((((block[at] ?? 0) - sum) & 255) ^ 128) - 128;
          this.#values[values++] = value;
          sum += value;
        }
        carry = sum > 255 ? 1 : sum < 0 ? -1 : 0;
      }
      done = run.to;
      source = start + run.source + run.to - run.from;
    }
    if (done < block.length) {
      copies.add(block.length - done);
      copies.add(0);
      literal(block.length);
    }
    const streams = [
      copies.bytes,
      gaps.bytes,
      this.#values.subarray(0, values),
      this.#literals.subarray(0, literals),
    ];
    const most = block.length + STREAM_ROOM;
    if (streams.every(({ length }) => length <= most)) return streams;
    // Nothing in common, and that in many places.
    copies.clear();
    copies.add(block.length);
    copies.add(0);
    return [copies.bytes, new Uint8Array(), new Uint8Array(), block];
  }
}

function pack(stream: Uint8Array): Uint8Array {
  if (stream.length === 0) return stream;
  return zstdCompressSync(stream, {
    pledgedSrcSize: stream.length,
    chunkSize: packedBound(stream.length),
    params: { [constants.ZSTD_c_compressionLevel]: LEVEL },
  });
}
