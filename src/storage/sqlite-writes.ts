// State's changes as short synchronous transactions on the writing connection: the publication and its
// lease here, the index in sqlite-index.ts, its garbage collection in sqlite-sweep.ts, and what says
// who a host is in sqlite-enrolment.ts.
import type { Database } from 'better-sqlite3';
import { FleetError } from '../errors.ts';
import { hashPartOf } from '../nix/storepath.ts';
import { createEnrolment } from './sqlite-enrolment.ts';
import { createIndex } from './sqlite-index.ts';
import { createSweeps } from './sqlite-sweep.ts';
import type { LeaseHolder, PublishedManifest, StateWrites } from './state.ts';

/** StateWrites without the promises: what runs inside the writer, inline or on its thread. */
export type SyncWrites = {
  readonly [K in keyof StateWrites]: (
    ...args: Parameters<StateWrites[K]>
  ) => Awaited<ReturnType<StateWrites[K]>>;
};

/** Each function is one IMMEDIATE transaction, and may throw SQLITE_BUSY before it did anything. */
export function createWrites(db: Database): SyncWrites {
  const useToplevel = db.prepare(
    'UPDATE cached_path SET used_at = max(used_at, ?) WHERE hash_part = ? AND path = ?',
  );
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

  const recordLease = db.transaction((pid: number, now: number): LeaseHolder => {
    const holder = putLease.get(pid, now, (readLease.get()?.fence ?? 0) + 1);
    if (holder === undefined) throw new FleetError('E_INTERNAL', 'the lease was not recorded');
    return holder;
  });

  type Manifests = readonly PublishedManifest[];
  const publish = db.transaction((manifests: Manifests, fence: number, now: number): void => {
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
      // With it all that it refers to is there, and stays: no row refers to a missing one.
      const { toplevel } = manifest;
      if (useToplevel.run(now, hashPartOf(toplevel), toplevel).changes === 0) {
        throw new FleetError('E_CACHE_INCOMPLETE', `the cache lacks ${toplevel}, for ${host}`);
      }
      addHost.run(host);
      addManifest.run(manifest);
    }
  });

  return {
    publish: (manifests, fence, now) => publish.immediate(manifests, fence, now),
    recordLease: (pid, now) => recordLease.immediate(pid, now),
    ...createIndex(db),
    ...createSweeps(db),
    ...createEnrolment(db),
  };
}
