// What the server makes in the background after a publication: the time until a step's pack can be had, and what that took of
// the server's CPU. And how much of it is shared when a hundred hosts, whose systems differ in their name, make the same step.
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Machine } from './delta-machines.ts';
import type { Site } from './delta-site.ts';
import type { Figure } from './figures.ts';
import { cpuOf } from './process-tree.ts';

export type Packs = {
  /** From the call until the pack can be had. */
  readonly seconds: number;
  /** User and system time of the server meanwhile, seconds. */
  readonly cpu: number;
};

const PATIENCE_MS = 600_000;
const HOSTS = 100;

/** `base` null: from nothing. */
type Step = { readonly closure: string; readonly base: string | null };

/** The step of `host` as the server sees it. */
export function stepOf(site: Site, host: string): Step {
  const args = ['diff', host, '--state', join(site.dir, 'state'), '--json'];
  const { from, to } = JSON.parse(execFileSync(site.fleet, args).toString()) as {
    from: { closure: string } | null;
    to: { closure: string };
  };
  return { closure: to.closure, base: from?.closure ?? null };
}

/** Asks with the token of `agent`, any of the fleet's, until the step's pack can be had. @throws Error when it will not be */
export async function waitForPack(
  { servers }: Site,
  { root }: Pick<Machine, 'root'>,
  { closure, base }: Step,
): Promise<Packs> {
  const token = readFileSync(join(root, 'var/lib/fleet-agent/token'), 'utf8').trim();
  const headers = { authorization: `Bearer ${token}` };
  const url = `${servers.fleet}/v1/packs/${closure}${base === null ? '' : `?base=${base}`}`;
  const [start, before] = [performance.now(), cpuOf(servers.pid)];
  for (;;) {
    const response = await fetch(url, { method: 'HEAD', headers });
    await response.body?.cancel();
    const seconds = (performance.now() - start) / 1000;
    if (response.status === 200) return { seconds, cpu: cpuOf(servers.pid) - before };
    // It comes, or the publication was not heard of yet.
    const comes = response.headers.has('retry-after') || seconds < 2;
    if (response.status !== 404 || !comes || seconds * 1000 > PATIENCE_MS) {
      throw new Error(`${url}: ${response.status} after ${Math.round(seconds)} s`);
    }
    await sleep(50);
  }
}

/** Publishes the old system for a hundred hosts, then the new one, and waits for all their packs. */
export async function hundredHosts(
  site: Site,
  agent: Pick<Machine, 'root'>,
  log: (line: string) => void,
): Promise<Figure[]> {
  const names = Array.from({ length: HOSTS }, (_, i) => `many-${i}`);
  const publish = async (system: 'old' | 'new') => {
    const hosts = names.map((name) => [name, { system, hostname: name }] as const);
    await site.publish(Object.fromEntries(hosts));
    return names.map((name) => stepOf(site, name).closure);
  };
  const state = ['--state', join(site.dir, 'state')];
  const make = ['token', 'create', 'bench', '--scope', 'admin', ...state, '--json'];
  const { token: admin } = JSON.parse(execFileSync(site.fleet, make).toString()) as {
    token: string;
  };
  const old = await publish('old');
  const before = await segmentsOf(site, admin);
  const next = await publish('new');
  const [start, cpu] = [performance.now(), cpuOf(site.servers.pid)];
  for (const [i, closure] of next.entries()) {
    await waitForPack(site, agent, { closure, base: old[i] ?? null });
  }
  const seconds = (performance.now() - start) / 1000;
  const made = (await segmentsOf(site, admin)) - before;
  log(`  ${HOSTS} hosts: ${made} segments in ${seconds.toFixed(1)} s`);
  return [
    { name: `packs of ${HOSTS} hosts, made in`, value: seconds, unit: 's' },
    {
      name: `packs of ${HOSTS} hosts, CPU of the server`,
      value: cpuOf(site.servers.pid) - cpu,
      unit: 's',
    },
    { name: `packs of ${HOSTS} hosts, segments made for each`, value: made / HOSTS, unit: '' },
  ];
}

/** How many were made since the server began. `admin`: a token. */
async function segmentsOf({ servers }: Site, admin: string): Promise<number> {
  const headers = { authorization: `Bearer ${admin}` };
  const answer = await fetch(`${servers.fleet}/metrics`, { headers });
  if (!answer.ok) throw new Error(`metrics: ${answer.status}`);
  const text = await answer.text();
  const counts = [...text.matchAll(/^fleet_pack_segments_total\{.*?\} (\d+)$/gm)];
  return counts.reduce((sum, [, count]) => sum + Number(count), 0);
}
