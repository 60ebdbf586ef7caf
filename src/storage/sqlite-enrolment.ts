// State's changes that say who a host is and what it reports: invitations, keys, tokens, receipts.
// Short synchronous transactions, as in sqlite-writes.ts.
import type { Database } from 'better-sqlite3';
import { FleetError } from '../errors.ts';
import {
  type ConflictKind,
  MAX_CONFLICTS,
  type RenewalOutcome,
  TOKEN_OVERLAP_SECONDS,
} from './host-life.ts';
import type { SyncWrites } from './sqlite-writes.ts';
import type { Credential, EnrolOutcome, Invitation, ReportOutcome, ReportRecord } from './state.ts';
import { hostCredentialName } from './state.ts';

type Enrolment = Pick<
  SyncWrites,
  'invite' | 'enrol' | 'addCredential' | 'revokeCredentials' | 'touchHost' | 'addReport'
> &
  Pick<SyncWrites, 'renewToken' | 'endLeaving' | 'holdHost' | 'noteProgress'>;

/** So many tokens of a host that have a successor are known by their hash, to tell who comes with one. */
const KEPT_PREDECESSORS = 8;

export function createEnrolment(db: Database): Enrolment {
  const addHost = db.prepare('INSERT OR IGNORE INTO host (host) VALUES (?)');
  const keyOf = db.prepare<[string], string | null>('SELECT public_key FROM host WHERE host = ?');
  keyOf.pluck();
  // What was said with the tokens of another key is no word of this one.
  const setKey = db.prepare(
    `UPDATE host SET public_key = ?, enrolled_at = ?, last_seen = ?, progress = NULL, progress_at = NULL
     WHERE host = ?`,
  );
  const seen = db.prepare('UPDATE host SET last_seen = ? WHERE host = ?');
  const dropUnused = db.prepare('DELETE FROM invitation WHERE host = ? AND used_key IS NULL');
  const addInvitation = db.prepare(
    'INSERT INTO invitation (secret_hash, host, expires_at) VALUES (@secretHash, @host, @expiresAt)',
  );
  const findInvitation = db.prepare<
    [string],
    { host: string; expiresAt: number; usedKey: string | null }
  >(
    `SELECT host, expires_at AS expiresAt, used_key AS usedKey
     FROM invitation WHERE secret_hash = ?`,
  );
  const useInvitation = db.prepare('UPDATE invitation SET used_key = ? WHERE secret_hash = ?');
  const putCredential = db.prepare(
    `INSERT INTO credential (token_hash, name, scope, host, created_at, expires_at)
     VALUES (@tokenHash, @name, @scope, @host, @createdAt, @expiresAt)`,
  );
  const dropCredentials = db.prepare('DELETE FROM credential WHERE name = ?');
  const lastReport = db.prepare<[string, string], { counter: number; digest: string }>(
    `SELECT counter, digest FROM report WHERE host = ? AND host_key = ?
     ORDER BY counter DESC LIMIT 1`,
  );
  const sameReport = db.prepare<[string, string, string]>(
    'SELECT 1 FROM report WHERE host = ? AND host_key = ? AND digest = ?',
  );
  const rivalReport = db.prepare<[string, string, number, string | null]>(
    `SELECT 1 FROM report WHERE host = ? AND host_key = ? AND (counter = ? OR previous IS ?)`,
  );
  const addReportRow = db.prepare(
    `INSERT INTO report (host, host_key, counter, digest, previous, received_at, envelope, request)
     VALUES (@host, @key, @counter, @digest, @previous, @receivedAt, @envelope, @request)`,
  );

  const hold = db.prepare<{ host: string; at: number; reason: string | null }>(
    `UPDATE host SET held_reason = CASE WHEN held_at IS NULL THEN @reason ELSE held_reason END,
       held_at = ifnull(held_at, @at) WHERE host = @host`,
  );
  const letGo = db.prepare<[string]>(
    'UPDATE host SET held_at = NULL, held_reason = NULL WHERE host = ?',
  );
  const noteProgress = db.prepare<[string, number, string]>(
    'UPDATE host SET progress = ?, progress_at = ? WHERE host = ?',
  );

  const isRemoved = db
    .prepare<[string], number>(
      `SELECT toplevel IS NULL FROM committed_manifest WHERE host = ?
       ORDER BY epoch DESC, sequence DESC LIMIT 1`,
    )
    .pluck();
  const conflicts = db
    .prepare<[string, string], number>(
      'SELECT count(*) FROM conflict WHERE host = ? AND host_key = ?',
    )
    .pluck();
  const addConflict = db.prepare(
    `INSERT OR IGNORE INTO conflict (host, host_key, kind, digest, seen_at, envelope)
     VALUES (?, ?, ?, ?, ?, ?)`,
  );
  const findToken = db.prepare<
    [string, string],
    { scope: string; expiresAt: number | null; successor: string | null }
  >(
    `SELECT scope, expires_at AS expiresAt, successor FROM credential
     WHERE token_hash = ? AND host = ?`,
  );
  const isToken = db.prepare<[string]>('SELECT 1 FROM credential WHERE token_hash = ?');
  const succeed = db.prepare(
    `UPDATE credential SET successor = @successor,
       expires_at = min(ifnull(expires_at, @until), @until) WHERE token_hash = @tokenHash`,
  );
  const dropOldest = db.prepare(
    `DELETE FROM credential WHERE host = @host AND successor IS NOT NULL AND token_hash NOT IN (
       SELECT token_hash FROM credential WHERE host = @host AND successor IS NOT NULL
       ORDER BY created_at DESC, token_hash LIMIT @most)`,
  );
  const endLeaving = db.prepare(
    `UPDATE credential SET expires_at = min(ifnull(expires_at, @at), @at)
     WHERE host = @host AND scope = 'leaving'`,
  );

  /** Keeps what a host's key signed and should not have, once, and no more than there is room for. */
  const noteConflict = (
    kind: ConflictKind,
    { host, digest, envelope }: Pick<ReportRecord, 'host' | 'digest' | 'envelope'>,
    key: string,
    seenAt: number,
  ): void => {
    if ((conflicts.get(host, key) ?? 0) >= MAX_CONFLICTS) return;
    addConflict.run(host, key, kind, digest, seenAt, envelope);
  };

  const invite = db.transaction((invitation: Invitation): void => {
    const { host } = invitation;
    if (isRemoved.get(host) === 1) {
      throw new FleetError('E_DECOMMISSIONED', `${host} was removed from the fleet`);
    }
    addHost.run(invitation.host);
    dropUnused.run(invitation.host);
    addInvitation.run(invitation);
  });

  const enrol = db.transaction((request: Parameters<Enrolment['enrol']>[0]): EnrolOutcome => {
    const { secretHash, publicKey, tokenHash, now, expiresAt: tokenExpiresAt } = request;
    const invitation = findInvitation.get(secretHash);
    if (invitation === undefined) return 'unknown';
    const { host, expiresAt, usedKey } = invitation;
    // A key that was replaced since must not come back by an old invitation.
    if (usedKey !== null && (usedKey !== publicKey || keyOf.get(host) !== publicKey)) {
      return 'used';
    }
    if (now >= expiresAt) return 'expired';
    if (isRemoved.get(host) === 1) return 'removed';
    const name = hostCredentialName(host);
    if (usedKey === null) {
      // The tokens of the key that is replaced end with it.
      dropCredentials.run(name);
      useInvitation.run(publicKey, secretHash);
      setKey.run(publicKey, now, now, host);
    }
    const credential: Credential = {
      tokenHash,
      name,
      scope: 'host',
      host,
      createdAt: now,
      expiresAt: tokenExpiresAt ?? null,
    };
    putCredential.run(credential);
    return usedKey === null ? 'enrolled' : 'replay';
  });

  const renewToken = db.transaction(
    (request: Parameters<Enrolment['renewToken']>[0]): RenewalOutcome => {
      const { host, publicKey, replaces, tokenHash, now, expiresAt } = request;
      const old = findToken.get(replaces, host);
      // Its key may have been replaced since the request was checked.
      if (old === undefined || keyOf.get(host) !== publicKey) return { outcome: 'unknown' };
      if (old.successor === tokenHash) {
        const next = findToken.get(tokenHash, host);
        if (next === undefined) return { outcome: 'unknown' };
        return { outcome: 'renewed', expiresAt: next.expiresAt };
      }
      if (old.scope !== 'host') return { outcome: 'leaving' };
      if (old.successor !== null) {
        noteConflict('token', request, publicKey, now);
        return { outcome: 'successor' };
      }
      if (isToken.get(tokenHash) !== undefined) return { outcome: 'unknown' };
      const name = hostCredentialName(host);
      putCredential.run({ tokenHash, name, scope: 'host', host, createdAt: now, expiresAt });
      const until = now + TOKEN_OVERLAP_SECONDS;
      succeed.run({ tokenHash: replaces, successor: tokenHash, until });
      dropOldest.run({ host, most: KEPT_PREDECESSORS });
      return { outcome: 'renewed', expiresAt };
    },
  );

  const addReport = db.transaction((report: ReportRecord): ReportOutcome => {
    const { host, counter, digest, previous } = report;
    const key = keyOf.get(host) ?? null;
    if (key === null) throw new FleetError('E_HOST_UNKNOWN', `host ${host} is not enrolled`);
    if (sameReport.get(host, key, digest) !== undefined) return 'duplicate';
    const misfit = (kind: 'fork' | 'gap'): ReportOutcome => {
      noteConflict(kind, report, key, report.receivedAt);
      return kind;
    };
    if (rivalReport.get(host, key, counter, previous) !== undefined) return misfit('fork');
    const last = lastReport.get(host, key);
    if (counter !== (last?.counter ?? 0) + 1) return misfit('gap');
    // Right counter, but after a receipt that is not the one stored under counter - 1.
    if (previous !== (last?.digest ?? null)) return misfit(last === undefined ? 'gap' : 'fork');
    addReportRow.run({ ...report, key, request: report.request ?? null });
    seen.run(report.receivedAt, host);
    return 'stored';
  });

  return {
    invite: (invitation) => invite.immediate(invitation),
    enrol: (request) => enrol.immediate(request),
    addCredential: (credential) => void putCredential.run(credential),
    revokeCredentials: (name) => dropCredentials.run(name).changes,
    renewToken: (request) => renewToken.immediate(request),
    endLeaving: (host, at) => void endLeaving.run({ host, at }),
    holdHost: (host, held) =>
      (held === null ? letGo.run(host) : hold.run({ host, ...held })).changes > 0,
    noteProgress: (host, progress, at) => void noteProgress.run(progress, at, host),
    touchHost: (host, now) => void seen.run(now, host),
    addReport: (report) => addReport.immediate(report),
  };
}
