// What State keeps of a transparency log, as SQL: entries are staged behind the head in short transactions,
// which nobody sees, and become part of the log when one small transaction moves the head.
import type { Database } from 'better-sqlite3';
import { FleetError } from '../errors.ts';
import type { StorePath } from '../nix/storepath.ts';
import { LEAVE_SECONDS } from './host-life.ts';
import type {
  HostEntry,
  LogEntry,
  LoggedApproval,
  LoggedEnrolment,
  LoggedManifest,
  LogHead,
  LogStateReads,
  LogStateWrites,
  StagedEntry,
  UnloggedKey,
} from './log.ts';
import { asking } from './sqlite-cache-reads.ts';
import { MANIFEST, words } from './sqlite-rows.ts';
import type { LeaseHolder, PublishedManifest } from './state.ts';

/** Read-only connections. */
export function createLogReads(db: Database, patience: number): LogStateReads {
  const ask = asking(db, patience);
  const head = db.prepare<[number], LogHead>(HEAD);
  const entries = db.prepare<{ log: number; from: number; limit: number }, LogEntry>(
    `SELECT * FROM (
       SELECT idx AS "index", data FROM log_entry WHERE log = @log AND idx >= @from
       UNION ALL
       SELECT log_index, CAST(envelope AS BLOB) FROM manifest WHERE log = @log AND log_index >= @from
     ) ORDER BY 1 LIMIT @limit`,
  );
  const hosts = db.prepare<[number, number], HostEntry>(
    `SELECT host, epoch, sequence, digest FROM (
       SELECT host, epoch, sequence, digest, row_number() OVER
         (PARTITION BY host ORDER BY epoch DESC, sequence DESC) AS age
       FROM manifest WHERE log = ? AND log_index < ?
     ) WHERE age = 1 ORDER BY host`,
  );
  const pending = db.prepare<[], PublishedManifest>(
    `SELECT ${MANIFEST} FROM pending_manifest ORDER BY host`,
  );
  const logged = db.prepare<[string, number, number], LoggedManifest>(
    `SELECT ${MANIFEST}, log_index AS logIndex, approved_by AS approvedBy FROM manifest
     WHERE host = ? AND log = ? AND log_index < ? ORDER BY epoch DESC, sequence DESC LIMIT 1`,
  );
  const approval = db.prepare<[number, number], { data: Uint8Array; batch: string | null }>(
    'SELECT data, batch FROM log_entry WHERE log = ? AND idx = ?',
  );
  const approvalAt = (log: number, logIndex: number): LoggedApproval | null => {
    const row = approval.get(log, logIndex);
    if (row === undefined) return null;
    const envelope = Buffer.from(row.data).toString('utf8');
    return { envelope, batch: words(row.batch ?? ''), logIndex };
  };
  const approvals = db.prepare<[number, number, number], { idx: number }>(
    "SELECT idx FROM log_entry WHERE log = ? AND idx >= ? AND idx < ? AND kind = 'approval' ORDER BY idx",
  );
  const closures = db
    .prepare<[number, number], string>(
      `SELECT DISTINCT closure FROM manifest
       WHERE log = ? AND log_index < ? AND closure IS NOT NULL ORDER BY closure`,
    )
    .pluck();
  const unlogged = db.prepare<[number], UnloggedKey>(
    `SELECT host, public_key AS publicKey, nullif(logged_key, public_key) AS replaces FROM host
     WHERE public_key IS NOT NULL AND (public_key, ?) IS NOT (logged_key, logged_in) ORDER BY host`,
  );
  const enrolments = db.prepare<[number, number, string], LoggedEnrolment>(
    `SELECT idx AS "index", CAST(data AS TEXT) AS envelope FROM log_entry
     WHERE log = ? AND idx < ? AND host = ? ORDER BY idx`,
  );
  const told = db.prepare<[number, number, number], { host: string; publicKey: string }>(
    `SELECT DISTINCT host, host_key AS publicKey FROM log_entry
     WHERE kind = 'enrolment' AND (log < ? OR (log = ? AND idx < ?))`,
  );
  const toldKeys = (log: number, size: number) => {
    const keys = new Map<string, string[]>();
    for (const { host, publicKey } of told.all(log, log, size)) {
      keys.set(host, [...(keys.get(host) ?? []), publicKey]);
    }
    return keys;
  };
  return {
    toldKeys: (log, size) => ask(() => toldKeys(log, size)),
    loggedEnrolments: (host, log, size) => ask(() => enrolments.all(log, size, host)),
    approvals: (log, from, to) =>
      ask(() => approvals.all(log, from, to).flatMap(({ idx }) => approvalAt(log, idx) ?? [])),
    loggedClosures: (log, size) => ask(() => closures.all(log, size)),
    unloggedKeys: (log) => ask(() => unlogged.all(log)),
    logHead: (log) => ask(() => head.get(log) ?? null),
    logEntries: (log, from, limit) => ask(() => entries.all({ log, from, limit })),
    hostEntries: (log, size) => ask(() => hosts.all(log, size)),
    pendingManifests: () => ask(() => pending.all()),
    loggedManifest: (host, log, size) => ask(() => logged.get(host, log, size) ?? null),
  };
}

