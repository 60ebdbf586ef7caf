// The segments of a pack that are wanted: where they lie, how much of each is there, and who waits for it. A segment is there
// once its SHA-256 is right.
import { createHash, type Hash } from 'node:crypto';
import type { PackIndex } from '../delta/pack-index.ts';
import { FleetError } from '../errors.ts';
import type { PackStore } from './pack-store.ts';

export type WantedSegment = {
  readonly number: number;
  /** In the pack. */
  readonly start: number;
  readonly end: number;
  readonly sha256: string;
  /** Bytes that are there, and their digest. */
  have: number;
  hash: Hash;
  /** Whether some of them are from an earlier run, and may be what a power cut left. */
  isResumed: boolean;
  isOver: boolean;
  readonly there: PromiseWithResolvers<void>;
};

export class Segments {
  readonly #wanted: WantedSegment[] = [];
  readonly #byNumber: ReadonlyMap<number, WantedSegment>;

  /** `first`: where the first segment of the pack begins. */
  constructor({ segments }: PackIndex, numbers: readonly number[], first: number) {
    const isWanted = new Set(numbers);
    let start = first;
    for (const [number, { bytes, sha256 }] of segments.entries()) {
      const end = start + bytes;
      const there = Promise.withResolvers<void>();
      // Nobody may wait for it.
      there.promise.catch(() => {});
      const begun = { have: 0, hash: createHash('sha256'), isResumed: false, isOver: false };
      if (isWanted.has(number)) this.#wanted.push({ number, start, end, sha256, there, ...begun });
      start = end;
    }
    if (!Number.isSafeInteger(start)) throw bad('it has 2^53 bytes or more');
    this.#byNumber = new Map(this.#wanted.map((one) => [one.number, one]));
  }

  get(number: number): WantedSegment {
    const segment = this.#byNumber.get(number);
    if (segment === undefined) throw new RangeError(`segment ${number} is not wanted`);
    return segment;
  }

  /** The first that is not there. */
  get next(): WantedSegment | undefined {
    return this.#wanted.find(({ isOver }) => !isOver);
  }

  /** Bytes from the first to the last one that is wanted, without the holes between. */
  get bytes(): number {
    return this.#wanted.reduce((sum, { start, end }) => sum + end - start, 0);
  }

  /** How many of them are still to come. */
  get lacking(): number {
    return this.#wanted.reduce(
      (sum, { start, end, have, isOver }) => sum + (isOver ? 0 : end - start - have),
      0,
    );
  }

  /** Where a request that begins with `from` ends: before the next gap of `gap` bytes that are not wanted. */
  runFrom(from: WantedSegment, gap: number): number {
    let { end } = from;
    for (const one of this.#wanted) {
      if (one.start < end || one.isOver) continue;
      if (one.start - end >= gap) break;
      end = one.end;
    }
    return end;
  }

  /** Counts what an earlier run left. */
  async lookAgain(store: PackStore): Promise<void> {
    for (const segment of this.#wanted) {
      const { start, end } = segment;
      const there = Math.min(end, store.size);
      if (there <= start) continue;
      segment.isResumed = true;
      for await (const chunk of store.read(start, there)) this.add(segment, chunk);
    }
  }

  /** `bytes` of it came, and are in the store. */
  add(segment: WantedSegment, bytes: Uint8Array): void {
    segment.hash.update(bytes);
    segment.have += bytes.length;
    if (segment.start + segment.have < segment.end) return;
    if (segment.hash.digest('hex') === segment.sha256) {
      segment.isOver = true;
      segment.there.resolve();
    } else if (segment.isResumed) {
      Object.assign(segment, { have: 0, hash: createHash('sha256'), isResumed: false });
    } else {
      segment.isOver = true;
      segment.there.reject(bad(`segment ${segment.number} has another digest`));
    }
  }

  /** None comes any more. */
  end(error: unknown): void {
    for (const segment of this.#wanted) {
      if (segment.isOver) continue;
      segment.isOver = true;
      segment.there.reject(error);
    }
  }
}

function bad(what: string): FleetError {
  return new FleetError('E_PACK_BAD', `the update pack is malformed: ${what}`);
}
