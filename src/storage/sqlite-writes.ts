// State's changes as short synchronous transactions on the writing connection: the index, the
// publication and its lease. Those about hosts' identities are in sqlite-enrolment.ts.
import type { Database } from 'better-sqlite3';
import { FleetError } from '../errors.ts';
import { createEnrolment } from './sqlite-enrolment.ts';
import { cachedPathValues } from './sqlite-rows.ts';
import type { CachedPath, LeaseHolder, PublishedManifest, StateWrites } from './state.ts';

/** StateWrites without the promises: what runs inside the writer, inline or on its thread. */
export type SyncWrites = {
  readonly [K in keyof StateWrites]: (
    ...args: Parameters<StateWrites[K]>
  ) => Awaited<ReturnType<StateWrites[K]>>;
};

/** Each function is one IMMEDIATE transaction, and may throw SQLITE_BUSY before it did anything. */
export function createWrites(db: Database): SyncWrites {
  const putPath = db.prepare('INSERT OR REPLACE INTO cached_path VALUES (?,?,?,?,?,?,?,?,?)');
  const putNar = db.prepare('INSERT OR REPLACE INTO nar VALUES (?, ?)');
  const readLease = db.prepare<[], LeaseHolder>('SELECT pid, since, fence FROM lease');
  const putLease = db.prepare<[number, number, number], LeaseHolder>(
    `INSERT OR REPLACE INTO lease (one, pid, since, fence) VALUES (1, ?, ?, ?)
     RETURNING pid, since, fence`,
  );
  const newest = db.prepare<[string], { epoch: number; sequence: number }>(
    `SELECT epoch, sequence FROM manifest WHERE host = ?
     ORDER BY epoch DESC, sequence DESC LIMIT 1`,
  );
  const addHost = db.prepare('INSERT OR IGNORE INTO host (host) VALUES (?)');
  const addManifest = db.prepare(
    `INSERT INTO manifest (host, epoch, sequence, digest, envelope, toplevel, closure,
       closure_bytes, issued_at, expires_at)
     VALUES (@host, @epoch, @sequence, @digest, @envelope, @toplevel, @closure,
       @closureBytes, @issuedAt, @expiresAt)`,
  );

  const addCachedPaths = db.transaction((rows: readonly CachedPath[]): void => {
    for (const row of rows) {
      putNar.run(row.blob, row.blobSize);
      putPath.run(...cachedPathValues(row));
    }
  });

  const recordLease = db.transaction((pid: number, now: number): LeaseHolder => {
    const holder = putLease.get(pid, now, (readLease.get()?.fence ?? 0) + 1);
    if (holder === undefined) throw new FleetError('E_INTERNAL', 'the lease was not recorded');
    return holder;
  });

  const publish = db.transaction((manifests: readonly PublishedManifest[], fence: number): void => {
    const holder = readLease.get();
    if (holder?.fence !== fence) {
      const now = holder === undefined ? 'nobody holds it' : `process ${holder.pid} holds it now`;
      throw new FleetError('E_LEASE_LOST', `this process lost the publication lease: ${now}`);
    }
    for (const manifest of manifests) {
      const { host, epoch, sequence } = manifest;
      const last = newest.get(host);
      if (
        last !== undefined &&
        (epoch < last.epoch || (epoch === last.epoch && sequence <= last.sequence))
      ) {
        throw new FleetError(
          'E_SEQUENCE',
          `manifest ${epoch}.${sequence} of host ${host} does not follow ${last.epoch}.${last.sequence}`,
        );
      }
      addHost.run(host);
      addManifest.run(manifest);
    }
  });

  return {
    addCachedPaths: (rows) => addCachedPaths.immediate(rows),
    publish: (manifests, fence) => publish.immediate(manifests, fence),
    recordLease: (pid, now) => recordLease.immediate(pid, now),
    ...createEnrolment(db),
  };
}