type SyncLogWrites = {
  readonly [K in keyof LogStateWrites]: (
    ...args: Parameters<LogStateWrites[K]>
  ) => Awaited<ReturnType<LogStateWrites[K]>>;
};

/** Entries of `log` from `from` up to `size`, and the manifests among them. */
type Part = { readonly log: number; readonly from: number; readonly size: number };
const STAGED = 'manifest WHERE log = @log AND log_index >= @from AND log_index < @size';
/** So that the transaction stays below 20 ms. */
const DROPPED_AT_ONCE = 200;

const HEAD =
  'SELECT log, size, lower(hex(root)) AS root, snapshots, roots FROM log_head WHERE log = ?';

/** Each function is one IMMEDIATE transaction. */
export function createLogWrites(db: Database): SyncLogWrites {
  const head = db.prepare<[number], LogHead>(HEAD);
  const lease = db.prepare<[], LeaseHolder>('SELECT pid, since, fence FROM lease');
  const dropEntries = db.prepare(
    `DELETE FROM log_entry WHERE log = @log AND idx IN
       (SELECT idx FROM log_entry WHERE log = @log AND idx >= @size LIMIT @limit)`,
  );
  const dropManifests = db.prepare(
    `DELETE FROM manifest WHERE log = @log AND log_index IN
       (SELECT log_index FROM manifest WHERE log = @log AND log_index >= @size LIMIT @limit)`,
  );
  const logBefore = db.prepare<{ log: number }, { log: number | null }>(
    `SELECT max(log) AS log FROM (
       SELECT max(log) AS log FROM manifest WHERE log < @log
       UNION ALL
       SELECT max(log) FROM log_entry WHERE log < @log)`,
  );
  const addEntry = db.prepare(
    `INSERT INTO log_entry (log, idx, kind, data, batch, host, host_key)
     VALUES (?, ?, ?, ?, ?, ?, ?)`,
  );
  const addHost = db.prepare('INSERT OR IGNORE INTO host (host) VALUES (?)');
  const newest = db.prepare<
    [string],
    { epoch: number; sequence: number; toplevel: StorePath | null }
  >(
    `SELECT epoch, sequence, toplevel FROM committed_manifest WHERE host = ?
     ORDER BY epoch DESC, sequence DESC LIMIT 1`,
  );
  const addManifest = db.prepare(
    `INSERT INTO manifest (host, epoch, sequence, digest, envelope, toplevel, closure,
       closure_bytes, issued_at, expires_at, log, log_index, approved_by)
     VALUES (@host, @epoch, @sequence, @digest, @envelope, @toplevel, @closure,
       @closureBytes, @issuedAt, @expiresAt, @log, @index, @approvedBy)`,
  );
  // Whatever was waiting for this host followed another manifest than it has now.
  const dropOvertaken = db.prepare<Part>(
    `DELETE FROM pending_manifest WHERE host IN (SELECT host FROM ${STAGED})`,
  );
  const dropPending = db.prepare('DELETE FROM pending_manifest WHERE host = ?');
  const unserved = db.prepare<Part, { host: string; toplevel: StorePath }>(
    `SELECT host, toplevel FROM ${STAGED} AND toplevel IS NOT NULL AND NOT EXISTS (SELECT 1 FROM cached_path
       WHERE hash_part = substr(toplevel, 12, 32) AND path = toplevel) LIMIT 1`,
  );
  const droppedPaths = db.prepare<[], number>('SELECT count FROM dropped_paths').pluck();
  const ENDED = `SELECT host FROM ${STAGED} AND toplevel IS NULL`;
  // The newest token of a host that was away is good again, if it has run out: the host is to be told. What has a
  // successor is not, nor is anything put off when the same is said again.
  const endTokens = db.prepare<Part & { until: number }>(
    `UPDATE credential SET scope = 'leaving', expires_at = CASE
       WHEN scope = 'host' AND successor IS NULL THEN @until
       ELSE min(ifnull(expires_at, @until), @until) END
     WHERE host IN (${ENDED})`,
  );
  const endInvitations = db.prepare<Part>(
    `DELETE FROM invitation WHERE used_key IS NULL AND host IN (${ENDED})`,
  );
  const counts = db.prepare<Part, { n: number }>(
    `SELECT (SELECT count(*) FROM ${STAGED})
       + (SELECT count(*) FROM log_entry WHERE log = @log AND idx >= @from AND idx < @size) AS n`,
  );
  const useToplevels = db.prepare<Part & { now: number }>(
    `UPDATE cached_path SET used_at = @now WHERE used_at < @now
       AND hash_part IN (SELECT substr(toplevel, 12, 32) FROM ${STAGED})`,
  );
  const putPending = db.prepare(
    `INSERT OR REPLACE INTO pending_manifest (host, epoch, sequence, digest, envelope, toplevel, closure,
       closure_bytes, issued_at, expires_at)
     VALUES (@host, @epoch, @sequence, @digest, @envelope, @toplevel, @closure,
       @closureBytes, @issuedAt, @expiresAt)`,
  );
  const markLogged = db.prepare(
    `UPDATE host SET logged_key = e.host_key, logged_in = @log FROM log_entry AS e
     WHERE e.log = @log AND e.idx >= @from AND e.idx < @size AND e.host = host.host`,
  );
  const putHead = db.prepare(
    `INSERT OR REPLACE INTO log_head (log, size, root, snapshots, roots)
     VALUES (@log, @size, unhex(@root), @snapshots, @roots)`,
  );

  const requireLease = (fence: number): void => {
    const holder = lease.get();
    if (holder?.fence === fence) return;
    const now = holder === undefined ? 'nobody holds it' : `process ${holder.pid} holds it now`;
    throw new FleetError('E_LEASE_LOST', `this process lost the publication lease: ${now}`);
  };
  const sizeOf = (log: number): number => head.get(log)?.size ?? 0;

  const dropStaged = db.transaction((log: number, fence: number): number => {
    requireLease(fence);
    let dropped = 0;
    // Also in the logs before: a number that is taken there could not be given again.
    for (let at: number | null = log; at !== null; at = logBefore.get({ log: at })?.log ?? null) {
      const part = { log: at, size: sizeOf(at), limit: DROPPED_AT_ONCE };
      dropped += dropEntries.run(part).changes + dropManifests.run(part).changes;
    }
    return dropped;
  });

  const stageEntries = db.transaction(
    (log: number, entries: readonly StagedEntry[], fence: number): void => {
      requireLease(fence);
      const size = sizeOf(log);
      for (const entry of entries) {
        const { index } = entry;
        if (index < size) throw new FleetError('E_INTERNAL', `entry ${index} is committed already`);
        if (!('manifest' in entry)) {
          const { host: enrolled, publicKey } = entry.enrols ?? {};
          const batch = entry.batch?.join(' ') ?? null;
          addEntry.run(log, index, entry.kind, entry.data, batch, enrolled, publicKey);
          continue;
        }
        const { host, epoch, sequence } = entry.manifest;
        const last = newest.get(host);
        const grows =
          last === undefined ||
          epoch > last.epoch ||
          (epoch === last.epoch && sequence > last.sequence);
        if (!grows) {
          const numbers = `manifest ${epoch}.${sequence} of host ${host}`;
          const follows = `does not follow ${last.epoch}.${last.sequence}`;
          throw new FleetError('E_SEQUENCE', `${numbers} ${follows}`);
        }
        if (last?.toplevel === null && entry.manifest.toplevel !== null) {
          throw new FleetError('E_DECOMMISSIONED', `${host} was removed from the fleet`);
        }
        addHost.run(host);
        addManifest.run({ ...entry.manifest, log, index, approvedBy: entry.approvedBy ?? null });
      }
    },
  );

  const commitLog = db.transaction((...args: Parameters<SyncLogWrites['commitLog']>): void => {
    const [next, fence, now, dropped] = args;
    requireLease(fence);
    const { log, size } = next;
    const from = sizeOf(log);
    const part = { log, from, size };
    const there = counts.get(part)?.n ?? 0;
    if (there !== size - from) {
      throw new FleetError(
        'E_INTERNAL',
        `${there} of ${size - from} entries of the log are staged`,
      );
    }
    // With a toplevel all that it refers to is there, unless something was taken out of service since that was made
    // sure of: a collection takes nothing that a row refers to.
    const lacking = unserved.get(part);
    if (lacking !== undefined) {
      const { host, toplevel } = lacking;
      throw new FleetError('E_CACHE_INCOMPLETE', `the cache lacks ${toplevel}, for ${host}`);
    }
    const lost = dropped === null ? 0 : (droppedPaths.get() ?? 0) - dropped;
    if (lost !== 0) {
      const what = `${lost} damaged paths were taken out of the cache during this publication`;
      throw new FleetError('E_CACHE_INCOMPLETE', what, {
        hint: 'run it again: it says what has to be stored anew, if anything',
      });
    }
    useToplevels.run({ ...part, now });
    endTokens.run({ ...part, until: now + LEAVE_SECONDS });
    endInvitations.run(part);
    dropOvertaken.run(part);
    markLogged.run(part);
    putHead.run(next);
  });

  const changePending = db.transaction(
    (put: readonly PublishedManifest[], drop: readonly string[], fence: number): void => {
      requireLease(fence);
      for (const host of drop) dropPending.run(host);
      for (const manifest of put) {
        addHost.run(manifest.host);
        putPending.run(manifest);
      }
    },
  );

  return {
    changePending: (put, drop, fence) => changePending.immediate(put, drop, fence),
    dropStaged: (log, fence) => dropStaged.immediate(log, fence),
    stageEntries: (log, entries, fence) => stageEntries.immediate(log, entries, fence),
    commitLog: (...args) => commitLog.immediate(...args),
  };
}
