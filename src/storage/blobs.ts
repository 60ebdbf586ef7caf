// Content-addressed bytes: compressed NARs and closure files, named by the SHA-256 of what is stored.
// One of the two doors behind which the server keeps things (the other is State); files today,
// S3-compatible storage later. What is behind a name never changes.
import { createHash } from 'node:crypto';
import type { Readable } from 'node:stream';

/** SHA-256 of a blob's bytes, 64 lowercase hex digits. */
export type BlobId = string & { readonly __brand: 'BlobId' };

/** Returns `text` as a BlobId, or null when it is not 64 lowercase hex digits. */
export function parseBlobId(text: string): BlobId | null {
  return /^[0-9a-f]{64}$/.test(text) ? (text as BlobId) : null;
}

/** The name that `bytes` have as a blob. */
export function blobIdOf(bytes: Uint8Array): BlobId {
  return createHash('sha256').update(bytes).digest('hex') as BlobId;
}

/** What a stored blob is: its name and its length in bytes. */
export type BlobRef = { readonly id: BlobId; readonly size: number };

/** An open blob. Its bytes stay readable until it is disposed of, also when it is deleted meanwhile. */
export type BlobReader = AsyncDisposable & {
  readonly size: number;
  /** Fills `target` from `position` on; returns how many bytes, 0 only at the end. */
  read(target: Uint8Array, position: number): Promise<number>;
};

/** A half-open range of bytes: `start` included, `end` excluded. */
export type ByteRange = { readonly start: number; readonly end: number };

export interface Blobs {
  /**
   * Stores all of `chunks` and returns its name. Once the promise is fulfilled the bytes survive a
   * power cut. A blob of that name that is there already is replaced, so a damaged one is healed.
   * A chunk may be reused by its producer as soon as the next one is asked for.
   * @throws FleetError E_DISK_FULL; or what `chunks` throws. Then nothing is left behind.
   */
  put(chunks: AsyncIterable<Uint8Array> | Iterable<Uint8Array>): Promise<BlobRef>;
  /** The blob's length in bytes, or null when there is none. */
  size(id: BlobId): Promise<number | null>;
  /** As `size`, without waiting: null also where it would have to be looked up. */
  knownSize(id: BlobId): number | null;
  /** Streams the blob, or a range of it that lies within; null when there is none. */
  get(id: BlobId, range?: ByteRange): Promise<Readable | null>;
  /** Opens a blob for reading at many places with the caller's buffers; null when there is none. */
  open(id: BlobId): Promise<BlobReader | null>;
  /** The file that a thread of this process reads a blob from; it need not be there. */
  fileOf(id: BlobId): string;
  /** Removes a blob; it is no error when there is none. */
  delete(id: BlobId): Promise<void>;
  /**
   * Removes a blob that was last put before `time` (POSIX seconds), and only then, also when somebody
   * puts it at this moment; returns whether it was removed. `isNamed` is asked once nobody can open the
   * blob any more, and keeps it: whoever names a blob and finds it there afterwards has it for good.
   */
  deleteOlder(id: BlobId, time: number, isNamed?: () => Promise<boolean>): Promise<boolean>;
  /**
   * Takes a blob out of service and keeps its bytes aside for a person to look at; returns whether it did.
   * `isFine` is given the bytes once nobody can replace them any more: somebody may have put them anew
   * since they were found damaged. Then they are put back.
   */
  quarantine(id: BlobId, isFine?: (bytes: Readable) => Promise<boolean>): Promise<boolean>;
  /** Every blob there is and when it was put (POSIX seconds), in no particular order. */
  list(): AsyncIterable<BlobRef & { readonly putAt: number }>;
}
