// A file → an exclusive lock on it that the kernel lets go of when its last holder dies, however it dies.
// Node has no flock(2), but the lock belongs to the open file, not to the process: flock(1) takes it
// on a descriptor it inherits from us, exits, and the lock stays with ours. Nothing stale can be left
// behind, and only who may open the file can hold it up (an abstract socket's name could be taken by anyone).
import { spawnSync } from 'node:child_process';
import { type FileHandle, open, readdir, readlink, realpath } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { asAccess } from '../durable.ts';
import { errnoOf, FleetError } from '../errors.ts';

/** A held lock. Disposing of it lets go, unless a child process inherited `handle.fd`: then when that ends. */
export type HeldLock = AsyncDisposable & { readonly handle: FileHandle };

/**
 * Locks `file`, creating it (0600) if need be; null when another open file holds the lock.
 * @throws FleetError E_TOOL_MISSING without flock(1), E_STATE_ACCESS.
 */
export async function tryLock(file: string): Promise<HeldLock | null> {
  const handle = await open(file, 'a', 0o600).catch((error) => {
    throw asAccess(error, file);
  });
  try {
    const run = spawnSync('flock', ['--nonblock', '3'], {
      stdio: ['ignore', 'ignore', 'pipe', handle.fd],
    });
    if (run.error !== undefined) {
      if (errnoOf(run.error) !== 'ENOENT') throw run.error;
      throw new FleetError('E_TOOL_MISSING', 'the program flock is missing', { cause: run.error });
    }
    if (run.status === 0) return { handle, [Symbol.asyncDispose]: () => handle.close() };
    const said = run.stderr.toString().trim();
    if (said !== '') throw new Error(`flock ${file}: ${said}`);
  } catch (error) {
    await handle.close();
    throw error;
  }
  await handle.close();
  return null;
}

/** How long one that works may go on before its time is over, in milliseconds. */
const PATIENCE = 30_000;

/**
 * As tryLock, for who has to have it: holders that do not end in time are killed, again and again.
 * Null once it is not wanted any more.
 */
export async function takeLock(
  file: string,
  isWanted: () => Promise<boolean>,
  patience = PATIENCE,
): Promise<HeldLock | null> {
  while (await isWanted()) {
    const deadline = performance.now() + patience;
    do {
      const lock = await tryLock(file);
      if (lock !== null) return lock;
      await sleep(Math.min(500, patience));
    } while (performance.now() < deadline);
    // It may have ended what it is about in that time, and work on something else.
    if (!(await isWanted())) return null;
    for (const pid of await holdersOf(file)) kill(pid);
  }
  return null;
}

/** Who else has it open. Asked of the kernel: what a holder once wrote may be about another process by now. */
async function holdersOf(file: string): Promise<readonly number[]> {
  const path = await realpath(file);
  const found: number[] = [];
  for (const name of await readdir('/proc')) {
    const pid = /^\d+$/.test(name) ? Number(name) : process.pid;
    if (pid === process.pid) continue;
    const dir = `/proc/${pid}/fd`;
    for (const fd of await readdir(dir).catch(() => [])) {
      if ((await readlink(`${dir}/${fd}`).catch(() => '')) !== path) continue;
      found.push(pid);
      break;
    }
  }
  return found;
}

function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // It ended at this moment.
  }
}
