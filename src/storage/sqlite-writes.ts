// State's changes as short synchronous transactions on the writing connection: the publication lease here,
// publications as entries of the log in sqlite-log.ts, the index in sqlite-index.ts, its garbage collection in sqlite-sweep.ts, and what says
// who a host is in sqlite-enrolment.ts.
import type { Database } from 'better-sqlite3';
import { FleetError } from '../errors.ts';
import { createEnrolment } from './sqlite-enrolment.ts';
import { createIndex } from './sqlite-index.ts';
import { createLogWrites } from './sqlite-log.ts';
import { createPackWrites } from './sqlite-packs.ts';
import { createSweeps } from './sqlite-sweep.ts';
import type { LeaseHolder, StateWrites } from './state.ts';

/** StateWrites without the promises: what runs inside the writer, inline or on its thread. */
export type SyncWrites = {
  readonly [K in keyof StateWrites]: (
    ...args: Parameters<StateWrites[K]>
  ) => Awaited<ReturnType<StateWrites[K]>>;
};

/** Each function is one IMMEDIATE transaction, and may throw SQLITE_BUSY before it did anything. */
export function createWrites(db: Database): SyncWrites {
  const readLease = db.prepare<[], LeaseHolder>('SELECT pid, since, fence FROM lease');
  const putLease = db.prepare<[number, number, number], LeaseHolder>(
    `INSERT OR REPLACE INTO lease (one, pid, since, fence) VALUES (1, ?, ?, ?)
     RETURNING pid, since, fence`,
  );

  const recordLease = db.transaction((pid: number, now: number): LeaseHolder => {
    const holder = putLease.get(pid, now, (readLease.get()?.fence ?? 0) + 1);
    if (holder === undefined) throw new FleetError('E_INTERNAL', 'the lease was not recorded');
    return holder;
  });

  return {
    recordLease: (pid, now) => recordLease.immediate(pid, now),
    ...createIndex(db),
    ...createSweeps(db),
    ...createEnrolment(db),
    ...createLogWrites(db),
    ...createPackWrites(db),
  };
}
