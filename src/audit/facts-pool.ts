// Threads that read entries for an audit, as many as there are cores. What is asked comes back in the order in
// which it was asked; whoever asks waits while too much is under way, so that memory stays bounded.
import { availableParallelism } from 'node:os';
import { Worker } from 'node:worker_threads';
import { FleetError } from '../errors.ts';
import { formatBundle } from '../tlog/tile.ts';
import type { Facts, KeysInForce } from './facts.ts';

// The emitted .js stands where the .ts source stands, so the worker has its neighbour's extension.
const EXTENSION = import.meta.url.endsWith('.ts') ? '.ts' : '.js';
const WORKER = new URL(`./facts-worker${EXTENSION}`, import.meta.url);
/** More than two would mostly wait for whoever reads. */
const MOST = 8;

/** MiB. What a thread works on is small; without a limit it lets garbage pile up instead of collecting it. */
const LIMITS = { maxOldGenerationSizeMb: 96, maxYoungGenerationSizeMb: 16 };

export type FactsPool = AsyncDisposable & {
  /** How many requests are worth having under way. */
  readonly width: number;
  facts(entries: readonly Uint8Array[], keys: KeysInForce): Promise<Facts>;
};

type Waiting = {
  readonly resolve: (facts: Facts) => void;
  readonly reject: (error: unknown) => void;
};

export function openFactsPool(threads = Math.min(availableParallelism(), MOST)): FactsPool {
  const waiting = new Map<number, Waiting>();
  const fail = (cause: unknown): void => {
    for (const { reject } of waiting.values()) {
      reject(new FleetError('E_INTERNAL', 'a thread of the audit died', { cause }));
    }
    waiting.clear();
  };
  const workers = Array.from({ length: threads }, () => {
    const worker = new Worker(WORKER, { resourceLimits: LIMITS });
    worker.on('message', ({ id, ...facts }: { id: number } & Facts) => {
      waiting.get(id)?.resolve(facts);
      waiting.delete(id);
    });
    worker.on('error', fail);
    return worker;
  });
  let asked = 0;
  return {
    width: threads + 1,
    facts: (parts, keys) =>
      new Promise((resolve, reject) => {
        const id = asked++;
        waiting.set(id, { resolve, reject });
        // A copy that can be handed over: where the entries are from may be shared with others.
        const entries = Uint8Array.from(formatBundle(parts));
        const request = { id, entries, count: parts.length, keys };
        workers[id % threads]?.postMessage(request, [entries.buffer]);
      }),
    async [Symbol.asyncDispose]() {
      await Promise.all(workers.map((worker) => worker.terminate()));
    },
  };
}
