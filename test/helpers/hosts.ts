// A host's machine in a chroot store, with an agent that is enrolled in a World.
import { mkdir, readFile, readlink, rm, symlink, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { enroll } from '../../src/agent/enroll.ts';
import { tryLock } from '../../src/agent/lock.ts';
import { runOnce } from '../../src/agent/once.ts';
import type { OnceOptions, OnceResult } from '../../src/agent/once-options.ts';
import { type Running, startFleet } from './cli.ts';
import { type BuiltSystem, SYSTEM } from './systems.ts';
import { temporaryDirectory } from './temporary.ts';
import { enrolFileOf, HOST, World } from './world.ts';

/** What starts fleet, for the watchdogs of agents that run in a test's own process. */
export const PROGRAM = [process.execPath, resolve('cli/fleet.ts')];

/** A host's machine: a chroot store, and the agent's state. */
export type TestHost = {
  readonly root: string;
  readonly state: string;
  /** Runs the agent once, in this process, at the world's time, by a clock that is synchronised. */
  readonly once: (options?: Partial<OnceOptions>) => Promise<OnceResult>;
};

/** Enrols a new machine; `limits` replaces what agent.json says. */
export async function makeHost(
  world: World,
  name = 'machine',
  limits: object = {},
): Promise<TestHost> {
  const root = join(world.dir, name);
  const state = join(root, 'state');
  const file = enrolFileOf(world);
  const now = world.now;
  const { config } = await enroll({ dir: state, file, host: HOST, system: SYSTEM, root, now });
  const quick = { ...config, leastBytesPerSecond: 1000, patienceSeconds: 2, ...limits };
  await writeFile(join(state, 'agent.json'), JSON.stringify({ version: 1, ...quick }));
  await mkdir(join(root, 'run'), { recursive: true });
  return {
    root,
    state,
    once: (options = {}) =>
      runOnce({
        dir: state,
        program: PROGRAM,
        clock: () => world.now,
        uptime: () => world.uptime,
        isSynchronised: async () => true,
        ...options,
      }),
  };
}

export type Setting = AsyncDisposable & { readonly world: World; readonly host: TestHost };

/** A world with an enrolled host. `running`: and that system on it. */
export async function setting(running: BuiltSystem | null, limits: object = {}): Promise<Setting> {
  const stack = new AsyncDisposableStack();
  const dir = stack.use(await temporaryDirectory());
  const world = stack.use(await World.open(dir.path));
  const host = await makeHost(world, 'machine', limits);
  if (running !== null) {
    world.publish(running);
    const { error } = await host.once();
    if (error !== null) throw error;
    await rm(join(host.root, 'run/log'));
  }
  return { world, host, [Symbol.asyncDispose]: () => stack.disposeAsync() };
}

/** Where the host's links lead, and what its boot loader would start. */
export async function systemsOf(host: TestHost) {
  const link = async (path: string): Promise<string | null> =>
    await readlink(join(host.root, path)).catch(() => null);
  const generation = await link('nix/var/nix/profiles/system');
  const boot = await readFile(join(host.root, 'run/boot-entry'), 'utf8').catch(() => null);
  return {
    current: await link('run/current-system'),
    profile: generation === null ? null : await link(`nix/var/nix/profiles/${generation}`),
    boot: boot?.trim() ?? null,
  };
}

/** What systemsOf says when `system` is what the host runs and boots. */
export function all(system: BuiltSystem) {
  return { current: system.toplevel, profile: system.toplevel, boot: system.toplevel };
}

/** Which switches ran, in order; but for rehearsals, which change nothing. */
export async function logOf(host: TestHost): Promise<string[]> {
  const text = await readFile(join(host.root, 'run/log'), 'utf8').catch(() => '');
  const lines = text.split('\n').slice(0, -1);
  return lines.filter((line) => !line.startsWith('dry-activate '));
}

/** Says beforehand what a switch will do: see systems.ts. */
export const plan = (host: TestHost, what: string, value: string | number) =>
  writeFile(join(host.root, 'run', what), `${value}\n`);

/** `fleet agent once` as a process of its own, at the real time. */
export function startOnce(host: TestHost): Running {
  return startFleet(['agent', '--root', host.root, '--state', host.state, 'once', '--json']);
}

/** A setting whose time is the real one, for agents that are processes. */
export async function atRealTime(running: BuiltSystem, limits: object = {}): Promise<Setting> {
  const s = await setting(running, limits);
  s.world.now = Math.floor(Date.now() / 1000);
  return s;
}

/** Runs the agent as a process, and kills it once the switch program logged `line`. */
export async function killDuring(host: TestHost, line: string): Promise<void> {
  const { child, done } = startOnce(host);
  await waitFor(async () => (await logOf(host)).includes(line));
  child.kill('SIGKILL');
  await done;
}

/** Waits until no switch of the host runs any more, though its agent may be dead. */
export async function switchEnded(host: TestHost): Promise<void> {
  await waitFor(async () => {
    await using lock = await tryLock(join(host.state, 'switch/lock'));
    return lock !== null;
  });
}

/** The machine comes up again, and runs `system`. */
export async function reboot(host: TestHost, system: BuiltSystem): Promise<void> {
  await rm(join(host.root, 'run/current-system'), { force: true });
  await symlink(system.toplevel, join(host.root, 'run/current-system'));
}

export async function waitFor(
  holds: () => boolean | Promise<boolean>,
  patience = 10_000,
): Promise<void> {
  for (let i = 0; i < patience / 25; i++) {
    if (await holds()) return;
    await sleep(25);
  }
  throw new Error('waited in vain');
}
