// Migration 5: what happens to a host after it was enrolled. Manifests that end one, tokens that follow one
// another, receipts that fit no chain.

export const HOSTS_LIVES = `
  -- A manifest that ends a host names no system: tables whose checks change are made anew.
  DROP VIEW committed_manifest;
  CREATE TABLE manifest_5 (
    host TEXT NOT NULL REFERENCES host,
    epoch INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    digest TEXT NOT NULL CHECK (length(digest) = 64),
    envelope TEXT NOT NULL,
    toplevel TEXT,
    closure TEXT CHECK (length(closure) = 64),
    closure_bytes INTEGER CHECK (closure_bytes > 0),
    issued_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    -- NULL for manifests from before there was a log.
    log INTEGER,
    log_index INTEGER,
    -- The index of the approval that it needed, in the same log.
    approved_by INTEGER,
    PRIMARY KEY (host, epoch, sequence),
    CHECK ((log IS NULL) = (log_index IS NULL)),
    CHECK ((toplevel IS NULL) = (closure IS NULL)),
    CHECK ((toplevel IS NULL) = (closure_bytes IS NULL))
  ) STRICT;
  INSERT INTO manifest_5
    SELECT host, epoch, sequence, digest, envelope, toplevel, closure, closure_bytes, issued_at,
      expires_at, log, log_index, approved_by FROM manifest;
  DROP TABLE manifest;
  ALTER TABLE manifest_5 RENAME TO manifest;
  CREATE INDEX manifest_closure ON manifest (closure);
  CREATE UNIQUE INDEX manifest_log ON manifest (log, log_index);
  CREATE VIEW committed_manifest AS SELECT * FROM manifest
    WHERE log IS NULL
      OR log_index < (SELECT size FROM log_head WHERE log_head.log = manifest.log);

  CREATE TABLE pending_manifest_5 (
    host TEXT PRIMARY KEY REFERENCES host,
    epoch INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    digest TEXT NOT NULL CHECK (length(digest) = 64),
    envelope TEXT NOT NULL,
    toplevel TEXT,
    closure TEXT CHECK (length(closure) = 64),
    closure_bytes INTEGER CHECK (closure_bytes > 0),
    issued_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    CHECK ((toplevel IS NULL) = (closure IS NULL)),
    CHECK ((toplevel IS NULL) = (closure_bytes IS NULL))
  ) STRICT, WITHOUT ROWID;
  INSERT INTO pending_manifest_5
    SELECT host, epoch, sequence, digest, envelope, toplevel, closure, closure_bytes, issued_at,
      expires_at FROM pending_manifest;
  DROP TABLE pending_manifest;
  ALTER TABLE pending_manifest_5 RENAME TO pending_manifest;
  CREATE INDEX pending_manifest_closure ON pending_manifest (closure);

  CREATE TABLE credential_5 (
    token_hash TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    scope TEXT NOT NULL CHECK (scope IN ('read', 'push', 'host', 'leaving', 'admin')),
    host TEXT REFERENCES host,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    -- The hash of the token that a host got for this one.
    successor TEXT,
    CHECK ((scope IN ('host', 'leaving')) = (host IS NOT NULL)),
    CHECK (successor IS NULL OR host IS NOT NULL)
  ) STRICT, WITHOUT ROWID;
  INSERT INTO credential_5
    SELECT token_hash, name, scope, host, created_at, expires_at, NULL FROM credential;
  DROP TABLE credential;
  ALTER TABLE credential_5 RENAME TO credential;
  CREATE INDEX credential_name ON credential (name);
  CREATE INDEX credential_host ON credential (host);

  -- What a host's key signed and what contradicts what it had signed before: evidence.
  CREATE TABLE conflict (
    id INTEGER PRIMARY KEY,
    host TEXT NOT NULL REFERENCES host,
    host_key TEXT NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('fork', 'gap', 'token')),
    digest TEXT NOT NULL CHECK (length(digest) = 64),
    seen_at INTEGER NOT NULL,
    envelope TEXT NOT NULL,
    UNIQUE (host, host_key, digest)
  ) STRICT;
`;
