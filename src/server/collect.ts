// One garbage collection of a state directory, by its retention policy: by hand (`fleet cache gc`), or
// every so often inside `fleet serve`. One at a time; a second one is told so.
import { setTimeout as sleep } from 'node:timers/promises';
import { type Collected, type Collection, collectGarbage } from '../cache/gc.ts';
import { tryLockFile } from '../storage/lease.ts';
import { openGcRoots } from './gcroots.ts';
import { keptPacks, type RetentionRoot, retentionRoots } from './retention.ts';
import type { StateDir } from './statedir.ts';

const DAY = 86_400;
/** A server that is restarted again and again still gets to it. */
const FIRST_AFTER_MS = 60_000;

export type CollectOptions = Pick<Collection, 'dryRun' | 'onPath'> & {
  readonly signal?: AbortSignal;
  /** POSIX seconds; the system's clock where absent. */
  readonly now?: number;
};

export type CollectResult = Collected & {
  readonly roots: readonly RetentionRoot[];
  /** Links to built systems that the box's own Nix need no longer keep. */
  readonly releasedLinks: number;
};

/** @returns null when another collection is under way. */
export async function collect(
  dir: StateDir,
  { dryRun, onPath, signal, now = Math.floor(Date.now() / 1000) }: CollectOptions,
): Promise<CollectResult | null> {
  using lock = tryLockFile(dir.layout.gcLock);
  if (lock === null) return null;
  const { keepManifests, keepUnusedDays, keepNarDays, packs } = dir.config;
  await using gcroots = await openGcRoots(dir.layout.gcroots);
  // Before what is kept is looked up: a publication that begins after it has a higher number.
  const lastFence = (await dir.state.leaseHolder())?.fence ?? 0;
  // What a build that is still going on has stored is not told to anybody yet. One that has ended by now was told
  // what is looked up next.
  const buildingSince = await gcroots.oldestBuild();
  const roots = await retentionRoots(dir.state, keepManifests);
  const packsOf = packs ? await keptPacks(dir.state, keepManifests) : { closures: [], bases: [] };
  const usedSince = Math.min(now - keepUnusedDays * DAY, buildingSince);
  const collected = await collectGarbage({
    state: dir.state,
    blobs: dir.blobs,
    roots: roots.map(({ path }) => path),
    usedSince,
    buildingSince,
    packs: packsOf,
    // Of a NAR that is released now, the time has come when it is not to be kept at all.
    releasedSince: now - keepNarDays * DAY + (keepNarDays === 0 ? 1 : 0),
    now,
    dryRun,
    ...(onPath === undefined ? {} : { onPath }),
    ...(signal === undefined ? {} : { signal }),
  });
  if (dryRun) return { ...collected, roots, releasedLinks: 0 };
  const kept = new Set(roots.map(({ path }) => path));
  return { ...collected, roots, releasedLinks: await gcroots.release(kept, lastFence) };
}

/** Collects every `gcHours` until `signal` is aborted. Trouble is told and tried again the next time. */
export async function collectRegularly(
  dir: StateDir,
  signal: AbortSignal,
  told: {
    readonly onDone: (result: CollectResult) => void;
    readonly onError: (error: unknown) => void;
  },
  firstAfter: number = FIRST_AFTER_MS,
): Promise<void> {
  const { gcHours } = dir.config;
  if (gcHours === 0) return;
  for (let wait = firstAfter; ; wait = gcHours * 3_600_000) {
    try {
      await sleep(wait, undefined, { signal, ref: false });
    } catch {
      return;
    }
    try {
      const result = await collect(dir, { dryRun: false, signal });
      if (result !== null) told.onDone(result);
    } catch (error) {
      if (signal.aborted) return;
      told.onError(error);
    }
  }
}
