// Store paths → compressed NARs in Blobs and rows in the index: bytes before index rows, references
// before referrers, each path once, several paths at a time. What is there already is not dumped
// again. A failure stops the rest, but what was finished by then is kept, so that the next run goes on
// from there.
// Many small paths are compressed by threads of their own (dump-pool.ts), few ones and large ones here.
// Memory: per path compressed at a time what compress.ts says, however large its NAR is, and what dump-pool.ts says.
import { availableParallelism } from 'node:os';
import type { PathInfo } from '../nix/closure.ts';
import { NarListing } from '../nix/nar-listing.ts';
import { STORE_DIR, type StorePath } from '../nix/storepath.ts';
import type { BlobRef, Blobs } from '../storage/blobs.ts';
import type { CachedPath, NarContents, NewPath, State, UpstreamPath } from '../storage/state.ts';
import { compressed } from './compress.ts';
import { type DumpPool, openDumpPool, WHOLE_NAR } from './dump-pool.ts';
import { Gate } from './gate.ts';
import { contentsOf } from './nar-contents.ts';
import { ReferenceOrder } from './reference-order.ts';
import { checkedDump } from './store-dump.ts';

export type IngestInfo = PathInfo & { readonly deriver: StorePath | null };

export type IngestProgress = {
  readonly paths: number;
  readonly totalPaths: number;
  readonly narBytes: number;
  readonly totalNarBytes: number;
};

export type IngestOptions = {
  readonly state: Pick<State, 'cachedPaths' | 'addCachedPaths' | 'touchPaths'>;
  readonly blobs: Blobs;
  /** Where the store's files really lie (default: /nix/store). */
  readonly storeDir?: string;
  /** zstd's, 1 to 19. */
  readonly level?: number;
  /** Asked which of the paths that are not there yet may be left to others, and where those have them. */
  readonly leftOut?: (
    infos: readonly IngestInfo[],
  ) => Promise<ReadonlyMap<StorePath, UpstreamPath>>;
  /** Told after each path that is done; reused ones count as done from the start. */
  readonly onProgress?: (progress: IngestProgress) => void;
  readonly signal?: AbortSignal;
};

/** `narBytes` and `blobBytes` are those of all paths, reused ones included. */
export type Ingested = {
  readonly ingested: number;
  readonly reused: number;
  /** Left to upstreams, now. */
  readonly upstream: number;
  readonly narBytes: number;
  readonly blobBytes: number;
};

const DEFAULT_LEVEL = 3;

// Large paths compressed at a time: one more than there are cores, as the main thread hashes while
// libuv's pool compresses, which has no more than four threads unless told otherwise.
const LANES = Math.min(availableParallelism() + 1, 6);

// Paths whose bytes are written and wait for the disk, besides those that are compressed: one
// commit of the file system's journal then serves many fsyncs.
const SETTLING = 24;
const ROWS_PER_BATCH = 64;
/** Fewer small paths are done before threads for them have started. */
export const WORTH_THREADS = 16;

/**
 * Makes every one of `infos` servable. A path that is served already stays as it is, also where the
 * store now has other bytes for it: `State.cachedPaths` says what is served.
 * @throws FleetError E_STORE_CORRUPT (the store's files are not what its database says),
 *   E_DISK_FULL, E_NAR_CHANGED, E_STATE_BUSY; the signal's reason when aborted.
 */
export async function ingestClosure(
  infos: readonly IngestInfo[],
  options: IngestOptions,
): Promise<Ingested> {
  const { state } = options;
  const wanted = new Map(infos.map((info) => [info.path, info]));
  const reused = await alreadyThere(wanted, options);
  const lacking = [...wanted.values()].filter((info) => !reused.has(info.path));
  const elsewhere = (await options.leftOut?.(lacking)) ?? new Map<StorePath, UpstreamPath>();
  const todo = lacking.filter((info) => !elsewhere.has(info.path));
  // The large first: the last ones to finish are then short.
  todo.sort((a, b) => b.narSize - a.narSize);

  const done = { paths: 0, narBytes: 0, blobBytes: 0 };
  const totals = {
    totalPaths: wanted.size,
    totalNarBytes: [...wanted.values()].reduce((sum, info) => sum + info.narSize, 0),
  };
  const count = (row: CachedPath): void => {
    done.paths += 1;
    done.narBytes += row.narSize;
    done.blobBytes += row.blobSize ?? 0;
    options.onProgress?.({ paths: done.paths, narBytes: done.narBytes, ...totals });
  };
  for (const row of reused.values()) count(row);

  let batch: NewPath[] = [];
  const store = async (): Promise<void> => {
    const rows = batch;
    batch = [];
    await state.addCachedPaths(rows, Math.floor(Date.now() / 1000));
  };
  try {
    const order = new ReferenceOrder<NewPath>(lacking.map((info) => info.path));
    for (const row of elsewhere.values()) {
      batch.push(...order.finish(row));
      count(row);
    }
    await eachPath(todo, options, async (row) => {
      batch.push(...order.finish(row));
      if (batch.length >= ROWS_PER_BATCH) await store();
      count(row);
    });
  } finally {
    // Also after a failure: these paths' blobs are durable.
    if (batch.length > 0) await store();
  }
  await requireStored(wanted, options);
  return {
    ingested: todo.length,
    reused: reused.size,
    upstream: elsewhere.size,
    narBytes: done.narBytes,
    blobBytes: done.blobBytes,
  };
}

/**
 * A garbage collection that was under way may have taken a NAR as nobody's after its file was written and
 * before its row was; one that keeps nothing unused, also paths that were there or came a while ago and that
 * nothing referred to yet. What is lost is stored again.
 */
