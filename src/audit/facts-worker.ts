// The thread of facts-pool.ts: entries come, facts go back.
import { parentPort } from 'node:worker_threads';
import { factsOf, type KeysInForce } from './facts.ts';

export type FactsRequest = {
  readonly id: number;
  readonly entries: readonly Uint8Array[];
  readonly keys: KeysInForce;
};

parentPort?.on('message', ({ id, entries, keys }: FactsRequest) => {
  parentPort?.postMessage({ id, facts: factsOf(entries, keys) });
});
