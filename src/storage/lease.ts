// One publisher at a time (ARCHITECTURE, "State on the server"): an exclusive transaction held open on a
// lock database of its own. The operating system drops its lock when the process dies, however it
// dies, so no lease is ever stale; the fencing number in State tells a late writer that it lost.
// Nothing else may open and close the lock file in this process: POSIX locks end with any close.
import { setTimeout as sleep } from 'node:timers/promises';
import Sqlite, { type Database } from 'better-sqlite3';
import { asStateError } from './sqlite-database.ts';
import { isLocked } from './sqlite-patience.ts';
import type { LeaseHolder, State } from './state.ts';

/** The right to publish, until disposed of or until the process ends. */
export type Lease = AsyncDisposable & {
  /** This process; `fence` is what `State.publish` wants. */
  readonly holder: LeaseHolder;
};

export type LeaseRequest = {
  /** The lock file; made where it is missing, and empty for ever. */
  readonly file: string;
  readonly state: Pick<State, 'recordLease' | 'leaseHolder'>;
  /** Told once, if another process holds the lease: who was the last known to take it. */
  readonly onWait?: (holder: LeaseHolder | null) => void;
  readonly signal?: AbortSignal;
  /** POSIX seconds; the system's clock where absent. */
  readonly now?: () => number;
};

const POLL_MS = 100;

/**
 * Waits until no other process publishes, then takes the lease.
 * @throws FleetError E_STATE_ACCESS, E_STATE_BUSY; the signal's reason when aborted.
 */
export async function acquireLease(request: LeaseRequest): Promise<Lease> {
  const { file, state, signal } = request;
  const now = request.now ?? (() => Math.floor(Date.now() / 1000));
  signal?.throwIfAborted();
  const lock = openLock(file);
  try {
    for (let waits = 0; !tryLock(lock); waits++) {
      // Not at the first try: a holder that took the lock just now has not said so in State yet.
      if (waits === 1) request.onWait?.(await state.leaseHolder());
      await sleep(POLL_MS, undefined, signal === undefined ? {} : { signal });
    }
    const holder = await state.recordLease(process.pid, now());
    // The closure keeps `lock` alive: a collected connection would be closed, and unlocked.
    return { holder, [Symbol.asyncDispose]: async () => void lock.close() };
  } catch (error) {
    lock.close();
    signal?.throwIfAborted();
    throw error;
  }
}

/**
 * Takes the lock of `file` (made where it is missing) until disposed of or until the process ends; null
 * when another process holds it.
 * @throws FleetError E_STATE_ACCESS
 */
export function tryLockFile(file: string): Disposable | null {
  const lock = openLock(file);
  try {
    if (tryLock(lock)) return { [Symbol.dispose]: () => void lock.close() };
  } catch (error) {
    lock.close();
    throw error;
  }
  lock.close();
  return null;
}

function openLock(file: string): Database {
  try {
    return new Sqlite(file, { timeout: 0 });
  } catch (error) {
    throw asStateError(error, file);
  }
}

function tryLock(lock: Database): boolean {
  try {
    lock.exec('BEGIN EXCLUSIVE');
    return true;
  } catch (error) {
    if (isLocked(error)) return false;
    throw asStateError(error, lock.name);
  }
}
