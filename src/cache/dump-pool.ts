// Threads that dump, check and compress small store paths whole, each path by synchronous calls from its
// first file to its frame: a quarter less time than by way of libuv's pool, mostly because zstd is told at
// once that it sees everything. Memory: per thread two buffers of WHOLE_NAR and a heap of 12 MiB;
// and the frames that wait for the disk, of which ingest.ts has some thirty at most.
import { availableParallelism } from 'node:os';
import { Worker } from 'node:worker_threads';
import { FleetError } from '../errors.ts';
import type { PathInfo } from '../nix/closure.ts';
import type { NarContents } from '../storage/state.ts';
import { type ThreadError, thrownBy } from '../thread-error.ts';

// The emitted .js stands where the .ts source stands, so the worker has its neighbour's extension.
const EXTENSION = import.meta.url.endsWith('.ts') ? '.ts' : '.js';
const WORKER = new URL(`./dump-worker${EXTENSION}`, import.meta.url);
/** NARs up to this many bytes are for these threads. */
export const WHOLE_NAR = 8 * 1024 * 1024;
/** The main thread writes and hashes the frames of no more. */
const MOST = 4;
/** What a thread has to do besides what it does, so that it never waits for the next request. */
const AHEAD = 1;

/** A small path as it is to be stored. */
export type Dumped = { readonly frame: Uint8Array<ArrayBuffer>; readonly contents: NarContents };

/** What the threads are started with. */
export type DumpSettings = { readonly storeDir: string; readonly level: number };
export type DumpRequest = { readonly id: number; readonly info: PathInfo };
export type DumpReply = { readonly id: number } & (Dumped | { readonly error: ThreadError });

export type DumpPool = AsyncDisposable & {
  /** How many requests are worth having under way. */
  readonly width: number;
  /** @throws what checkedDump throws; E_INTERNAL when a thread dies */
  dump(info: PathInfo): Promise<Dumped>;
};

type Waiting = {
  readonly resolve: (dumped: Dumped) => void;
  readonly reject: (error: unknown) => void;
};
type Thread = { readonly worker: Worker; readonly waiting: Map<number, Waiting> };

export function openDumpPool(
  settings: DumpSettings,
  threads = Math.min(availableParallelism(), MOST),
): DumpPool {
  let died: FleetError | undefined;
  const start = (): Thread => {
    // Flags of the command line (`--eval`, `--input-type`) are not meant for this file.
    const resourceLimits = { maxYoungGenerationSizeMb: 4 };
    const worker = new Worker(WORKER, { workerData: settings, execArgv: [], resourceLimits });
    const waiting = new Map<number, Waiting>();
    const end = (cause?: unknown): void => {
      died ??= new FleetError('E_INTERNAL', 'a thread that compresses store paths ended', {
        cause,
      });
      for (const { reject } of waiting.values()) reject(died);
      waiting.clear();
    };
    worker.on('message', (reply: DumpReply) => {
      const asked = waiting.get(reply.id);
      waiting.delete(reply.id);
      if ('error' in reply) asked?.reject(thrownBy(reply.error));
      else asked?.resolve(reply);
    });
    worker.on('error', end);
    worker.on('messageerror', end);
    worker.on('exit', () => end());
    return { worker, waiting };
  };
  const all = Array.from({ length: threads }, start);
  let asked = 0;
  return {
    width: threads * (1 + AHEAD),
    dump: (info) =>
      new Promise((resolve, reject) => {
        if (died !== undefined) throw died;
        const idlest = all.reduce((a, b) => (b.waiting.size < a.waiting.size ? b : a));
        const id = asked++;
        idlest.waiting.set(id, { resolve, reject });
        const request: DumpRequest = { id, info };
        idlest.worker.postMessage(request);
      }),
    async [Symbol.asyncDispose]() {
      await Promise.all(all.map(({ worker }) => worker.terminate()));
    },
  };
}
