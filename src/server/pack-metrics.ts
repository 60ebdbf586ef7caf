// What is counted of update packs, in Prometheus' form (docs/OPERATIONS.md).
import { Counter, Gauge, type Registry } from 'prom-client';
import { addCounters } from './counters.ts';
import type { PackKeeper } from './pack-keeper.ts';

export function countPacks(registry: Registry, keeper: PackKeeper): void {
  const registers = [registry];
  addCounters(registers, keeper.counts, [
    ['fleet_packs_made_total', 'Update packs that were made', 'made'],
    ['fleet_packs_failed_total', 'Update packs that could not be made', 'failed'],
    ['fleet_packs_bytes_total', 'Bytes of the update packs that were made', 'bytes'],
    ['fleet_packs_seconds_total', 'Time that making them took', 'seconds'],
  ]);
  new Counter({
    name: 'fleet_pack_segments_total',
    help: 'What was made for update packs, by what came of it',
    labelNames: ['outcome'],
    registers,
    collect() {
      this.reset();
      for (const [outcome, count] of Object.entries(keeper.segments.made)) {
        this.inc({ outcome }, count);
      }
    },
  });
  new Gauge({
    name: 'fleet_packs_waiting',
    help: 'Update packs that are still to be made',
    registers,
    collect() {
      this.set(keeper.waiting);
    },
  });
}
