// What is stored, held against what the index says of it: bytes have the name that is their hash, unpack
// to a NAR of the hash and size that the narinfo vouches for, and everything referred to is there. What is
// wrong is looked at again, because collections, builds and uploads go on; whoever calls takes it out of
// service and may then store the path anew.
// Streamed, a few at a time; memory does not grow with what is checked.
import { createHash } from 'node:crypto';
import type { Readable } from 'node:stream';
import { isFleetError, messageOf } from '../errors.ts';
import { decompress } from '../nix/decompress.ts';
import { checkNar } from '../nix/nar-check.ts';
import { hashPartOf } from '../nix/storepath.ts';
import type { BlobId, Blobs } from '../storage/blobs.ts';
import type { CachedPath, State, StoredPath } from '../storage/state.ts';
import { Gate } from './gate.ts';

export type Fault = {
  readonly row: CachedPath;
  /** What is wrong, for people. */
  readonly what: string;
  readonly where: 'bytes' | 'references';
};

export type VerifyOptions = {
  readonly state: Pick<State, 'cachedPathsAfter' | 'cachedPathsByHash'>;
  readonly blobs: Blobs;
  /** Of every path this part is checked, 0 to 1; all when 1. */
  readonly part: number;
  readonly signal?: AbortSignal;
  readonly onChecked?: (checked: number) => void;
  /** 0 (included) to 1, as Math.random; tests set it. */
  readonly random?: () => number;
};

const PER_BATCH = 200;
/** Checked at a time: reading overlaps hashing. */
const PARALLEL = 3;

/** Calls `onFault` for each path that is wrong; returns how many were checked. */
export async function verifyCache(
  { state, blobs, part, signal, onChecked, random = Math.random }: VerifyOptions,
  onFault: (fault: Fault) => Promise<void>,
): Promise<number> {
  const gate = new Gate(PARALLEL);
  let checked = 0;
  for (let after = ''; ; ) {
    signal?.throwIfAborted();
    const rows = await state.cachedPathsAfter(after, PER_BATCH);
    const last = rows.at(-1);
    if (last === undefined) return checked;
    after = hashPartOf(last.path);
    const chosen = part >= 1 ? rows : rows.filter(() => random() < part);
    const lacking = await missingReferences(chosen, state);
    await Promise.all(
      chosen.map(async (row) => {
        using _place = await gate.enter();
        signal?.throwIfAborted();
        const isWrong = (await faultWith(row, lacking, blobs)) !== null;
        const fault = isWrong ? await lasting(hashPartOf(row.path), state, blobs) : null;
        checked += 1;
        onChecked?.(checked);
        if (fault !== null) await onFault(fault);
      }),
    );
  }
}

/**
 * The fault of a path as it is now, or null. The batch was read a while ago: the path may have gone since,
 * with its file or what it refers to, or have been stored anew. So it counts only where the row is the same
 * after the look as it was before.
 */
async function lasting(
  hashPart: string,
  state: VerifyOptions['state'],
  blobs: Blobs,
): Promise<Fault | null> {
  for (let last: Fault | null = null; ; ) {
    const [row] = await state.cachedPathsByHash([hashPart]);
    if (row === undefined) return null;
    if (last !== null && isSameRow(last.row, row)) return last;
    last = await faultWith(row, await missingReferences([row], state), blobs);
    if (last === null) return null;
  }
}

function isSameRow(a: CachedPath, b: CachedPath): boolean {
  return (
    a.path === b.path &&
    a.narHash === b.narHash &&
    a.blob === b.blob &&
    a.blobSize === b.blobSize &&
    a.references.join() === b.references.join()
  );
}

async function faultWith(
  row: CachedPath,
  lacking: ReadonlyMap<CachedPath, string>,
  blobs: Blobs,
): Promise<Fault | null> {
  const lack = lacking.get(row);
  if (lack !== undefined) return { row, what: lack, where: 'references' };
  const what = row.blob === null ? null : await faultOf(row, blobs);
  return what === null ? null : { row, what, where: 'bytes' };
}

/** What is wrong with the stored bytes of a row, or null. */
export async function faultOf(row: StoredPath, blobs: Blobs): Promise<string | null> {
  const size = await blobs.size(row.blob);
  if (size !== null && size !== row.blobSize) return wrongSize(size, row);
  const stream = await blobs.get(row.blob);
  return stream === null ? 'its NAR is not there' : await faultIn(stream, row);
}

function wrongSize(size: number, { blobSize }: StoredPath): string {
  return `its NAR has ${size} bytes, not ${blobSize}`;
}

/** What is wrong with `bytes` as the blob of a row, or null. */
export async function faultIn(bytes: Readable, row: StoredPath): Promise<string | null> {
  const hash = createHash('sha256');
  let size = 0;
  const hashed = async function* (): AsyncGenerator<Uint8Array> {
    for await (const chunk of bytes) {
      size += (chunk as Uint8Array).length;
      hash.update(chunk as Uint8Array);
      yield chunk as Uint8Array;
    }
  };
  try {
    for await (const _ of checkNar(decompress(hashed(), 'zstd', { windowLog: 27 }), row));
  } catch (error) {
    if (!isFleetError(error)) throw error;
    return messageOf(error);
  }
  if (size !== row.blobSize) return wrongSize(size, row);
  return hash.digest('hex') === row.blob ? null : 'its file is not what its name says';
}

/** Whether a blob is there, and what its name says. */
export async function isWhole(id: BlobId, blobs: Blobs): Promise<boolean> {
  const stream = await blobs.get(id);
  return stream !== null && (await isNamed(id, stream));
}

/** Whether `bytes` are what the name says. */
export async function isNamed(id: BlobId, bytes: Readable): Promise<boolean> {
  const hash = createHash('sha256');
  for await (const chunk of bytes) hash.update(chunk as Uint8Array);
  return hash.digest('hex') === id;
}

async function missingReferences(
  rows: readonly CachedPath[],
  state: Pick<State, 'cachedPathsByHash'>,
): Promise<Map<CachedPath, string>> {
  const wanted = new Set(rows.flatMap(({ references }) => references));
  const found = await state.cachedPathsByHash([...wanted].map(hashPartOf));
  for (const { path } of found) wanted.delete(path);
  const faults = new Map<CachedPath, string>();
  for (const row of rows) {
    const missing = row.references.find((path) => wanted.has(path));
    if (missing !== undefined) faults.set(row, `it refers to ${missing}, which is not here`);
  }
  return faults;
}
