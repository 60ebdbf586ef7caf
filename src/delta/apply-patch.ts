// A patch and the old NAR, rewritten → the new NAR (SPEC §12.5). A block at a time, whose streams are unpacked to the lengths that it said
// and that are checked before; so memory is bounded by five blocks, whatever comes. The result is compared with closure.fp by whoever asked.
import { constants, zstdDecompressSync } from 'node:zlib';
import { messageOf } from '../errors.ts';
import type { OldNar } from './old-nar.ts';
import {
  badPatch,
  MAX_BLOCK,
  NumberReader,
  packedBound,
  STREAM_ROOM,
  STREAMS,
  unzigzag,
} from './patch-format.ts';

/** Of the new NAR, handed on at a time. */
const PIECE = 128 * 1024;
/** Ten numbers. */
const MAX_BLOCK_HEAD = 80;

/**
 * Pieces are valid until the next is asked for.
 * @throws FleetError E_PATCH_BAD; or what `patch` and `old` throw
 */
export async function* applyPatch(
  old: OldNar,
  patch: AsyncIterable<Uint8Array>,
): AsyncGenerator<Uint8Array, void, undefined> {
  const input = new Input(patch);
  try {
    let made = 0;
    while (await input.has(1)) {
      const head = await readHead(input);
      const streams: Uint8Array[] = [];
      for (const { packed, unpacked } of head.streams) {
        streams.push(unpack(await input.take(packed), unpacked));
      }
      yield* applyBlock(old, made, head.length, streams);
      made += head.length;
    }
  } finally {
    await input.close();
  }
}

type StreamHead = { readonly unpacked: number; readonly packed: number };

async function readHead(
  input: Input,
): Promise<{ readonly length: number; readonly streams: readonly StreamHead[] }> {
  const numbers: number[] = [];
  let bytes = 0;
  while (numbers.length < 1 + 2 * STREAMS) {
    const number: number[] = [];
    for (let byte = 128; byte >= 128; number.push(byte)) {
      [byte = 0] = await input.take(1);
      if (++bytes > MAX_BLOCK_HEAD) throw badPatch('a block begins with too large numbers');
    }
    numbers.push(new NumberReader(Uint8Array.from(number)).next());
  }
  const [length = 0, ...sizes] = numbers;
  if (length === 0 || length > MAX_BLOCK) throw badPatch(`a block of ${length} bytes`);
  const streams = Array.from({ length: STREAMS }, (_, i) => {
    const [unpacked = 0, packed = 0] = sizes.slice(2 * i);
    const isPossible =
      unpacked <= length + STREAM_ROOM &&
      packed <= packedBound(unpacked) &&
      (packed === 0) === (unpacked === 0);
    if (!isPossible) throw badPatch(`a stream of ${unpacked} bytes, packed ${packed}`);
    return { unpacked, packed };
  });
  return { length, streams };
}

function unpack(packed: Uint8Array, size: number): Uint8Array {
  if (size === 0) return packed;
  try {
    const bytes = zstdDecompressSync(packed, {
      // In one piece; a bomb ends there.
      chunkSize: Math.max(size, 64),
      maxOutputLength: size,
      rejectGarbageAfterEnd: true,
      params: { [constants.ZSTD_d_windowLogMax]: 24 },
    });
    if (bytes.length === size) return bytes;
  } catch (error) {
    throw badPatch(messageOf(error), error);
  }
  throw badPatch('a stream is shorter than it said');
}

