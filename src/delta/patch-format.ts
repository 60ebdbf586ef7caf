// The numbers of a patch (SPEC §12.5): unsigned LEB128 of at most 53 bits, and its limits.
import { FleetError } from '../errors.ts';

/** A block makes at most this many bytes. */
export const MAX_BLOCK = 2 ** 23;
/** A stream of a block has at most this many bytes more than the block makes. */
export const STREAM_ROOM = 16;
/** copies, gaps, values, literals. */
export const STREAMS = 4;
/** zstd's worst case. */
export const packedBound = (bytes: number): number => bytes + Math.ceil(bytes / 128) + 1024;

const MAX_NUMBER = 8;

/** Grows as numbers are added. */
export class NumberWriter {
  #buffer = Buffer.allocUnsafeSlow(1024);
  #length = 0;

  get bytes(): Buffer {
    return this.#buffer.subarray(0, this.#length);
  }

  clear(): void {
    this.#length = 0;
  }

  /** `value`: an integer from 0 to 2^53 - 1. */
  add(value: number): void {
    if (this.#length + MAX_NUMBER > this.#buffer.length) {
      const larger = Buffer.allocUnsafeSlow(this.#buffer.length * 2);
      larger.set(this.bytes);
      this.#buffer = larger;
    }
    let rest = value;
    while (rest >= 128) {
      this.#buffer[this.#length++] = (rest % 128) + 128;
      rest = Math.floor(rest / 128);
    }
    this.#buffer[this.#length++] = rest;
  }
}

/** Reads numbers from bytes that are all there. */
export class NumberReader {
  readonly #bytes: Uint8Array;
  #at = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  get isAtEnd(): boolean {
    return this.#at === this.#bytes.length;
  }

  /** @throws FleetError E_PATCH_BAD at the end, and for a number that is too large. */
  next(): number {
    let value = 0;
    for (let scale = 1, count = 0; count < MAX_NUMBER; count++, scale *= 128) {
      const byte = this.#bytes[this.#at++];
      if (byte === undefined) throw badPatch('a number is cut off');
      value += (byte & 127) * scale;
      if (byte < 128) {
        if (!Number.isSafeInteger(value)) break;
        return value;
      }
    }
    throw badPatch('a number is too large');
  }
}

/** 0, -1, 1, -2, … → 0, 1, 2, 3, … */
export function zigzag(value: number): number {
  return value < 0 ? -2 * value - 1 : 2 * value;
}

export function unzigzag(value: number): number {
  return value % 2 === 0 ? value / 2 : -(value + 1) / 2;
}

/** The byte that begins `shift` bits (0 to 7) after the beginning of `low`, which `high` follows. */
export function shiftedByte(low: number, high: number, shift: number): number {
  return ((low >> shift) | (high << (8 - shift))) & 255;
}

export function badPatch(what: string, cause?: unknown): FleetError {
  return new FleetError('E_PATCH_BAD', `the patch is malformed: ${what}`, { cause });
}
