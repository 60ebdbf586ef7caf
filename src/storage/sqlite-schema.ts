// The tables behind State, as numbered migrations. Opening an older database brings it up to date
// in one transaction; a newer one is refused (E_STATE_NEWER), because an older program cannot know
// what its rows mean. A migration that was released is never edited: a change is a new entry.
import type { Database } from 'better-sqlite3';
import { FleetError } from '../errors.ts';
import { HOSTS_LIVES } from './schema-hosts.ts';
import { PACKS } from './schema-packs.ts';

/** Marks the file as fleet's (`PRAGMA application_id`); the bytes of "flet". */
export const APPLICATION_ID = 0x666c6574;

/** In their order; a database has had as many of them as its version says. */
export const MIGRATIONS: readonly string[] = [
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
  // 2: what a whole cache keeps. Tables whose checks change are made anew.
  `
  CREATE TABLE cached_path_2 (
    hash_part TEXT PRIMARY KEY CHECK (length(hash_part) = 32),
    path TEXT NOT NULL,
    nar_hash TEXT NOT NULL,
    nar_size INTEGER NOT NULL CHECK (nar_size > 0),
    -- Base names, sorted, separated by one space, as narinfo has them.
    refs TEXT NOT NULL,
    deriver TEXT,
    -- Signatures of others, separated by one space.
    sigs TEXT NOT NULL,
    ca TEXT,
    used_at INTEGER NOT NULL,
    compression TEXT NOT NULL CHECK (compression IN ('none', 'xz', 'bzip2', 'br', 'zstd')),
    -- Either a blob of ours, which is zstd, or a NAR at an upstream.
    blob TEXT CHECK (length(blob) = 64),
    blob_size INTEGER CHECK (blob_size > 0),
    upstream_url TEXT,
    file_hash TEXT,
    file_size INTEGER,
    CHECK ((blob IS NULL) = (blob_size IS NULL)),
    CHECK ((blob IS NULL) = (upstream_url IS NOT NULL)),
    CHECK (blob IS NULL OR compression = 'zstd')
  ) STRICT, WITHOUT ROWID;
  INSERT INTO cached_path_2
    SELECT hash_part, path, nar_hash, nar_size, refs, deriver, '', NULL, unixepoch(),
      compression, blob, blob_size, NULL, NULL, NULL FROM cached_path;
  DROP TABLE cached_path;
  ALTER TABLE cached_path_2 RENAME TO cached_path;
  CREATE INDEX cached_path_blob ON cached_path (blob);
  CREATE INDEX cached_path_deriver ON cached_path (deriver);

  -- Who refers to whom, by hash part, self-references included.
  CREATE TABLE path_reference (
    referrer TEXT NOT NULL,
    referred TEXT NOT NULL,
    PRIMARY KEY (referrer, referred)
  ) STRICT, WITHOUT ROWID;
  CREATE INDEX path_reference_referred ON path_reference (referred, referrer);
  INSERT OR IGNORE INTO path_reference
    SELECT hash_part, substr(name.value, 1, 32)
    FROM cached_path, json_each('["' || replace(refs, ' ', '","') || '"]') AS name
    WHERE refs <> '';

  -- When the last row that named it went or got another; NULL while one names it.
  ALTER TABLE nar ADD COLUMN released_at INTEGER;
  UPDATE nar SET released_at = unixepoch()
    WHERE NOT EXISTS (SELECT 1 FROM cached_path WHERE cached_path.blob = nar.blob);
  CREATE INDEX nar_released ON nar (released_at) WHERE released_at IS NOT NULL;

  CREATE TABLE listing (
    hash_part TEXT PRIMARY KEY,
    zstd BLOB NOT NULL
  ) STRICT;

  CREATE TABLE debug_file (
    build_id TEXT NOT NULL CHECK (length(build_id) = 40),
    hash_part TEXT NOT NULL,
    member TEXT NOT NULL,
    PRIMARY KEY (build_id, hash_part, member)
  ) STRICT, WITHOUT ROWID;
  CREATE INDEX debug_file_path ON debug_file (hash_part);

  CREATE TABLE build_log (
    drv TEXT PRIMARY KEY,
    blob TEXT NOT NULL CHECK (length(blob) = 64),
    size INTEGER NOT NULL CHECK (size > 0),
    used_at INTEGER NOT NULL
  ) STRICT, WITHOUT ROWID;
  CREATE INDEX build_log_blob ON build_log (blob);

  CREATE TABLE realisation (
    key TEXT PRIMARY KEY,
    out_path TEXT NOT NULL,
    json TEXT NOT NULL,
    used_at INTEGER NOT NULL
  ) STRICT, WITHOUT ROWID;

  CREATE TABLE staged_nar (
    file TEXT PRIMARY KEY,
    nar_hash TEXT NOT NULL,
    nar_size INTEGER NOT NULL CHECK (nar_size > 0),
    file_hash TEXT NOT NULL,
    file_size INTEGER NOT NULL,
    blob TEXT NOT NULL CHECK (length(blob) = 64),
    blob_size INTEGER NOT NULL CHECK (blob_size > 0),
    flat_hash TEXT,
    -- Hash parts, separated by one space.
    mentions TEXT NOT NULL,
    listing BLOB,
    -- JSON: [{"buildId", "member"}, …]
    debug_files TEXT NOT NULL,
    staged_at INTEGER NOT NULL
  ) STRICT;
  CREATE INDEX staged_nar_blob ON staged_nar (blob);

  CREATE TABLE pin (
    name TEXT PRIMARY KEY,
    path TEXT NOT NULL,
    created_at INTEGER NOT NULL
  ) STRICT, WITHOUT ROWID;

  CREATE TABLE credential_2 (
    token_hash TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    scope TEXT NOT NULL CHECK (scope IN ('read', 'push', 'host', 'admin')),
    host TEXT REFERENCES host,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    CHECK ((scope = 'host') = (host IS NOT NULL))
  ) STRICT, WITHOUT ROWID;
  INSERT INTO credential_2 SELECT * FROM credential;
  DROP TABLE credential;
  ALTER TABLE credential_2 RENAME TO credential;
  CREATE INDEX credential_name ON credential (name);
  CREATE INDEX credential_host ON credential (host);
  `,
  // 3: the transparency log.
  `
  -- What was committed of each log; a checkpoint of just this is signed.
  CREATE TABLE log_head (
    log INTEGER PRIMARY KEY CHECK (log > 0),
    size INTEGER NOT NULL CHECK (size > 0),
    root BLOB NOT NULL CHECK (length(root) = 32),
    snapshots INTEGER NOT NULL CHECK (snapshots > 0),
    roots INTEGER NOT NULL CHECK (roots > 0)
  ) STRICT;

  -- Entries that are no manifests. Those at or behind the head are staged: part of nothing yet.
  CREATE TABLE log_entry (
    log INTEGER NOT NULL,
    idx INTEGER NOT NULL CHECK (idx >= 0),
    kind TEXT NOT NULL CHECK (kind IN ('root', 'approval', 'enrolment', 'snapshot')),
    data BLOB NOT NULL,
    PRIMARY KEY (log, idx)
  ) STRICT;

  -- NULL for manifests from before there was a log.
  ALTER TABLE manifest ADD COLUMN log INTEGER;
  ALTER TABLE manifest ADD COLUMN log_index INTEGER CHECK ((log IS NULL) = (log_index IS NULL));
  CREATE UNIQUE INDEX manifest_log ON manifest (log, log_index);

  CREATE VIEW committed_manifest AS SELECT * FROM manifest
    WHERE log IS NULL
      OR log_index < (SELECT size FROM log_head WHERE log_head.log = manifest.log);
  `,
  // 4: approvals.
  `
  -- Of an approval: the digests that it is about, separated by one space.
  ALTER TABLE log_entry ADD COLUMN batch TEXT CHECK ((batch IS NULL) = (kind <> 'approval'));
  -- Of an enrolment: whose key it tells.
  ALTER TABLE log_entry ADD COLUMN host TEXT CHECK ((host IS NULL) = (kind <> 'enrolment'));
  ALTER TABLE log_entry ADD COLUMN host_key TEXT CHECK ((host_key IS NULL) = (host IS NULL));
  -- The key that was told in a log last, and in which.
  ALTER TABLE host ADD COLUMN logged_key TEXT;
  ALTER TABLE host ADD COLUMN logged_in INTEGER CHECK ((logged_in IS NULL) = (logged_key IS NULL));
  -- The index of the approval that a manifest needed, in the same log.
  ALTER TABLE manifest ADD COLUMN approved_by INTEGER;

  -- Signed, and not published yet.
  CREATE TABLE pending_manifest (
    host TEXT PRIMARY KEY REFERENCES host,
    epoch INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    digest TEXT NOT NULL CHECK (length(digest) = 64),
    envelope TEXT NOT NULL,
    toplevel TEXT NOT NULL,
    closure TEXT NOT NULL CHECK (length(closure) = 64),
    closure_bytes INTEGER NOT NULL CHECK (closure_bytes > 0),
    issued_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
  ) STRICT, WITHOUT ROWID;
  CREATE INDEX pending_manifest_closure ON pending_manifest (closure);
  `,
  HOSTS_LIVES,
  // 6: how many rows ever went while others refer to them: a publication compares.
  `
  CREATE TABLE dropped_paths (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    count INTEGER NOT NULL
  ) STRICT;
  INSERT INTO dropped_paths VALUES (1, 0);
  `,
  // 7: holds of the admin's, and which receipts tell a request (by its number).
  `
  ALTER TABLE host ADD COLUMN held_at INTEGER;
  ALTER TABLE host ADD COLUMN held_reason TEXT;
  ALTER TABLE report ADD COLUMN request INTEGER;
  CREATE INDEX report_request ON report (received_at) WHERE request IS NOT NULL;
  `,
  PACKS,
  // 9: what a host says of what it is in the middle of, and when it said so.
  `
  ALTER TABLE host ADD COLUMN progress TEXT;
  ALTER TABLE host ADD COLUMN progress_at INTEGER;
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
