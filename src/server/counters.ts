// Numbers that something counts by itself → counters of the metrics, read when they are asked for.
import { Counter, type Registry } from 'prom-client';

/** `rows`: name, help, and which of `counts` it is. */
export function addCounters<K extends string>(
  registers: Registry[],
  counts: Readonly<Record<K, number>>,
  rows: readonly (readonly [name: string, help: string, key: K])[],
): void {
  for (const [name, help, key] of rows) {
    new Counter({
      name,
      help,
      registers,
      collect() {
        this.reset();
        this.inc(counts[key]);
      },
    });
  }
}
