// A patch and the old NAR, rewritten → the new NAR (SPEC §12.5). A block at a time, whose streams are unpacked to the lengths that it said
// and that are checked before; so memory is bounded by five blocks, whatever comes. The result is compared with closure.fp by whoever asked.
import { setImmediate as nextTurn } from 'node:timers/promises';
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
  shiftedByte,
  unzigzag,
} from './patch-format.ts';
import { PatchInput } from './patch-input.ts';

/** Of the new NAR, handed on at a time. */
const PIECE = 128 * 1024;
/** How long the event loop may be kept waiting. */
const TURN_MS = 20;
/** Copies between two looks at the clock. */
const LOOK_EVERY = 16;
/** What a patch may take, and for each byte that it makes: small copies from far places can cost a disk a second each. */
const MOST_MS = 30_000;
const MOST_MS_PER_BYTE = 2000 / 2 ** 20;
/** Ten numbers. */
const MAX_BLOCK_HEAD = 80;

/**
 * Pieces are valid until the next is asked for. `memory`: bytes that the segment says; no block's streams take more, packed and unpacked
 * (some five blocks at most).
 * @throws FleetError E_PATCH_BAD; or what `patch` and `old` throw
 */
export async function* applyPatch(
  old: OldNar,
  patch: AsyncIterable<Uint8Array>,
  memory: number,
): AsyncGenerator<Uint8Array, void, undefined> {
  const input = new PatchInput(patch);
  try {
    let [made, given, spent] = [0, 0, 0];
    while (!(await input.isAtEnd())) {
      const head = await readHead(input);
      const bytes = head.streams.reduce((sum, one) => sum + one.unpacked + one.packed, 0);
      if (bytes > memory) throw badPatch(`a block of ${bytes} bytes, with memory for ${memory}`);
      const streams: Uint8Array[] = [];
      for (const { packed, unpacked } of head.streams) {
        streams.push(unpack(await input.take(packed), unpacked));
      }
      const pieces = applyBlock(old, made, head.length, streams);
      for (;;) {
        const began = performance.now();
        const { done, value } = pieces.next();
        spent += performance.now() - began;
        if (done === true) break;
        given += value.length;
        if (spent > MOST_MS + given * MOST_MS_PER_BYTE) throw badPatch('it takes too long');
        if (value.length > 0) yield value;
        else await nextTurn();
      }
      made += head.length;
    }
  } finally {
    await input.close();
  }
}

type StreamHead = { readonly unpacked: number; readonly packed: number };

async function readHead(
  input: PatchInput,
): Promise<{ readonly length: number; readonly streams: readonly StreamHead[] }> {
  const numbers: number[] = [];
  let bytes = 0;
  while (numbers.length < 1 + 2 * STREAMS) {
    const number: number[] = [];
    for (let byte = 128; byte >= 128; number.push(byte)) {
      byte = await input.byte();
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

/** An empty piece: others should have their turn. */
function* applyBlock(
  old: OldNar,
  made: number,
  length: number,
  [copies = EMPTY, gaps = EMPTY, values = EMPTY, literals = EMPTY]: readonly Uint8Array[],
): Generator<Uint8Array, void, undefined> {
  const differences = new Differences(gaps, values);
  const numbers = new NumberReader(copies);
  const output = new Output(length);
  let literal = 0;
  let left = length;
  let source = made;
  let turn = performance.now();
  for (let copy = 1; !numbers.isAtEnd; copy++) {
    if (copy % LOOK_EVERY === 0 && performance.now() - turn > TURN_MS) {
      yield EMPTY;
      turn = performance.now();
    }
    const [fresh, copied] = [numbers.next(), numbers.next()];
    if (fresh + copied > left || literal + fresh > literals.length) {
      throw badPatch('more bytes than it said');
    }
    left -= fresh + copied;
    for (const end = literal + fresh; literal < end; ) {
      const piece = output.next(end - literal);
      piece.set(literals.subarray(literal, literal + piece.length));
      literal += piece.length;
      yield* output.full();
    }
    if (copied === 0) continue;
    const where = numbers.next();
    const shift = where % 2 === 0 ? 0 : numbers.next();
    if (shift > 7 || (shift === 0 && where % 2 === 1)) throw badPatch('a shift of no bits');
    source += unzigzag(Math.floor(where / 2));
    if (source < 0) throw badPatch('it copies from before the beginning');
    differences.begin();
    for (const end = source + copied; source < end; ) {
      const piece = output.next(end - source);
      if (shift === 0) old.read(source, piece);
      else readShifted(old, source, piece, shift);
      differences.apply(piece);
      source += piece.length;
      yield* output.full();
    }
  }
  if (left > 0 || literal < literals.length || !differences.areUsed) {
    throw badPatch('less bytes than it said');
  }
  yield* output.rest();
}

const EMPTY = new Uint8Array();

/** Bytes of a block, filled in small pieces and handed on in large ones. */
class Output {
  readonly #buffer: Buffer;
  #held = 0;

  constructor(length: number) {
    this.#buffer = Buffer.allocUnsafeSlow(Math.min(PIECE, length));
  }

  /** Where the next bytes go, `most` of them or less. */
  next(most: number): Uint8Array {
    const from = this.#held;
    this.#held = Math.min(from + most, this.#buffer.length);
    return this.#buffer.subarray(from, this.#held);
  }

  *full(): Generator<Uint8Array, void, undefined> {
    if (this.#held === this.#buffer.length) yield* this.rest();
  }

  *rest(): Generator<Uint8Array, void, undefined> {
    const held = this.#held;
    this.#held = 0;
    if (held > 0) yield this.#buffer.subarray(0, held);
  }
}

function readShifted(old: OldNar, at: number, target: Uint8Array, shift: number): void {
  old.read(at, target);
  const last = new Uint8Array(1);
  old.read(at + target.length, last);
  for (let i = 0; i < target.length; i++) {
    const next = i + 1 < target.length ? target[i + 1] : last[0];
    target[i] = shiftedByte(target[i] ?? 0, next ?? 0, shift);
  }
}

/** Where copied bytes differ, and by what. */
class Differences {
  readonly #gaps: NumberReader;
  readonly #values: Uint8Array;
  #used = 0;
  /** Copied bytes until the next difference; infinite after the last. */
  #until = 0;
  #carry = 0;

  constructor(gaps: Uint8Array, values: Uint8Array) {
    this.#gaps = new NumberReader(gaps);
    this.#values = values;
    this.#advance();
  }

  get areUsed(): boolean {
    return this.#until === Number.POSITIVE_INFINITY && this.#used === this.#values.length;
  }

  /** At the beginning of a copy. */
  begin(): void {
    this.#carry = 0;
  }

  apply(copied: Uint8Array): void {
    for (let at = 0; ; at++) {
      if (this.#carry === 0) {
        const skipped = Math.min(this.#until, copied.length - at);
        at += skipped;
        this.#until -= skipped;
      }
      if (at === copied.length) return;
      let sum = (copied[at] ?? 0) + this.#carry;
      if (this.#until === 0) {
        sum += this.#value();
        this.#advance();
      } else this.#until -= 1;
      copied[at] = sum;
      this.#carry = sum > 255 ? 1 : sum < 0 ? -1 : 0;
    }
  }

  #value(): number {
    const value = this.#values[this.#used++];
    if (value === undefined) throw badPatch('a difference without its value');
    return value < 128 ? value : value - 256;
  }

  #advance(): void {
    this.#until = this.#gaps.isAtEnd ? Number.POSITIVE_INFINITY : this.#gaps.next();
  }
}
