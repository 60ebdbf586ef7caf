// The thread of facts-pool.ts: entries come, facts go back. Bytes are handed over, not copied.
import { parentPort } from 'node:worker_threads';
import type { TSchema } from 'typebox';
import { Compile, type Validator } from 'typebox/compile';
import { checkShapesBy } from '../manifest/shape.ts';
import { parseBundle } from '../tlog/tile.ts';
import { factsOf, type KeysInForce } from './facts.ts';

export type FactsRequest = {
  readonly id: number;
  /** As in a log's bundle (SPEC §9.4). */
  readonly entries: Uint8Array;
  readonly count: number;
  readonly keys: KeysInForce;
};

// Ten times as fast, and an auditor's process has no power over anything.
const compiled = new WeakMap<TSchema, Validator>();
checkShapesBy((schema, value) => {
  const made = compiled.get(schema) ?? Compile(schema);
  compiled.set(schema, made);
  return made.Check(value);
});

parentPort?.on('message', ({ id, entries, count, keys }: FactsRequest) => {
  const facts = factsOf(parseBundle(entries, count), keys);
  parentPort?.postMessage({ id, ...facts }, [facts.leafHashes.buffer as ArrayBuffer]);
});
