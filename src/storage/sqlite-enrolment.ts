// State's changes that say who a host is and what it reports: invitations, keys, tokens, receipts.
// Short synchronous transactions, as in sqlite-writes.ts.
import type { Database } from 'better-sqlite3';
import { FleetError } from '../errors.ts';
import type { SyncWrites } from './sqlite-writes.ts';
import type { Credential, EnrolOutcome, Invitation, ReportOutcome, ReportRecord } from './state.ts';
import { hostCredentialName } from './state.ts';

type Enrolment = Pick<
  SyncWrites,
  'invite' | 'enrol' | 'addCredential' | 'revokeCredentials' | 'touchHost' | 'addReport'
>;

export function createEnrolment(db: Database): Enrolment {
  const addHost = db.prepare('INSERT OR IGNORE INTO host (host) VALUES (?)');
  const keyOf = db.prepare<[string], string | null>('SELECT public_key FROM host WHERE host = ?');
  keyOf.pluck();
  const setKey = db.prepare(
    'UPDATE host SET public_key = ?, enrolled_at = ?, last_seen = ? WHERE host = ?',
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
    `INSERT INTO report (host, host_key, counter, digest, previous, received_at, envelope)
     VALUES (@host, @key, @counter, @digest, @previous, @receivedAt, @envelope)`,
  );

  const invite = db.transaction((invitation: Invitation): void => {
    addHost.run(invitation.host);
    dropUnused.run(invitation.host);
    addInvitation.run(invitation);
  });

  const enrol = db.transaction((request: Parameters<Enrolment['enrol']>[0]): EnrolOutcome => {
    const { secretHash, publicKey, tokenHash, now } = request;
    const invitation = findInvitation.get(secretHash);
    if (invitation === undefined) return 'unknown';
    const { host, expiresAt, usedKey } = invitation;
    // A key that was replaced since must not come back by an old invitation.
    if (usedKey !== null && (usedKey !== publicKey || keyOf.get(host) !== publicKey)) {
      return 'used';
    }
    if (now >= expiresAt) return 'expired';
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
      expiresAt: null,
    };
    putCredential.run(credential);
    return usedKey === null ? 'enrolled' : 'replay';
  });

  const addReport = db.transaction((report: ReportRecord): ReportOutcome => {
    const { host, counter, digest, previous } = report;
    const key = keyOf.get(host) ?? null;
    if (key === null) throw new FleetError('E_HOST_UNKNOWN', `host ${host} is not enrolled`);
    if (sameReport.get(host, key, digest) !== undefined) return 'duplicate';
    if (rivalReport.get(host, key, counter, previous) !== undefined) return 'fork';
    const last = lastReport.get(host, key);
    if (counter !== (last?.counter ?? 0) + 1) return 'gap';
    // Right counter, but after a receipt that is not the one stored under counter - 1.
    if (previous !== (last?.digest ?? null)) return last === undefined ? 'gap' : 'fork';
    addReportRow.run({ ...report, key });
    seen.run(report.receivedAt, host);
    return 'stored';
  });

  return {
    invite: (invitation) => invite.immediate(invitation),
    enrol: (request) => enrol.immediate(request),
    addCredential: (credential) => void putCredential.run(credential),
    revokeCredentials: (name) => dropCredentials.run(name).changes,
    touchHost: (host, now) => void seen.run(now, host),
    addReport: (report) => addReport.immediate(report),
  };
}
