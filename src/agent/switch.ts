// switch-to-configuration run so that nothing that happens to the agent can stop it half-way
// (ARCHITECTURE, "The agent"): toplevel and action → exit code and log.
// It is a transient unit of systemd's, or where none runs a session of its own; its output goes to a file, and a lock that
// its parent shell holds tells a later agent that it still runs. timeout(1) ends it when it takes too long, also when the agent
// is gone. In a chroot store it runs in a mount namespace of its own (inside.ts).
import { spawn } from 'node:child_process';
import { type FileHandle, mkdir, open } from 'node:fs/promises';
import { join } from 'node:path';
import { asDiskFull } from '../durable.ts';
import { isFleetError } from '../errors.ts';
import type { StorePath } from '../nix/storepath.ts';
import { within } from './body.ts';
import { cleanEnvironment, commandInside, findProgram } from './inside.ts';
import { type HeldLock, tryLock } from './lock.ts';
import type { Place } from './place.ts';
import { runInUnit } from './switch-unit.ts';

export type SwitchAction = 'check' | 'dry-activate' | 'test' | 'boot';

export type SwitchResult = {
  /** Exit status (LOCKED also when it could not be begun); null when it took too long, or its shell was killed. */
  readonly code: number | null;
  readonly timedOut: boolean;
  /** File with everything it said. */
  readonly log: string;
  /** The last lines of that, at most 10. */
  readonly lastLines: readonly string[];
  /** The first 4 KiB of it. */
  readonly words: string;
};

export type SwitchRun = {
  readonly toplevel: StorePath;
  readonly action: SwitchAction;
  readonly place: Place;
  /** Directory for logs and the lock. */
  readonly dir: string;
  readonly seconds: number;
  /** Whether systemd of this machine is to run it, which a chroot store's cannot be. */
  readonly inUnit: boolean;
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

/** How long a switch that took too long may take to end in peace. */
export const SWITCH_GRACE_SECONDS = 5;

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
    return { code: LOCKED, timedOut: false, log, lastLines, words: '' };
  }
  const command = await commandOf(run);
  await using output = await openLog(log);
  const start = performance.now();
  // Longer than timeout(1) waits: only what not even SIGKILL ends is left alone, holding the lock.
  const patience = (seconds + 2 * SWITCH_GRACE_SECONDS) * 1000;
  const code = run.inUnit
    ? await runInUnit(command, { dir, lock, output, patience })
    : await runDetached(command, { lock, output, patience });
  const late = performance.now() - start >= seconds * 1000;
  const timedOut = late && (code === null || code === 124 || code === 137);
  const said = { words: await firstWords(output), lastLines: await lastLines(output) };
  return { code: timedOut ? null : code, timedOut, log, ...said };
}

async function runDetached(
  command: readonly string[],
  { lock, output, patience }: { lock: HeldLock; output: FileHandle; patience: number },
): Promise<number | null> {
  const child = spawn('/bin/sh', ['-c', SHELL, 'fleet-switch', ...command], {
    cwd: '/',
    detached: true,
    env: cleanEnvironment(),
    stdio: ['ignore', output.fd, output.fd, lock.handle.fd],
  });
  const ended = Promise.withResolvers<number | null>();
  child.once('error', ended.reject);
  child.once('exit', ended.resolve);
  const code = (await within(ended.promise, patience)) ? await ended.promise : null;
  if (code === null) child.unref();
  return code;
}

async function commandOf({ toplevel, action, place, seconds }: SwitchRun): Promise<string[]> {
  const limited = [await findProgram('timeout'), '-k', `${SWITCH_GRACE_SECONDS}`, `${seconds}`];
  const command = [`${toplevel}/bin/switch-to-configuration`, action];
  return [...limited, ...(await commandInside(place, command))];
}

/** Waits for the switch of an agent that died, if one still runs; null when it does not end. */
async function lockSwitch(dir: string, seconds: number): Promise<HeldLock | null> {
  // timeout(1) ends it before.
  const deadline = performance.now() + (seconds + SWITCH_GRACE_SECONDS) * 1000;
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

async function firstWords(log: FileHandle): Promise<string> {
  const { buffer, bytesRead } = await log.read(Buffer.alloc(4096), 0, 4096, 0);
  return buffer.toString('utf8', 0, bytesRead);
}

async function lastLines(log: FileHandle): Promise<readonly string[]> {
  const { size } = await log.stat();
  const length = Math.min(size, 4096);
  const { buffer } = await log.read(Buffer.alloc(length), 0, length, size - length);
  return buffer.toString('utf8').trimEnd().split('\n').slice(-10);
}
