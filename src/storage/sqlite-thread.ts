// The writer on a thread of its own, seen from the thread that uses it: changes go there as
// messages and come back as results or as errors with their code and hint, so that neither an
// fsync nor a foreign lock ever stops the caller's event loop.
import { Worker } from 'node:worker_threads';
import { FleetError } from '../errors.ts';
import { type ThreadError, thrownBy } from '../thread-error.ts';
import type { WriteArgs, WriteName, WriteResult, Writer } from './sqlite-writer.ts';

/** What the thread is started with. */
export type ThreadData = { readonly file: string; readonly patience: number };

export type ThreadRequest =
  | { readonly id: number; readonly name: WriteName; readonly args: readonly unknown[] }
  | { readonly id: number; readonly name: 'close' };

export type ThreadReply =
  | { readonly id: number; readonly value: unknown }
  | { readonly id: number; readonly error: ThreadError };

/** The reply that says whether the connection could be opened. */
export const OPENING = 0;

// The emitted .js stands where the .ts source stands, so the worker has its neighbour's extension.
const EXTENSION = import.meta.url.endsWith('.ts') ? '.ts' : '.js';
const WORKER = new URL(`./sqlite-worker${EXTENSION}`, import.meta.url);

type Waiting = {
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: unknown) => void;
};

export async function openThreadWriter(file: string, patience: number): Promise<Writer> {
  const first = await startThread({ file, patience });
  return new LastingWriter({ file, patience }, first);
}

/** A thread that died (out of memory, a fault of the addon) is replaced; what it was asked has failed. */
class LastingWriter implements Writer {
  readonly #data: ThreadData;
  #current: Promise<ThreadWriter>;
  #isClosed = false;

  constructor(data: ThreadData, first: ThreadWriter) {
    this.#data = data;
    this.#current = Promise.resolve(first);
  }

  async write<K extends WriteName>(name: K, args: WriteArgs<K>): Promise<WriteResult<K>> {
    return await (await this.#living()).write(name, args);
  }

  async close(): Promise<void> {
    // From here on no thread is started: nobody would end it, and it would keep the process alive.
    this.#isClosed = true;
    const last = await this.#current.catch(() => null);
    if (last?.hasEnded === false) await last.close();
  }

  async #living(): Promise<ThreadWriter> {
    const known = this.#current;
    const hasEnded = await known.then(
      (writer) => writer.hasEnded,
      () => true,
    );
    // A request that was cut off as the server ended may still want to store something.
    if (this.#isClosed) throw new FleetError('E_INTERNAL', 'the database is closed');
    // Not if another call has replaced it meanwhile.
    if (hasEnded && this.#current === known) this.#current = startThread(this.#data);
    return await this.#current;
  }
}

async function startThread(data: ThreadData): Promise<ThreadWriter> {
  // Flags of the command line (`--eval`, `--input-type`) are not meant for this file.
  // It holds a batch of rows at a time and little else.
  const resourceLimits = { maxYoungGenerationSizeMb: 4 };
  const options = { workerData: data, execArgv: [], resourceLimits };
  const writer = new ThreadWriter(new Worker(WORKER, options));
  try {
    await writer.opened;
    return writer;
  } catch (error) {
    await writer.stop();
    throw error;
  }
}

class ThreadWriter implements Writer {
  readonly opened: Promise<unknown>;
  readonly #worker: Worker;
  readonly #waiting = new Map<number, Waiting>();
  #nextId = OPENING;
  #ended: unknown = null;

  constructor(worker: Worker) {
    this.#worker = worker;
    this.opened = this.#expect(() => {});
    worker.on('message', (reply: ThreadReply) => this.#settle(reply));
    worker.on('error', (error) => this.#end(error));
    worker.on('exit', () => this.#end(new FleetError('E_INTERNAL', 'the database thread ended')));
  }

  get hasEnded(): boolean {
    return this.#ended !== null;
  }

  async write<K extends WriteName>(name: K, args: WriteArgs<K>): Promise<WriteResult<K>> {
    const value = await this.#expect((id) => {
      const request: ThreadRequest = { id, name, args };
      this.#worker.postMessage(request);
    });
    return value as WriteResult<K>;
  }

  async close(): Promise<void> {
    try {
      await this.#expect((id) => {
        const request: ThreadRequest = { id, name: 'close' };
        this.#worker.postMessage(request);
      });
    } finally {
      // It would keep the process alive.
      await this.stop();
    }
  }

  async stop(): Promise<void> {
    await this.#worker.terminate();
  }

  #expect(send: (id: number) => void): Promise<unknown> {
    if (this.#ended !== null) return Promise.reject(this.#ended);
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      send(id);
    });
  }

  #settle(reply: ThreadReply): void {
    const waiting = this.#waiting.get(reply.id);
    this.#waiting.delete(reply.id);
    if ('error' in reply) waiting?.reject(thrownBy(reply.error));
    else waiting?.resolve(reply.value);
  }

  #end(error: unknown): void {
    this.#ended ??= error;
    for (const { reject } of this.#waiting.values()) reject(this.#ended);
    this.#waiting.clear();
  }
}
