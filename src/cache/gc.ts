// Garbage collection of the cache, in small steps while builds, uploads and downloads go on. Rows first,
// referrers before what they refer to; then what belongs to none; then update packs, and what was made for them; then the NARs
// that no row has named for long enough; then files that nothing names. Each step leaves everything consistent, so a collection may be killed at any
// instant and the next one goes on.
import { setTimeout as sleep } from 'node:timers/promises';
import type { StorePath } from '../nix/storepath.ts';
import type { BlobId, BlobRef, Blobs } from '../storage/blobs.ts';
import type { State, SweepStep } from '../storage/state.ts';

export type Collection = {
  readonly state: State;
  readonly blobs: Blobs;
  /** Kept with all that they refer to. */
  readonly roots: readonly StorePath[];
  /** Paths used at this time or later are kept; times are POSIX seconds. */
  readonly usedSince: number;
  /** When the oldest build began that is going on: what nothing names yet may be its own. */
  readonly buildingSince: number;
  /** NARs that a row named at this time or later are kept. */
  readonly releasedSince: number;
  /** Packs are kept for steps to one of these closures from one of these bases, or from none. */
  readonly packs: { readonly closures: readonly BlobId[]; readonly bases: readonly BlobId[] };
  readonly now: number;
  /** Say what would go, and remove nothing. */
  readonly dryRun: boolean;
  readonly signal?: AbortSignal;
  /** Told of each path that goes. */
  readonly onPath?: (path: SweepStep['removed'][number]) => void;
};

export type Collected = {
  readonly paths: number;
  readonly narBytes: number;
  /** Files deleted, and their bytes. A dry run leaves out files that nothing names, and those of packs. */
  readonly blobs: number;
  readonly blobBytes: number;
};

/** Looked at in one transaction of a few milliseconds. */
const PATHS_PER_STEP = 200;
const NARS_PER_STEP = 200;
/** Others get to write between two steps. */
const BREATH_MS = 2;
/** How long an uploaded NAR waits for more narinfos once a row names it: a client sends them at once. */
const DESCRIBED_SECONDS = 86_400;
/** What was made for a pack may be part of the next. */
const SEGMENT_SECONDS = 7 * 86_400;
const PACKS_PER_STEP = 10;
/** A file that nothing names may be one whose row is about to come; an upload takes hours at most. */
const ORPHAN_SECONDS = 86_400;

/** @throws FleetError E_GC_INTERRUPTED, E_STATE_BUSY; the signal's reason when aborted. */
export async function collectGarbage(collection: Collection): Promise<Collected> {
  const { state, blobs, roots, usedSince, releasedSince, now, dryRun, onPath } = collection;
  const done = { paths: 0, narBytes: 0, blobs: 0, blobBytes: 0 };
  const pause = async (): Promise<void> => {
    collection.signal?.throwIfAborted();
    await sleep(BREATH_MS);
  };
  const count = ({ size }: BlobRef): void => {
    done.blobs += 1;
    done.blobBytes += size;
  };

  // Asked again for each: an upload or a build may have named what was nobody's a moment ago.
  const remove = ({ id }: BlobRef, putBefore: number): Promise<boolean> =>
    blobs.deleteOlder(id, putBefore, async () => (await state.namedBlobs([id])).size > 0);

  await state.beginSweep({ roots, cutoff: usedSince, dryRun });
  for (let step: SweepStep = { removed: [], done: false }; !step.done; await pause()) {
    step = await state.sweepPaths(PATHS_PER_STEP, now);
    for (const path of step.removed) {
      done.paths += 1;
      done.narBytes += path.narSize;
      onPath?.(path);
    }
  }

  if (dryRun) {
    for (const nar of await state.sweepNars(releasedSince, MANY, true)) count(nar);
    return done;
  }
  // First, so that a NAR that was uploaded long ago is not kept by that once more.
  const describedSince = now - DESCRIBED_SECONDS;
  while ((await state.sweepLeftovers(usedSince, describedSince, NARS_PER_STEP)) > 0) await pause();
  while ((await state.sweepPacks(collection.packs, now, PACKS_PER_STEP)) > 0) await pause();
  while ((await state.sweepSegments(now - SEGMENT_SECONDS, NARS_PER_STEP)) > 0) await pause();
  for (let nars: BlobRef[] = []; ; await pause()) {
    nars = await state.sweepNars(releasedSince, NARS_PER_STEP, false);
    // The row is gone: whoever puts such a NAR from now on makes its file anew, which then stays.
    for (const nar of nars) if (await remove(nar, now)) count(nar);
    if (nars.length < NARS_PER_STEP) break;
  }
  const putSince = Math.min(now - ORPHAN_SECONDS, collection.buildingSince);
  for await (const orphan of orphans(collection, putSince)) {
    if (await remove(orphan, putSince)) count(orphan);
  }
  return done;
}

const MANY = 1_000_000;

/** Blobs put before `time` that nothing in the state names: few of many, all of which are looked at. */
async function* orphans(
  { state, blobs, signal }: Pick<Collection, 'state' | 'blobs' | 'signal'>,
  time: number,
): AsyncGenerator<BlobRef> {
  let batch: BlobRef[] = [];
  const unnamed = async (): Promise<BlobRef[]> => {
    const named = await state.namedBlobs(batch.map(({ id }) => id));
    const found = batch.filter(({ id }) => !named.has(id));
    batch = [];
    return found;
  };
  for await (const { id, size, putAt } of blobs.list()) {
    signal?.throwIfAborted();
    if (putAt >= time) continue;
    batch.push({ id, size });
    if (batch.length >= NARS_PER_STEP) yield* await unnamed();
  }
  yield* await unnamed();
}
