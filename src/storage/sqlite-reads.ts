// State's questions as SQL, on a connection that cannot write. In WAL mode a reader never waits
// for a writer; the rare lock (recovery after a crash) is waited for without blocking.
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Database } from 'better-sqlite3';
import { asStateError } from './sqlite-database.ts';
import { patiently } from './sqlite-patience.ts';
import {
  CACHED_PATH,
  type CachedPathRow,
  CREDENTIAL,
  cachedPathOf,
  HOST,
  INVITATION,
  MANIFEST,
  REPORT,
} from './sqlite-rows.ts';
import type {
  CachedPath,
  Credential,
  HostRecord,
  Invitation,
  LeaseHolder,
  PublishedManifest,
  ReportRecord,
  StateReads,
  StatusRow,
} from './state.ts';

/** The newest manifest of each host: (epoch, sequence) compares as a pair. */
const NEWEST = `NOT EXISTS (SELECT 1 FROM manifest AS n
  WHERE n.host = manifest.host AND (n.epoch, n.sequence) > (manifest.epoch, manifest.sequence))`;

// A question about more paths than this is asked in parts, so that the event loop goes on.
const PATHS_PER_QUERY = 500;

/** `patience`: milliseconds to wait for a lock before E_STATE_BUSY. */
export function createReads(db: Database, patience: number): StateReads {
  const byHashPart = db.prepare<[string], CachedPathRow>(
    `SELECT ${CACHED_PATH} FROM cached_path WHERE hash_part = ?`,
  );
  const byPaths = db.prepare<[string], CachedPathRow>(
    `SELECT ${CACHED_PATH} FROM cached_path
     WHERE (hash_part, path) IN (SELECT substr(value, 12, 32), value FROM json_each(?))`,
  );
  const narSize = db.prepare<[string], number>('SELECT size FROM nar WHERE blob = ?').pluck();
  const closureBytes = db
    .prepare<[string], number>('SELECT closure_bytes FROM manifest WHERE closure = ? LIMIT 1')
    .pluck();
  const newestOf = db.prepare<[string], PublishedManifest>(
    `SELECT ${MANIFEST} FROM manifest WHERE host = ? ORDER BY epoch DESC, sequence DESC LIMIT 1`,
  );
  const newest = db.prepare<[], PublishedManifest>(
    `SELECT ${MANIFEST} FROM manifest WHERE ${NEWEST} ORDER BY host`,
  );
  const history = db.prepare<[string], PublishedManifest>(
    `SELECT ${MANIFEST} FROM manifest WHERE host = ? ORDER BY epoch, sequence`,
  );
  const host = db.prepare<[string], HostRecord>(`SELECT ${HOST} FROM host WHERE host = ?`);
  const hosts = db.prepare<[], HostRecord>(`SELECT ${HOST} FROM host ORDER BY host`);
  const lease = db.prepare<[], LeaseHolder>('SELECT pid, since, fence FROM lease');
  const credential = db.prepare<[string], Credential>(
    `SELECT ${CREDENTIAL} FROM credential WHERE token_hash = ?`,
  );
  const credentials = db.prepare<[], Credential>(
    `SELECT ${CREDENTIAL} FROM credential ORDER BY name, created_at, token_hash`,
  );
  const invitation = db.prepare<[string], Invitation>(
    `SELECT ${INVITATION} FROM invitation WHERE secret_hash = ?`,
  );
  const lastReport = db.prepare<[string], ReportRecord>(
    `SELECT ${REPORT} FROM report WHERE host = ? ORDER BY id DESC LIMIT 1`,
  );
  const lastReports = db.prepare<[], ReportRecord>(
    `SELECT ${REPORT} FROM report WHERE id IN (SELECT max(id) FROM report GROUP BY host)`,
  );

  const ask = async <T>(question: () => T): Promise<T> => {
    try {
      return await patiently(db.name, performance.now() + patience, question);
    } catch (error) {
      throw asStateError(error, db.name);
    }
  };
  // One transaction, so that the three lists are of one moment.
  const wholeStatus = db.transaction((): StatusRow[] => {
    const manifests = new Map(newest.all().map((row) => [row.host, row]));
    const reports = new Map(lastReports.all().map((row) => [row.host, row]));
    return hosts.all().map((record) => ({
      record,
      manifest: manifests.get(record.host) ?? null,
      report: reports.get(record.host) ?? null,
    }));
  });

  return {
    cachedPath: (hashPart) => ask(() => optional(byHashPart.get(hashPart), cachedPathOf)),
    async cachedPaths(paths) {
      const found: CachedPath[] = [];
      for (let at = 0; at < paths.length; at += PATHS_PER_QUERY) {
        if (at > 0) await nextTurn();
        const part = JSON.stringify(paths.slice(at, at + PATHS_PER_QUERY));
        for (const row of await ask(() => byPaths.all(part))) found.push(cachedPathOf(row));
      }
      return found;
    },
    narBlobSize: (blob) => ask(() => narSize.get(blob) ?? null),
    closureSize: (blob) => ask(() => closureBytes.get(blob) ?? null),
    currentManifest: (name) => ask(() => newestOf.get(name) ?? null),
    currentManifests: () => ask(() => newest.all()),
    manifestHistory: (name) => ask(() => history.all(name)),
    host: (name) => ask(() => host.get(name) ?? null),
    status: () => ask(wholeStatus),
    credential: (tokenHash) => ask(() => credential.get(tokenHash) ?? null),
    credentials: () => ask(() => credentials.all()),
    invitation: (secretHash) => ask(() => invitation.get(secretHash) ?? null),
    lastReport: (name) => ask(() => lastReport.get(name) ?? null),
    leaseHolder: () => ask(() => lease.get() ?? null),
  };
}

function optional<A, B>(value: A | undefined, convert: (value: A) => B): B | null {
  return value === undefined ? null : convert(value);
}
