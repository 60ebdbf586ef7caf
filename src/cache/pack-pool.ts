// Threads that make segments of packs, one each at a time: what is to be compared is read and unpacked there, and only what is
// kept comes back, piece by piece, on its way to a blob. Memory: for each thread, what making a patch takes (delta/make-patch.ts),
// an old NAR of at most 16 MiB, and the pieces that are held back.
import { Worker } from 'node:worker_threads';
import { FleetError } from '../errors.ts';
import type { BlobRef, Blobs } from '../storage/blobs.ts';
import type { MadeSegment } from '../storage/packs.ts';
import { thrownBy } from '../thread-error.ts';
import { Gate } from './gate.ts';
import type {
  IndexTask,
  PackReply,
  PackRequest,
  PackSettings,
  PackTask,
  SegmentTask,
} from './pack-tasks.ts';

// The emitted .js stands where the .ts source stands, so the worker has its neighbour's extension.
const EXTENSION = import.meta.url.endsWith('.ts') ? '.ts' : '.js';
const WORKER = new URL(`./pack-worker${EXTENSION}`, import.meta.url);

export type PackPool = AsyncDisposable & {
  /**
   * `no-old`: what was to be patched cannot be read. What is kept has become a blob.
   * @throws FleetError E_NAR_… where a new NAR is not what it should be; E_DISK_FULL; E_INTERNAL when a thread dies
   */
  make(task: SegmentTask): Promise<MadeSegment | 'no-old'>;
  /** A pack's first line and index as a blob. */
  writeIndex(task: IndexTask): Promise<BlobRef>;
};

export function openPackPool(
  blobs: Pick<Blobs, 'put'>,
  settings: PackSettings & { readonly threads: number },
): PackPool {
  const { threads, scratch } = settings;
  const start = () => new Thread({ scratch });
  const idle = Array.from({ length: threads }, start);
  const all = new Set(idle);
  let isClosed = false;
  const gate = new Gate(threads);
  const run = async (task: PackTask): Promise<MadeSegment | 'no-old'> => {
    using _place = await gate.enter();
    const thread = idle.pop();
    if (thread === undefined) throw new FleetError('E_INTERNAL', 'no thread is idle');
    try {
      return await made(task, thread, blobs);
    } finally {
      // What killed it may not be amiss with the next. Where only a message was lost, it still runs.
      if (thread.isDead) await thread.end();
      const next = thread.isDead && !isClosed ? start() : thread;
      all.delete(thread);
      all.add(next);
      idle.push(next);
    }
  };
  return {
    make: run,
    async writeIndex(task) {
      const index = await run(task);
      if (typeof index === 'object' && 'blob' in index) return index.blob;
      throw new FleetError('E_INTERNAL', 'the index of a pack was not written');
    },
    async [Symbol.asyncDispose]() {
      isClosed = true;
      await Promise.all([...all].map((thread) => thread.end()));
    },
  };
}

/** What ends a piece of work. */
type LastReply = Exclude<PackReply, { readonly kind: 'piece' }>;

async function made(
  task: PackTask,
  thread: Thread,
  blobs: Pick<Blobs, 'put'>,
): Promise<MadeSegment | 'no-old'> {
  const first = await thread.ask(task);
  if (first.kind === 'piece') return await kept(first.bytes, task, thread, blobs);
  if (first.kind === 'error') throw thrownBy(first.error);
  if (first.kind === 'end') throw new FleetError('E_INTERNAL', 'a segment without bytes');
  return first.kind === 'no-old' ? first.kind : { outcome: first.kind };
}

async function kept(
  first: Uint8Array,
  task: PackTask,
  thread: Thread,
  blobs: Pick<Blobs, 'put'>,
): Promise<MadeSegment> {
  const after: { last: LastReply | null } = { last: null };
  const next = async (kind: 'next' | 'stop'): Promise<Uint8Array | null> => {
    const reply = await thread.ask({ kind });
    if (reply.kind === 'piece') return reply.bytes;
    after.last = reply;
    return null;
  };
  const pieces = async function* (): AsyncGenerator<Uint8Array> {
    yield first;
    for (let piece = await next('next'); piece !== null; piece = await next('next')) yield piece;
    if (after.last?.kind !== 'end') throw new NotKept();
  };
  try {
    const blob = await blobs.put(pieces());
    const memory = after.last?.kind === 'end' ? after.last.memory : 0;
    return { outcome: task.kind === 'patch' ? 'patch' : 'whole', blob, memory };
  } catch (error) {
    // Whoever took them gave up: the thread has to be done before it is asked for something else.
    while (after.last === null && !thread.isDead) await next('stop');
    if (!(error instanceof NotKept)) throw error;
    if (after.last?.kind === 'error') throw thrownBy(after.last.error);
    return { outcome: 'poor' };
  }
}

/** The last piece was not the end of something that is kept. */
class NotKept extends Error {}

class Thread {
  readonly #worker: Worker;
  #waiting: PromiseWithResolvers<PackReply> | null = null;
  #died: FleetError | null = null;

  constructor(settings: PackSettings) {
    // Flags of the command line (`--eval`, `--input-type`) are not meant for this file.
    const resourceLimits = { maxYoungGenerationSizeMb: 4 };
    this.#worker = new Worker(WORKER, { workerData: settings, execArgv: [], resourceLimits });
    this.#worker.on('message', (reply: PackReply) => {
      const waiting = this.#waiting;
      this.#waiting = null;
      waiting?.resolve(reply);
    });
    const end = (cause?: unknown): void => {
      this.#died ??= new FleetError('E_INTERNAL', 'a thread that makes update packs ended', {
        cause,
      });
      this.#waiting?.reject(this.#died);
      this.#waiting = null;
    };
    this.#worker.on('error', end);
    this.#worker.on('messageerror', end);
    this.#worker.on('exit', () => end());
  }

  get isDead(): boolean {
    return this.#died !== null;
  }

  async ask(request: PackRequest): Promise<PackReply> {
    if (this.#died !== null) throw this.#died;
    this.#waiting = Promise.withResolvers();
    this.#worker.postMessage(request);
    return await this.#waiting.promise;
  }

  async end(): Promise<void> {
    await this.#worker.terminate();
  }
}