async function requireStored(
  wanted: ReadonlyMap<StorePath, IngestInfo>,
  options: IngestOptions,
): Promise<void> {
  const { state, blobs } = options;
  const now = (): number => Math.floor(Date.now() / 1000);
  for (;;) {
    // Marked first: what is found after that stays.
    await state.touchPaths([...wanted.keys()], now());
    const rows = await state.cachedPaths([...wanted.keys()]);
    const lost = new Map(wanted);
    for (const { path, blob, blobSize } of rows) {
      if (blob === null || (await blobs.size(blob)) === blobSize) lost.delete(path);
    }
    if (lost.size === 0) return;
    const order = new ReferenceOrder<NewPath>(lost.keys());
    const again: NewPath[] = [];
    await eachPath([...lost.values()], options, async (row) => {
      again.push(...order.finish(row));
    });
    await state.addCachedPaths(again, now());
  }
}

/** What is served already, marked as used, so that no garbage collection takes it from now on. */
async function alreadyThere(
  wanted: ReadonlyMap<StorePath, IngestInfo>,
  options: IngestOptions,
): Promise<Map<StorePath, CachedPath>> {
  for (;;) {
    const found = await served(wanted, options);
    const now = Math.floor(Date.now() / 1000);
    // Fewer: some went between the question and the mark.
    if ((await options.state.touchPaths([...found.keys()], now)) === found.size) return found;
  }
}

async function served(
  wanted: ReadonlyMap<StorePath, IngestInfo>,
  { state, blobs }: IngestOptions,
): Promise<Map<StorePath, CachedPath>> {
  const found = new Map<StorePath, CachedPath>();
  const gate = new Gate(SETTLING);
  const rows = await state.cachedPaths([...wanted.keys()]);
  await Promise.all(
    rows.map(async (row) => {
      const info = wanted.get(row.path);
      if (info === undefined || !isAsGood(row, info)) return;
      using _place = await gate.enter();
      const isThere = row.blob === null || (await blobs.size(row.blob)) === row.blobSize;
      if (isThere) found.set(row.path, row);
    }),
  );
  return found;
}

// Not its hash: a path that this box built again with other bytes keeps those that were published
// first, which hosts may have. With other references it would no longer fit its closure.
function isAsGood(row: CachedPath, info: IngestInfo): boolean {
  return row.references.join() === info.references.join();
}

/** Calls `stored` for each of `todo` once its blob is durable; stops all of them at the first error. */
async function eachPath(
  todo: readonly IngestInfo[],
  { blobs, storeDir = STORE_DIR, level = DEFAULT_LEVEL, signal }: IngestOptions,
  stored: (row: NewPath) => Promise<void>,
): Promise<void> {
  const failure = new AbortController();
  const stop = signal === undefined ? failure.signal : AbortSignal.any([signal, failure.signal]);
  const isSmall = (info: IngestInfo): boolean => info.narSize <= WHOLE_NAR;
  await using pool =
    todo.filter(isSmall).length < WORTH_THREADS ? null : openDumpPool({ storeDir, level });
  const lanes = new Gate(LANES);
  const poolLanes = new Gate(pool?.width ?? 0);
  const settling = new Gate(Math.max(LANES, poolLanes.width) + SETTLING);

  const ingest = async (info: IngestInfo, by: DumpPool | null, lane: Disposable): Promise<void> => {
    using _lane = lane;
    let blob: BlobRef;
    let contents: NarContents;
    if (by !== null) {
      const dumped = await by.dump(info);
      lane[Symbol.dispose]();
      stop.throwIfAborted();
      blob = await blobs.put(freed(dumped.frame));
      contents = dumped.contents;
    } else {
      const listing = new NarListing();
      const nar = checkedDump(info, storeDir, (node) => listing.add(node));
      blob = await blobs.put(stoppable(compressed(nar, info.narSize, level), stop, lane));
      contents = await contentsOf(listing);
    }
    const { path, narHash, narSize, references, deriver } = info;
    await stored({
      path,
      narHash,
      narSize,
      references,
      deriver,
      sigs: [],
      ca: null,
      compression: 'zstd',
      blob: blob.id,
      blobSize: blob.size,
      upstream: null,
      contents,
    });
  };

  const running = new Set<Promise<void>>();
  for (const info of todo) {
    const place = await settling.enter();
    const by = isSmall(info) ? pool : null;
    const lane = await (by === null ? lanes : poolLanes).enter();
    if (stop.aborted) {
      lane[Symbol.dispose]();
      place[Symbol.dispose]();
      break;
    }
    const task = ingest(info, by, lane)
      .catch((error: unknown) => failure.abort(error))
      .finally(() => {
        running.delete(task);
        place[Symbol.dispose]();
      });
    running.add(task);
  }
  await Promise.all(running);
  stop.throwIfAborted();
}

/** Passes `chunks` on, and leaves the lane to the next path once the last of them is handed over. */
async function* stoppable(
  chunks: AsyncIterable<Uint8Array>,
  stop: AbortSignal,
  lane: Disposable,
): AsyncGenerator<Uint8Array> {
  for await (const chunk of chunks) {
    stop.throwIfAborted();
    yield chunk;
  }
  lane[Symbol.dispose]();
}

/** Passes `frame` on, and frees it once it is written: a collector would let them pile up. */
function* freed(frame: Uint8Array<ArrayBuffer>): Generator<Uint8Array> {
  yield frame;
  frame.buffer.transfer(0);
}
