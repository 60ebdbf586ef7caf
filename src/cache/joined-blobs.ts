// Blobs, one after another → one thing to be read at any place. One of them is open at a time: an answer of hundreds of them
// takes no more files than any other.
import { FleetError } from '../errors.ts';
import type { BlobReader, BlobRef, Blobs } from '../storage/blobs.ts';

/** Reads of what has gone, or has another size by then, end before their time. */
export function joinBlobs(parts: readonly BlobRef[], blobs: Pick<Blobs, 'open'>): BlobReader {
  return new JoinedBlobs(parts, blobs);
}

class JoinedBlobs implements BlobReader {
  readonly size: number;
  readonly #parts: readonly BlobRef[];
  /** Where each part begins. */
  readonly #starts: readonly number[];
  readonly #blobs: Pick<Blobs, 'open'>;
  #open: { readonly place: number; readonly reader: BlobReader } | null = null;

  constructor(parts: readonly BlobRef[], blobs: Pick<Blobs, 'open'>) {
    let size = 0;
    this.#starts = parts.map((part) => {
      size += part.size;
      return size - part.size;
    });
    this.size = size;
    this.#parts = parts;
    this.#blobs = blobs;
  }

  async read(target: Uint8Array, position: number): Promise<number> {
    let filled = 0;
    while (filled < target.length && position + filled < this.size) {
      const at = position + filled;
      const place = this.#placeOf(at);
      const reader = await this.#reader(place);
      const start = this.#starts[place] ?? 0;
      const left = start + reader.size - at;
      const got = await reader.read(target.subarray(filled, filled + left), at - start);
      if (got === 0) break;
      filled += got;
    }
    return filled;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#open?.reader[Symbol.asyncDispose]();
    this.#open = null;
  }

  /** The last part that begins at `position` or before. */
  #placeOf(position: number): number {
    let [low, high] = [0, this.#starts.length - 1];
    while (low < high) {
      const middle = Math.ceil((low + high) / 2);
      if ((this.#starts[middle] ?? 0) <= position) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  async #reader(place: number): Promise<BlobReader> {
    if (this.#open?.place === place) return this.#open.reader;
    await this[Symbol.asyncDispose]();
    const part = this.#parts[place];
    const reader = part === undefined ? null : await this.#blobs.open(part.id);
    if (reader === null || reader.size !== part?.size) {
      await reader?.[Symbol.asyncDispose]();
      throw new FleetError('E_CACHE_INCOMPLETE', 'bytes went while they were sent');
    }
    this.#open = { place, reader };
    return reader;
  }
}
