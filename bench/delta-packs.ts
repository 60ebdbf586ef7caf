// What the server makes in the background after a publication, as a host's agent sees it: the time until there is a pack for
// its step, and what that took of the server's CPU.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { cpuOf } from './process-tree.ts';
import type { Servers } from './servers.ts';

export type Packs = {
  /** From the call until the pack can be had. */
  readonly seconds: number;
  /** User and system time of the server meanwhile, seconds. */
  readonly cpu: number;
};

const PATIENCE_MS = 600_000;

/**
 * Asks until the pack from `host`'s system to the one published for it can be had: 200 it can, 202 it is being made,
 * 404 this server makes none, which is null.
 * @param root of the machine whose agent is enrolled as `host`.
 */
export async function waitForPacks(
  { fleet, pid }: Servers,
  host: string,
  root: string,
): Promise<Packs | null> {
  const token = readFileSync(join(root, 'var/lib/fleet-agent/token'), 'utf8').trim();
  const headers = { authorization: `Bearer ${token}` };
  const [start, before] = [performance.now(), cpuOf(pid)];
  for (;;) {
    const { status, body } = await fetch(`${fleet}/v1/hosts/${host}/pack`, {
      method: 'HEAD',
      headers,
    });
    await body?.cancel();
    const elapsed = performance.now() - start;
    if (status === 404) return null;
    if (status === 200) return { seconds: elapsed / 1000, cpu: cpuOf(pid) - before };
    if (status !== 202 || elapsed > PATIENCE_MS) {
      throw new Error(`the pack of ${host}: ${status} after ${Math.round(elapsed / 1000)} s`);
    }
    await sleep(50);
  }
}
