// What is stored, held against what the index says of it: bytes have the name that is their hash, unpack
// to a NAR of the hash and size that the narinfo vouches for, and everything referred to is there. What is
// wrong is taken out of service at once and kept aside; whoever calls may then store the path anew.
// Streamed, a few at a time; memory does not grow with what is checked.
import { createHash } from 'node:crypto';
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
    const missing = await missingReferences(chosen, state);
    await Promise.all(
      chosen.map(async (row) => {
        using _place = await gate.enter();
        signal?.throwIfAborted();
        const what = missing.get(row) ?? (row.blob === null ? null : await faultOf(row, blobs));
        checked += 1;
        onChecked?.(checked);
        if (what !== null) await onFault({ row, what });
      }),
    );
  }
}

/** What is wrong with the stored bytes of a row, or null. */
export async function faultOf(row: StoredPath, blobs: Blobs): Promise<string | null> {
  const size = await blobs.size(row.blob);
  if (size === null) return 'its NAR is not there';
  if (size !== row.blobSize) return `its NAR has ${size} bytes, not ${row.blobSize}`;
  const stream = await blobs.get(row.blob);
  if (stream === null) return 'its NAR is not there';
  const hash = createHash('sha256');
  const hashed = async function* (): AsyncGenerator<Uint8Array> {
    for await (const chunk of stream) {
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
  return hash.digest('hex') === row.blob ? null : 'its file is not what its name says';
}

/** Hash of a blob whose name says what it must be: whether it is. */
export async function isWhole(id: BlobId, blobs: Blobs): Promise<boolean> {
  const stream = await blobs.get(id);
  if (stream === null) return false;
  const hash = createHash('sha256');
  for await (const chunk of stream) hash.update(chunk as Uint8Array);
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
