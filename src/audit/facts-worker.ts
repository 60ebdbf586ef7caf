// The thread of facts-pool.ts: entries come, facts go back. Bytes are handed over, not copied.
import { parentPort } from 'node:worker_threads';
import { parseBundle } from '../tlog/tile.ts';
import { factsOf, type KeysInForce } from './facts.ts';

export type FactsRequest = {
  readonly id: number;
  /** As in a log's bundle (SPEC §9.4). */
  readonly entries: Uint8Array;
  readonly count: number;
  readonly keys: KeysInForce;
};

parentPort?.on('message', ({ id, entries, count, keys }: FactsRequest) => {
  const facts = factsOf(parseBundle(entries, count), keys);
  parentPort?.postMessage({ id, ...facts }, [facts.leafHashes.buffer as ArrayBuffer]);
});
