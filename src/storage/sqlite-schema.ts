// The tables behind State, as numbered migrations. Opening an older database brings it up to date
// in one transaction; a newer one is refused (E_STATE_NEWER), because an older program cannot know
// what its rows mean. A migration that was released is never edited: a change is a new entry.
import type { Database } from 'better-sqlite3';
import { FleetError } from '../errors.ts';

/** Marks the file as fleet's (`PRAGMA application_id`); the bytes of "flet". */
export const APPLICATION_ID = 0x666c6574;

const MIGRATIONS: readonly string[] = [
  `
  CREATE TABLE cached_path (
    hash_part TEXT PRIMARY KEY CHECK (length(hash_part) = 32),
    path TEXT NOT NULL,
    nar_hash TEXT NOT NULL,
    nar_size INTEGER NOT NULL CHECK (nar_size > 0),
    -- Base names, sorted, separated by one space, as narinfo has them.
    refs TEXT NOT NULL,
    deriver TEXT,
    compression TEXT NOT NULL CHECK (compression = 'zstd'),
    blob TEXT NOT NULL CHECK (length(blob) = 64),
    blob_size INTEGER NOT NULL CHECK (blob_size > 0)
  ) STRICT, WITHOUT ROWID;

  -- Every NAR that a row ever named: its URL stays valid when the row is replaced.
  CREATE TABLE nar (
    blob TEXT PRIMARY KEY CHECK (length(blob) = 64),
    size INTEGER NOT NULL CHECK (size > 0)
  ) STRICT, WITHOUT ROWID;

  CREATE TABLE host (
    host TEXT PRIMARY KEY,
    public_key TEXT,
    enrolled_at INTEGER,
    last_seen INTEGER,
    CHECK ((public_key IS NULL) = (enrolled_at IS NULL))
  ) STRICT, WITHOUT ROWID;

  CREATE TABLE manifest (
    host TEXT NOT NULL REFERENCES host,
    epoch INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    digest TEXT NOT NULL CHECK (length(digest) = 64),
    envelope TEXT NOT NULL,
    toplevel TEXT NOT NULL,
    closure TEXT NOT NULL CHECK (length(closure) = 64),
    closure_bytes INTEGER NOT NULL CHECK (closure_bytes > 0),
    issued_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    PRIMARY KEY (host, epoch, sequence)
  ) STRICT;
  CREATE INDEX manifest_closure ON manifest (closure);

  CREATE TABLE lease (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    pid INTEGER NOT NULL,
    since INTEGER NOT NULL,
    fence INTEGER NOT NULL
  ) STRICT;

  CREATE TABLE invitation (
    secret_hash TEXT PRIMARY KEY,
    host TEXT NOT NULL REFERENCES host,
    expires_at INTEGER NOT NULL,
    used_key TEXT
  ) STRICT, WITHOUT ROWID;
  CREATE INDEX invitation_host ON invitation (host);

  CREATE TABLE credential (
    token_hash TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    scope TEXT NOT NULL CHECK (scope IN ('read', 'host')),
    host TEXT REFERENCES host,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    CHECK ((scope = 'host') = (host IS NOT NULL))
  ) STRICT, WITHOUT ROWID;
  CREATE INDEX credential_name ON credential (name);
  CREATE INDEX credential_host ON credential (host);

  CREATE TABLE report (
    id INTEGER PRIMARY KEY,
    host TEXT NOT NULL REFERENCES host,
    -- Counters start again with each host key.
    host_key TEXT NOT NULL,
    counter INTEGER NOT NULL CHECK (counter > 0),
    digest TEXT NOT NULL CHECK (length(digest) = 64),
    previous TEXT,
    received_at INTEGER NOT NULL,
    envelope TEXT NOT NULL,
    UNIQUE (host, host_key, counter)
  ) STRICT;
  CREATE INDEX report_host ON report (host, id);
  `,
];

/** The schema version that this program writes. */
export const SCHEMA_VERSION = MIGRATIONS.length;

/**
 * Refuses a database that is not fleet's or that a newer fleet wrote; returns its version.
 * @throws FleetError E_STATE_DAMAGED, E_STATE_NEWER.
 */
export function checkSchema(db: Database): number {
  const version = Number(db.pragma('user_version', { simple: true }));
  if (db.pragma('application_id', { simple: true }) !== APPLICATION_ID || version < 1) {
    throw new FleetError('E_STATE_DAMAGED', `${db.name} is not a database of fleet`);
  }
  if (version > SCHEMA_VERSION) {
    throw new FleetError(
      'E_STATE_NEWER',
      `${db.name} has schema version ${version}; this fleet knows versions up to ${SCHEMA_VERSION}`,
    );
  }
  return version;
}

/** Applies what is missing, all at once. `db` has passed `checkSchema`, or is empty and new. */
export function migrate(db: Database): void {
  db.transaction(() => {
    // Read again under the lock: another process may have migrated meanwhile.
    const from = Number(db.pragma('user_version', { simple: true }));
    for (const sql of MIGRATIONS.slice(from)) db.exec(sql);
    db.pragma(`application_id = ${APPLICATION_ID}`);
    db.pragma(`user_version = ${Math.max(from, SCHEMA_VERSION)}`);
  }).immediate();
}
