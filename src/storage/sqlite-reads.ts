// State's questions about hosts, manifests and credentials as SQL, on a connection that cannot write.
import type { Database } from 'better-sqlite3';
import type { Conflict, RecordsBound, RecordsMark, RequestRow } from './host-life.ts';
import type { LogStateReads } from './log.ts';
import type { PackReads } from './packs.ts';
import { asking, type CacheReads } from './sqlite-cache-reads.ts';
import { CONFLICT, CREDENTIAL, HOST, INVITATION, MANIFEST, REPORT } from './sqlite-rows.ts';
import type {
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
const NEWEST = `NOT EXISTS (SELECT 1 FROM committed_manifest AS n
  WHERE n.host = m.host AND (n.epoch, n.sequence) > (m.epoch, m.sequence))`;

/** Receipts or conflicts of a host: those of some keys (as JSON; null: of all), up to a row. */
type Records = { readonly host: string; readonly keys: string | null; readonly last: number };
const BOUND = `host = @host AND id <= @last
  AND (@keys IS NULL OR host_key IN (SELECT value FROM json_each(@keys)))`;

function boundOf(host: string, bound: RecordsBound | undefined, kind: keyof RecordsMark): Records {
  return bound === undefined
    ? { host, keys: null, last: Number.MAX_SAFE_INTEGER }
    : { host, keys: JSON.stringify(bound.keys), last: bound.mark[kind] };
}

type HostReads = Omit<
  StateReads,
  keyof CacheReads | keyof LogStateReads | keyof PackReads | 'writes'
>;

/** `patience`: milliseconds to wait for a lock before E_STATE_BUSY. */
export function createReads(db: Database, patience: number): HostReads {
  const closureBytes = db
    .prepare<[string], number>(
      'SELECT closure_bytes FROM committed_manifest WHERE closure = ? LIMIT 1',
    )
    .pluck();
  const newestOf = db.prepare<[string], PublishedManifest>(
    `SELECT ${MANIFEST} FROM committed_manifest WHERE host = ? ORDER BY epoch DESC, sequence DESC LIMIT 1`,
  );
  const newest = db.prepare<[], PublishedManifest>(
    `SELECT ${MANIFEST} FROM committed_manifest AS m WHERE ${NEWEST} ORDER BY host`,
  );
  const recent = db.prepare<[number], PublishedManifest>(
    `SELECT ${MANIFEST} FROM (SELECT *, row_number() OVER
       (PARTITION BY host ORDER BY epoch DESC, sequence DESC) AS age FROM committed_manifest)
     WHERE age <= ? ORDER BY host, epoch, sequence`,
  );
  const history = db.prepare<[string], PublishedManifest>(
    `SELECT ${MANIFEST} FROM committed_manifest WHERE host = ? ORDER BY epoch, sequence`,
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
  const marks = db.prepare<[], RecordsMark>(
    `SELECT (SELECT ifnull(max(id), 0) FROM report) AS receipts,
       (SELECT ifnull(max(id), 0) FROM conflict) AS conflicts`,
  );
  const receipts = db
    .prepare<Records, string>(`SELECT envelope FROM report WHERE ${BOUND} ORDER BY id`)
    .pluck();
  const requests = db.prepare<[number], RequestRow>(
    `SELECT host, received_at AS receivedAt, envelope FROM report
     WHERE request IS NOT NULL AND received_at >= ? ORDER BY id`,
  );
  const heldHosts = db
    .prepare<[], string>('SELECT host FROM host WHERE held_at IS NOT NULL ORDER BY host')
    .pluck();
  const lastReports = db.prepare<[], ReportRecord>(
    `SELECT ${REPORT} FROM report WHERE id IN (SELECT max(id) FROM report
       JOIN host USING (host) WHERE host_key = public_key GROUP BY host)`,
  );
  const conflicts = db.prepare<Records, Conflict>(
    `SELECT ${CONFLICT} FROM conflict WHERE ${BOUND} ORDER BY id`,
  );
  const openConflicts = db.prepare<[], Pick<Conflict, 'kind' | 'seenAt'> & { host: string }>(
    `SELECT host, kind, seen_at AS seenAt FROM conflict
     JOIN host USING (host) WHERE host_key = public_key ORDER BY id`,
  );

  const ask = asking(db, patience);
  // One transaction, so that the lists are of one moment.
  const wholeStatus = db.transaction((): StatusRow[] => {
    const manifests = new Map(newest.all().map((row) => [row.host, row]));
    const reports = new Map(lastReports.all().map((row) => [row.host, row]));
    const contradictions = Map.groupBy(openConflicts.all(), (row) => row.host);
    return hosts.all().map((record) => ({
      record,
      manifest: manifests.get(record.host) ?? null,
      report: reports.get(record.host) ?? null,
      conflicts: (contradictions.get(record.host) ?? []).map(({ kind, seenAt }) => ({
        kind,
        seenAt,
      })),
    }));
  });

  return {
    closureSize: (blob) => ask(() => closureBytes.get(blob) ?? null),
    currentManifest: (name) => ask(() => newestOf.get(name) ?? null),
    currentManifests: () => ask(() => newest.all()),
    recentManifests: (perHost) => ask(() => recent.all(perHost)),
    manifestHistory: (name) => ask(() => history.all(name)),
    host: (name) => ask(() => host.get(name) ?? null),
    status: () => ask(wholeStatus),
    credential: (tokenHash) => ask(() => credential.get(tokenHash) ?? null),
    credentials: () => ask(() => credentials.all()),
    invitation: (secretHash) => ask(() => invitation.get(secretHash) ?? null),
    recordsMark: () => ask(() => marks.get() ?? { receipts: 0, conflicts: 0 }),
    receipts: (name, bound) => ask(() => receipts.all(boundOf(name, bound, 'receipts'))),
    requests: (since) => ask(() => requests.all(since)),
    heldHosts: () => ask(() => heldHosts.all()),
    conflicts: (name, bound) => ask(() => conflicts.all(boundOf(name, bound, 'conflicts'))),
    lastReport: (name) => ask(() => lastReport.get(name) ?? null),
    leaseHolder: () => ask(() => lease.get() ?? null),
  };
}
