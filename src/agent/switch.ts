// switch-to-configuration run so that nothing that happens to the agent can stop it half-way
// (ARCHITECTURE, "The agent"): toplevel and action → exit code and log.
// It is a session of its own, its output goes to a file, its exit status to another, and a lock that
// its parent shell holds tells a later agent that it still runs. In a chroot store it runs in a
// mount namespace of its own where DIR/nix is /nix and DIR/run is /run; this process never enters it.
import { spawn, spawnSync } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import { type FileHandle, mkdir, open, readFile, realpath, rm } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import { errnoOf, FleetError } from '../errors.ts';
import type { StorePath } from '../nix/storepath.ts';
import { within } from './body.ts';
import { tryLock } from './lock.ts';
import type { Place } from './place.ts';

export type SwitchAction = 'check' | 'test' | 'boot';

export type SwitchResult = {
  /** Exit status; null when it was killed, or took too long. */
  readonly code: number | null;
  readonly timedOut: boolean;
  /** File with everything it said. */
  readonly log: string;
  /** The last lines of that, at most 10. */
  readonly lastLines: readonly string[];
};

export type SwitchRun = {
  readonly toplevel: StorePath;
  readonly action: SwitchAction;
  readonly place: Place;
  /** Directory for logs, statuses and the lock. */
  readonly dir: string;
  readonly seconds: number;
};

// Outside of the namespace, so that the status file lies where the agent looks. Descriptor 3 is the
// lock, which nothing that activation starts may keep.
const SHELL = `
status=$1; shift
"$@" 3>&-
code=$?
echo "$code" >"$status.tmp" && mv "$status.tmp" "$status"
`;

// /nix last: the programs named here may themselves lie in the machine's /nix.
const NAMESPACE = `
mount=$1; root=$2; shift 2
"$mount" -n --bind "$root/run" /run && "$mount" -n --bind "$root/nix" /nix || exit 125
exec "$@"
`;

/** How long a hung switch may take to die. */
const KILL_SECONDS = 10;

/**
 * Runs `<toplevel>/bin/switch-to-configuration <action>` and waits for its end.
 * @throws FleetError E_SWITCH_LOCKED when one that an earlier agent began does not end,
 *   E_NAMESPACE, E_TOOL_MISSING
 */
export async function runSwitch(run: SwitchRun): Promise<SwitchResult> {
  const { dir, action, seconds } = run;
  await mkdir(dir, { recursive: true, mode: 0o700 });
  await using lock = await lockSwitch(dir, seconds);
  const status = join(dir, `${action}.status`);
  const log = join(dir, `${action}.log`);
  await rm(status, { force: true });
  const command = await commandOf(run);
  const output = await open(log, 'w', 0o600);
  try {
    const child = spawn('/bin/sh', ['-c', SHELL, 'fleet-switch', status, ...command], {
      cwd: '/',
      detached: true,
      env: switchEnvironment(),
      stdio: ['ignore', output.fd, output.fd, lock.handle.fd],
    });
    const ended = Promise.withResolvers<void>();
    child.once('error', ended.reject);
    child.once('exit', () => ended.resolve());
    const timedOut = !(await within(ended.promise, seconds * 1000));
    if (timedOut) await killGroup(child.pid, ended.promise);
    await ended.promise;
    const code = timedOut ? null : await readStatus(status);
    return { code, timedOut, log, lastLines: await lastLines(log) };
  } finally {
    await output.close();
  }
}

/**
 * Refuses early where a chroot store's system cannot be activated. Nothing to do on the machine itself.
 * @throws FleetError E_NAMESPACE, E_TOOL_MISSING
 */
export async function probeNamespace(place: Place): Promise<void> {
  if (place.root === null) return;
  for (const dir of ['run', 'nix']) await mkdir(join(place.root, dir), { recursive: true });
  const [program = '', ...args] = await namespaceOf(place.root, ['/bin/sh', '-c', 'exit 0']);
  // The chroot store need not hold a /bin/sh in /nix: exec of it only fails where /bin is linked there.
  const run = spawnSync(program, args, { encoding: 'utf8', stdio: ['ignore', 'ignore', 'pipe'] });
  if (run.status === 0 || run.status === 127 || run.status === 126) return;
  const said = run.stderr?.trim().split('\n')[0] || `exit status ${run.status}`;
  throw new FleetError('E_NAMESPACE', `no mount namespace for ${place.root}: ${said}`);
}

async function commandOf({ toplevel, action, place }: SwitchRun): Promise<readonly string[]> {
  const command = [`${toplevel}/bin/switch-to-configuration`, action];
  return place.root === null ? command : await namespaceOf(place.root, command);
}

async function namespaceOf(root: string, command: readonly string[]): Promise<string[]> {
  const user = process.getuid?.() === 0 ? [] : ['--map-root-user'];
  const unshare = [await findProgram('unshare'), '--mount', '--propagation', 'private', ...user];
  const mount = await findProgram('mount');
  return [...unshare, '/bin/sh', '-c', NAMESPACE, 'fleet-namespace', mount, root, ...command];
}

/** The real path of a program on PATH, which holds when /run and /nix are others. */
async function findProgram(name: string): Promise<string> {
  for (const dir of (process.env['PATH'] ?? '').split(delimiter)) {
    if (!dir.startsWith('/')) continue;
    try {
      accessSync(join(dir, name), constants.X_OK);
      // The last name is kept: busybox and its like look at what they are called.
      return join(await realpath(dir), name);
    } catch {}
  }
  throw new FleetError('E_TOOL_MISSING', `the program ${name} is missing`);
}

/** Waits for the switch of an agent that died, if one still runs. */
async function lockSwitch(
  dir: string,
  seconds: number,
): Promise<AsyncDisposable & { handle: FileHandle }> {
  const deadline = performance.now() + seconds * 1000;
  while (true) {
    const lock = await tryLock(join(dir, 'lock'));
    if (lock !== null) return lock;
    if (performance.now() > deadline) {
      throw new FleetError('E_SWITCH_LOCKED', 'a switch that an earlier agent began still runs');
    }
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
}

async function killGroup(pid: number | undefined, ended: Promise<void>): Promise<void> {
  for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
    try {
      if (pid !== undefined) process.kill(-pid, signal);
    } catch (error) {
      if (errnoOf(error) !== 'ESRCH') throw error;
    }
    if (await within(ended, KILL_SECONDS * 1000)) break;
  }
  // Those in the group that outlived SIGTERM, after their shell died of it.
  try {
    if (pid !== undefined) process.kill(-pid, 'SIGKILL');
  } catch (error) {
    if (errnoOf(error) !== 'ESRCH') throw error;
  }
}

// What systemd would give it: no secret and no Nix setting of ours.
function switchEnvironment(): Record<string, string> {
  const kept = ['PATH', 'HOME', 'LANG', 'LOCALE_ARCHIVE'];
  return Object.fromEntries(
    kept.flatMap((name) => {
      const value = process.env[name];
      return value === undefined ? [] : [[name, value]];
    }),
  );
}

async function readStatus(file: string): Promise<number | null> {
  try {
    const text = await readFile(file, 'utf8');
    return /^\d{1,3}\n$/.test(text) ? Number(text) : null;
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return null;
    throw error;
  }
}

async function lastLines(file: string): Promise<readonly string[]> {
  await using handle = await open(file, 'r');
  const { size } = await handle.stat();
  const length = Math.min(size, 4096);
  const { buffer } = await handle.read(Buffer.alloc(length), 0, length, size - length);
  return buffer.toString('utf8').trimEnd().split('\n').slice(-10);
}
