// A machine with a real systemd whose agent is enrolled in a World, and what tests ask of it.
import assert from 'node:assert/strict';
import type { TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Activation, DEFAULT_ACTIVATION } from '../../src/manifest/activation.ts';
import type { Receipt } from '../../src/manifest/receipt.ts';
import type { BuiltSystem } from '../helpers/systems.ts';
import { enrolFileOf, World } from '../helpers/world.ts';
import { Machine } from './machine.ts';

/** Of a first update, on a busy machine. */
const PATIENCE = 90_000;

/** `what` is waited for; a function says more of it where that was in vain. */
export async function waitFor(
  what: string | (() => Promise<string>),
  holds: () => boolean | Promise<boolean>,
  patience = PATIENCE,
): Promise<void> {
  for (const deadline = performance.now() + patience; !(await holds()); await sleep(100)) {
    if (performance.now() < deadline) continue;
    throw new Error(`waited in vain: ${typeof what === 'string' ? what : await what()}`);
  }
}

export type Setting = { readonly world: World; readonly machine: Machine };

/** A machine that runs `first`, its agent with it. */
export async function setting(
  t: TestContext,
  dir: string,
  first: BuiltSystem,
  config: Readonly<Record<string, unknown>> = {},
): Promise<Setting> {
  const stack = new AsyncDisposableStack();
  t.after(() => stack.disposeAsync());
  const world = stack.use(await World.open(dir));
  world.now = Math.floor(Date.now() / 1000);
  const machine = stack.use(new Machine());
  await machine.boot();
  machine.write('/root/enroll.json', enrolFileOf(world));
  await machine.ok('/fleet/bin/fleet', 'agent', 'enroll', '/root/enroll.json');
  // There is no time server here; that is not what these tests are about.
  const file = '/var/lib/fleet-agent/agent.json';
  const agent = JSON.parse(await machine.ok('cat', file)) as object;
  machine.write(file, JSON.stringify({ ...agent, clock: 'trusted', ...config }));
  world.publish(first);
  await machine.ok('/fleet/bin/fleet', 'agent', 'once');
  assert.equal(world.reports.at(-1)?.phase, 'in-sync');
  return { world, machine };
}

/** Publishes `next`, and waits until the host told what became of it. */
export async function update(
  s: Pick<Setting, 'world'> & Partial<Setting>,
  next: BuiltSystem,
  activation: Partial<Activation> = {},
  patience = PATIENCE,
): Promise<Receipt> {
  const digest = s.world.publish(next, { activation: { ...DEFAULT_ACTIVATION, ...activation } });
  return await toldOf(s, digest, patience);
}

/** Waits until the host told what became of a manifest. */
export async function toldOf(
  { world, machine }: Pick<Setting, 'world'> & Partial<Setting>,
  digest: string,
  patience = PATIENCE,
): Promise<Receipt> {
  let told: Receipt | undefined;
  await waitFor(
    async () => {
      const reports = JSON.stringify(world.reports.slice(-3), null, 1);
      return `it is told of ${digest}: ${reports}\n${machine && (await journalOf(machine))}`;
    },
    () => {
      const last = world.reports.at(-1);
      const isOver = last !== undefined && !UNDER_WAY.includes(last.phase);
      if (isOver && last.manifest?.sha256 === digest) told = last;
      return told !== undefined;
    },
    patience,
  );
  assert.ok(told);
  return told;
}

/** The last that its agent and its switches said. */
export const journalOf = async (machine: Machine): Promise<string> =>
  (await machine.run('journalctl', '--no-pager', '-n', '150', '-u', 'fleet-*')).stdout;

const UNDER_WAY: readonly string[] = ['verifying', 'reboot-pending', 'rebooting'];

export const isActive = async ({ machine }: Setting, unit: string) =>
  (await machine.run('systemctl', 'is-active', unit)).stdout.trim();
export const currentOf = async ({ machine }: Setting) =>
  await machine.ok('readlink', '/run/current-system');