function* applyBlock(
  old: OldNar,
  made: number,
  length: number,
  [copies = EMPTY, gaps = EMPTY, values = EMPTY, literals = EMPTY]: readonly Uint8Array[],
): Generator<Uint8Array, void, undefined> {
  const differences = new Differences(gaps, values);
  const numbers = new NumberReader(copies);
  let literal = 0;
  let left = length;
  let source = made;
  const buffer = Buffer.allocUnsafeSlow(Math.min(PIECE, length) + 1);
  let held = 0;
  const room = () => buffer.length - 1 - held;
  while (!numbers.isAtEnd) {
    const [fresh, copied] = [numbers.next(), numbers.next()];
    if (fresh + copied > left || literal + fresh > literals.length) {
      throw badPatch('more bytes than it said');
    }
    left -= fresh + copied;
    for (let todo = fresh; todo > 0; ) {
      const count = Math.min(todo, room());
      buffer.set(literals.subarray(literal, literal + count), held);
      literal += count;
      held += count;
      todo -= count;
      if (room() === 0) {
        yield buffer.subarray(0, held);
        held = 0;
      }
    }
    if (copied === 0) continue;
    const where = numbers.next();
    const shift = where % 2 === 0 ? 0 : numbers.next();
    if (shift > 7 || (shift === 0 && where % 2 === 1)) throw badPatch('a shift of no bits');
    source += unzigzag(Math.floor(where / 2));
    if (source < 0) throw badPatch('it copies from before the beginning');
    for (let todo = copied; todo > 0; ) {
      const count = Math.min(todo, room());
      // With a shift one byte more is read, for which there is room.
      const piece = buffer.subarray(held, held + count + (shift === 0 ? 0 : 1));
      old.read(source, piece);
      if (shift > 0) shiftBits(piece, shift);
      differences.apply(piece.subarray(0, count));
      source += count;
      held += count;
      todo -= count;
      if (room() === 0) {
        yield buffer.subarray(0, held);
        held = 0;
      }
    }
  }
  if (left > 0 || literal < literals.length || !differences.areUsed) {
    throw badPatch('less bytes than it said');
  }
  if (held > 0) yield buffer.subarray(0, held);
}

const EMPTY = new Uint8Array();

/** Every byte but the last. */
function shiftBits(bytes: Uint8Array, shift: number): void {
  for (let i = 0; i + 1 < bytes.length; i++) {
    bytes[i] = ((bytes[i] ?? 0) >> shift) | ((bytes[i + 1] ?? 0) << (8 - shift));
  }
}

/** Where copied bytes differ, and by what. */
class Differences {
  readonly #gaps: NumberReader;
  readonly #values: Uint8Array;
  #used = 0;
  /** Copied bytes until the next difference; null after the last. */
  #until: number | null = null;

  constructor(gaps: Uint8Array, values: Uint8Array) {
    this.#gaps = new NumberReader(gaps);
    this.#values = values;
    this.#advance();
  }

  get areUsed(): boolean {
    return this.#until === null && this.#used === this.#values.length;
  }

  apply(copied: Uint8Array): void {
    let at = 0;
    while (this.#until !== null && at + this.#until < copied.length) {
      at += this.#until;
      const value = this.#values[this.#used++];
      if (value === undefined) throw badPatch('a difference without its value');
      copied[at] = (copied[at] ?? 0) + value;
      at += 1;
      this.#advance();
    }
    if (this.#until !== null) this.#until -= copied.length - at;
  }

  #advance(): void {
    this.#until = this.#gaps.isAtEnd ? null : this.#gaps.next();
  }
}

/** Chunks, taken in other pieces than they come in. */
class Input {
  readonly #chunks: AsyncIterator<Uint8Array>;
  #held: Uint8Array = EMPTY;

  constructor(chunks: AsyncIterable<Uint8Array>) {
    this.#chunks = chunks[Symbol.asyncIterator]();
  }

  /** Whether as many bytes are left; false only at the very end. */
  async has(bytes: number): Promise<boolean> {
    while (this.#held.length < bytes) {
      const next = await this.#chunks.next();
      if (next.done === true) {
        if (this.#held.length > 0) throw badPatch('it is cut off');
        return false;
      }
      // A copy, as the producer may use its chunk again; and mostly there is nothing to add it to.
      this.#held = Buffer.concat([this.#held, next.value]);
    }
    return true;
  }

  /** Valid for good. */
  async take(bytes: number): Promise<Uint8Array> {
    if (bytes > 0 && !(await this.has(bytes))) throw badPatch('it is cut off');
    const taken = this.#held.subarray(0, bytes);
    this.#held = this.#held.subarray(bytes);
    return taken;
  }

  async close(): Promise<void> {
    await this.#chunks.return?.();
  }
}
