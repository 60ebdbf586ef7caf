// A switch as a transient unit of systemd's: it has none of the agent's limits, is no child of it, and ends when it ends, whatever
// becomes of the agent (systemd-run(1)). Not even its exit status passes through a process of the agent's: that is written
// to a file in /run, which needs no disk that has space and is gone with the next boot.
import { randomBytes } from 'node:crypto';
import { type FileHandle, mkdir, readFile, readlink, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { FleetError, messageOf } from '../errors.ts';
import { findProgram } from './inside.ts';
import type { HeldLock } from './lock.ts';
import { startTransient, systemctl } from './transient.ts';

/** Where exit statuses are written. */
const STATUS_DIR = '/run/fleet-switch';

// One that systemd starts late is not to run: the agent may be gone, and another one be at something else; so each names itself
// as the next, and only the last so named runs. The lock is the shell's until the switch ended; what activation starts does not keep it. timeout(1) leads a process group of
// its own: 124 says that the time was up, 137 that SIGTERM was not enough or that the switch was killed. Its words go to the
// journal as well, after its end.
const SHELL = `
lock=$1 status=$2 log=$3 next=$4 name=$5
shift 5
exec 3>>"$lock"
code=11
if flock --wait 10 3 && [ "$(cat "$next")" = "$name" ]; then
  "$@" 3>&- &
  group=$!
  wait "$group"
  code=$?
  case $code in 124 | 137) kill -KILL "-$group" 2>/dev/null ;; esac
fi
echo "$code" >"$status.new" && mv "$status.new" "$status"
exec 3>&-
if [ -f "$log" ]; then systemd-cat -t fleet-switch cat "$log"; fi
`;

/** How often the end is looked for, and how often systemd is asked whether there is anything to wait for. */
const LOOK_MS = 100;
const ASK_MS = 5000;

/**
 * Runs `command` and waits for its end: its exit status; null when it was killed, or did not end in time.
 * @throws FleetError E_PREFLIGHT when systemd does not take it.
 */
export async function runInUnit(
  command: readonly string[],
  options: {
    readonly dir: string;
    readonly lock: HeldLock;
    readonly output: FileHandle;
    /** Milliseconds. */
    readonly patience: number;
  },
): Promise<number | null> {
  const { dir, lock, output, patience } = options;
  const unit = `fleet-switch-${randomBytes(6).toString('hex')}`;
  await mkdir(STATUS_DIR, { recursive: true, mode: 0o755 });
  const status = join(STATUS_DIR, `${unit}.status`);
  const log = await readlink(`/proc/self/fd/${output.fd}`);
  const next = join(STATUS_DIR, 'next');
  const words = ['-c', SHELL, 'fleet-switch', join(dir, 'lock'), status, log, next, unit];
  // While the lock is ours nobody reads it.
  await writeFile(next, `${unit}\n`);
  // From here on it is the unit's.
  await lock.handle.close();
  try {
    await startUnit(unit, log, [await findProgram('sh'), ...words, ...command]);
    const deadline = performance.now() + patience;
    for (let asked = performance.now(); performance.now() < deadline; await sleep(LOOK_MS)) {
      const code = await readStatus(status);
      if (code !== undefined) return code;
      if (performance.now() - asked < ASK_MS) continue;
      asked = performance.now();
      if (!(await isThere(unit))) return (await readStatus(status)) ?? null;
    }
    return null;
  } finally {
    await rm(status, { force: true }).catch(() => {});
  }
}

async function startUnit(unit: string, log: string, command: readonly string[]): Promise<void> {
  const properties = [`StandardOutput=append:${log}`, `StandardError=append:${log}`].map(
    (property) => `--property=${property}`,
  );
  try {
    await startTransient(unit, command, ['--no-block', '--service-type=exec', ...properties]);
  } catch (cause) {
    throw new FleetError('E_PREFLIGHT', `systemd runs no switch: ${messageOf(cause)}`, { cause });
  }
}

/** undefined: it did not end yet. */
async function readStatus(file: string): Promise<number | null | undefined> {
  const text = await readFile(file, 'utf8').catch(() => undefined);
  if (text === undefined) return undefined;
  return /^\d+$/.test(text.trim()) ? Number(text) : null;
}

async function isThere(unit: string): Promise<boolean> {
  try {
    const state = await systemctl('show', '--property=ActiveState', '--value', `${unit}.service`);
    return state.trim() !== 'inactive' && state.trim() !== 'failed';
  } catch {
    // It is busy; it is asked again.
    return true;
  }
}
