// What an agent costs the machine it is on, and what many of them cost the server that hints at news. There is no peer
// that does the same; the figures stand for themselves. The agent is the published package: JavaScript, by bin/fleet.
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { atRealTime } from '../test/helpers/hosts.ts';
import { buildSystem } from '../test/helpers/systems.ts';
import { type Benchmark, type Figure, median, need } from './figures.ts';
import { hintFigures } from './hints.ts';
import { makePackage } from './package.ts';
import { memoryMiB } from './servers.ts';

const IDLE_SECONDS = 60;
const RUNS = 11;

export const benchmark: Benchmark = async ({ quick, log }) => {
  need('nix-store=nix-bin');
  const dir = mkdtempSync(join(tmpdir(), 'fleet-bench-'));
  try {
    const fleet = makePackage(join(dir, 'package'));
    const host = await hostFigures(dir, fleet, quick);
    log('the host is done');
    return [...host, ...(await hintFigures(join(dir, 'hints'), fleet, quick, log))];
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
};

async function hostFigures(dir: string, fleet: string, quick: boolean): Promise<Figure[]> {
  const [one, two] = [await buildSystem(dir, 'one'), await buildSystem(dir, 'two')];
  await using s = await atRealTime(one, { clock: 'trusted' });
  s.world.publish(two);
  const place = ['--root', s.host.root, '--state', s.host.state];
  const run = spawn(fleet, ['agent', 'run', ...place, '--poll', '3600'], { stdio: 'ignore' });
  try {
    while (s.world.reports.at(-1)?.manifest?.sequence !== 2) await sleep(50);
    await sleep(5000);
    const before = switchesOf(run);
    await sleep((quick ? 5 : IDLE_SECONDS) * 1000);
    const wakeUps = (switchesOf(run) - before) / (quick ? 5 : IDLE_SECONDS);
    const idle = memoryMiB(run.pid ?? 0).now;
    const cpu: number[] = [];
    s.world.requests.length = 0;
    for (let i = 0; i < RUNS; i++) {
      // The peer of this process is the world's server, so it must not wait for the run.
      cpu.push(await cpuSeconds([fleet, 'agent', 'once', ...place]));
    }
    return [
      { name: 'agent run, idle after an update', value: idle, unit: 'MiB' },
      { name: 'agent run, wake-ups', value: wakeUps, unit: '/s' },
      { name: 'agent once, nothing to do, CPU', value: median(cpu), unit: 's' },
      { name: 'agent once, requests', value: s.world.requests.length / RUNS, unit: '' },
    ];
  } finally {
    run.kill('SIGTERM');
  }
}

/** How often any thread of a process went to sleep by itself. */
function switchesOf({ pid }: ChildProcess): number {
  const tasks = `/proc/${pid}/task`;
  return execFileSync('ls', [tasks])
    .toString()
    .trim()
    .split('\n')
    .map((task) => readFileSync(join(tasks, task, 'status'), 'utf8'))
    .map((status) => Number(/^voluntary_ctxt_switches:\s+(\d+)/m.exec(status)?.[1]))
    .reduce((sum, count) => sum + count, 0);
}

/** User and system time that a command and its children took. */
async function cpuSeconds(command: readonly string[]): Promise<number> {
  const shell = spawn('/bin/sh', ['-c', '"$@" >/dev/null; times', 'sh', ...command], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let text = '';
  for await (const chunk of shell.stdout) text += chunk;
  // The second line is of children: `0m0.31s 0m0.05s`.
  const times = [...(text.trim().split('\n')[1] ?? '').matchAll(/(\d+)m([\d.]+)s/g)];
  return times.reduce(
    (sum, [, minutes, seconds]) => sum + Number(minutes) * 60 + Number(seconds),
    0,
  );
}
