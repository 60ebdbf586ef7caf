// switch-to-configuration run so that nothing that happens to the agent can stop it half-way
// (ARCHITECTURE, "The agent"): toplevel and action → exit code and log.
// It is a session of its own, its output goes to a file, and a lock that its parent shell holds tells a
// later agent that it still runs. timeout(1) ends it when it takes too long, also when the agent is gone.
// In a chroot store it runs in a mount namespace of its own where DIR/nix is /nix and DIR/run is /run;
// this process never enters it.
import { spawn, spawnSync } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import { type FileHandle, mkdir, open, realpath } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import { asDiskFull } from '../durable.ts';
import { FleetError, isFleetError } from '../errors.ts';
import type { StorePath } from '../nix/storepath.ts';
import { within } from './body.ts';
import { type HeldLock, tryLock } from './lock.ts';
import type { Place } from './place.ts';

export type SwitchAction = 'check' | 'test' | 'boot';

export type SwitchResult = {
  /** Exit status (LOCKED also when it could not be begun); null when it took too long, or its shell was killed. */
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
  /** Directory for logs and the lock. */
  readonly dir: string;
  readonly seconds: number;
};

/** Another switch of this machine is going on: switch-to-configuration's own status for that (EAGAIN). */
export const LOCKED = 11;

// Descriptor 3 is the lock, which nothing that activation starts may keep. timeout(1) leads a process
// group of its own: 124 says that the time was up, 137 that SIGTERM was not enough or that the switch was
// killed; what is left of the group then must not go on beside whatever is done next.
const SHELL = `
"$@" 3>&- &
group=$!
wait "$group"
code=$?
case $code in 124 | 137) kill -KILL "-$group" 2>/dev/null ;; esac
exit "$code"
`;

// /nix last: the programs named here may themselves lie in the machine's /nix.
const NAMESPACE = `
mount=$1; root=$2; shift 2
"$mount" -n --bind "$root/run" /run && "$mount" -n --bind "$root/nix" /nix || exit 125
exec "$@"
`;

/** How long a switch that took too long may take to end in peace. */
const GRACE_SECONDS = 5;

/** Room that a log has to have. */
const LOG_BYTES = 64 * 1024;

/**
 * Runs `<toplevel>/bin/switch-to-configuration <action>` and waits for its end.
 * @throws FleetError E_NAMESPACE, E_TOOL_MISSING, E_DISK_FULL
 */
export async function runSwitch(run: SwitchRun): Promise<SwitchResult> {
  const { dir, action, seconds } = run;
  const log = join(dir, `${action}.log`);
  await using lock = await lockSwitch(dir, seconds);
  if (lock === null) {
    const lastLines = ['one that an earlier agent began still runs'];
    return { code: LOCKED, timedOut: false, log, lastLines };
  }
  const command = await commandOf(run);
  await using output = await openLog(log);
  const start = performance.now();
  const child = spawn('/bin/sh', ['-c', SHELL, 'fleet-switch', ...command], {
    cwd: '/',
    detached: true,
    env: switchEnvironment(),
    stdio: ['ignore', output.fd, output.fd, lock.handle.fd],
  });
  const ended = Promise.withResolvers<number | null>();
  child.once('error', ended.reject);
  child.once('exit', ended.resolve);
  // Longer than timeout(1) waits: only what not even SIGKILL ends is left alone, holding the lock.
  const patience = (seconds + 2 * GRACE_SECONDS) * 1000;
  const code = (await within(ended.promise, patience)) ? await ended.promise : null;
  if (code === null) child.unref();
  const late = performance.now() - start >= seconds * 1000;
  const timedOut = late && (code === null || code === 124 || code === 137);
  return { code: timedOut ? null : code, timedOut, log, lastLines: await lastLines(output) };
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

async function commandOf({ toplevel, action, place, seconds }: SwitchRun): Promise<string[]> {
  const limited = [await findProgram('timeout'), '-k', `${GRACE_SECONDS}`, `${seconds}`];
  const command = [`${toplevel}/bin/switch-to-configuration`, action];
  const placed = place.root === null ? command : await namespaceOf(place.root, command);
  return [...limited, ...placed];
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

/** Waits for the switch of an agent that died, if one still runs; null when it does not end. */
async function lockSwitch(dir: string, seconds: number): Promise<HeldLock | null> {
  // timeout(1) ends it before.
  const deadline = performance.now() + (seconds + GRACE_SECONDS) * 1000;
  try {
    await mkdir(dir, { recursive: true, mode: 0o700 });
    while (true) {
      const lock = await tryLock(join(dir, 'lock'));
      if (lock !== null || performance.now() > deadline) return lock;
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
  } catch (error) {
    throw asDiskFull(error, dir);
  }
}

/**
 * The file for all that a switch says. Where there is no room for it, nowhere: the switch would die of
 * output that it cannot write, and going back must not need a disk that has space.
 */
async function openLog(file: string): Promise<FileHandle> {
  try {
    const handle = await open(file, 'w+', 0o600);
    try {
      await handle.write(Buffer.alloc(LOG_BYTES), 0, LOG_BYTES, 0);
      await handle.truncate(0);
      return handle;
    } catch (error) {
      await handle.close();
      throw error;
    }
  } catch (error) {
    if (!isFleetError(asDiskFull(error, file), 'E_DISK_FULL')) throw error;
    return await open('/dev/null', 'r+');
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

async function lastLines(log: FileHandle): Promise<readonly string[]> {
  const { size } = await log.stat();
  const length = Math.min(size, 4096);
  const { buffer } = await log.read(Buffer.alloc(length), 0, length, size - length);
  return buffer.toString('utf8').trimEnd().split('\n').slice(-10);
}
