// Waiting for SQLite locks without blocking: SQLite's own busy handler sleeps inside the call and
// so stalls an event loop (1.5 s was seen). Here every call is tried with a timeout of zero and
// tried again from a timer, until a deadline; then E_STATE_BUSY. SQLITE_BUSY never leaves this file.
import { setTimeout as sleep } from 'node:timers/promises';
import { errnoOf, FleetError } from '../errors.ts';

/** How long a call waits for another process's lock, in milliseconds, unless told otherwise. */
export const DEFAULT_PATIENCE = 5000;

const FIRST_PAUSE = 1;
const LONGEST_PAUSE = 40;

/** True when `error` says that another connection holds the lock. */
export function isLocked(error: unknown): boolean {
  return /^SQLITE_(BUSY|LOCKED)/.test(errnoOf(error) ?? '');
}

/**
 * Runs `attempt`, again and again while the database is locked, at least once and until `deadline`
 * (a `performance.now()` reading).
 * @throws FleetError E_STATE_BUSY; or what `attempt` throws.
 */
export async function patiently<T>(file: string, deadline: number, attempt: () => T): Promise<T> {
  for (let pause = FIRST_PAUSE; ; pause = Math.min(pause * 2, LONGEST_PAUSE)) {
    try {
      return attempt();
    } catch (error) {
      if (!isLocked(error)) throw error;
      if (performance.now() + pause > deadline) {
        throw new FleetError('E_STATE_BUSY', `${file} is locked by another process`, {
          cause: error,
        });
      }
    }
    // Jitter, so that two waiting processes do not meet again and again.
    await sleep(pause * (0.5 + Math.random() / 2));
  }
}
