// A file → an exclusive lock on it that the kernel lets go of when its last holder dies, however it dies.
// Node has no flock(2), but the lock belongs to the open file, not to the process: flock(1) takes it
// on a descriptor it inherits from us, exits, and the lock stays with ours. Nothing stale can be left
// behind, and only who may open the file can hold it up (an abstract socket's name could be taken by anyone).
import { spawnSync } from 'node:child_process';
import { type FileHandle, open, readFile } from 'node:fs/promises';
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

/** As tryLock, and says in the file who holds it. */
export async function lockAgent(file: string): Promise<HeldLock | null> {
  const lock = await tryLock(file);
  if (lock === null) return null;
  // Who only wants to know who works does not need a disk that has space.
  await lock.handle.truncate(0).catch(() => {});
  await lock.handle.write(`${process.pid}\n`).catch(() => {});
  return lock;
}

/** How long one that works may go on before its time is over, in milliseconds. */
const PATIENCE = 30_000;

/** As lockAgent, for who has to have it: a holder that does not end in time is killed. */
export async function takeLock(file: string): Promise<HeldLock | null> {
  for (const deadline = performance.now() + PATIENCE; performance.now() < deadline; ) {
    const lock = await lockAgent(file);
    if (lock !== null) return lock;
    await sleep(500);
  }
  const pid = Number(await readFile(file, 'utf8').catch(() => ''));
  // It holds the lock, so it is alive, and the number is its own.
  if (Number.isSafeInteger(pid) && pid > 1 && pid !== process.pid) {
    try {
      process.kill(pid, 'SIGKILL');
    } catch {}
  }
  await sleep(500);
  return await lockAgent(file);
}
