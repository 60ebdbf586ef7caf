// The tables of update packs (packs.ts): migration 8.

export const PACKS = `
  -- What was made for a pack once and may be part of many. 'copy' and 'poor' have no bytes.
  CREATE TABLE segment (
    key TEXT PRIMARY KEY CHECK (length(key) = 64),
    outcome TEXT NOT NULL CHECK (outcome IN ('copy', 'patch', 'whole', 'poor')),
    blob TEXT CHECK (length(blob) = 64),
    size INTEGER CHECK (size > 0),
    memory INTEGER CHECK (memory >= 0),
    used_at INTEGER NOT NULL,
    CHECK ((blob IS NULL) = (outcome IN ('copy', 'poor'))),
    CHECK ((blob IS NULL) = (size IS NULL)),
    CHECK ((blob IS NULL) = (memory IS NULL))
  ) STRICT, WITHOUT ROWID;
  CREATE INDEX segment_blob ON segment (blob);
  CREATE INDEX segment_used ON segment (used_at);

  CREATE TABLE pack (
    id INTEGER PRIMARY KEY,
    closure TEXT NOT NULL CHECK (length(closure) = 64),
    -- Empty: for a host that has nothing.
    base TEXT NOT NULL CHECK (length(base) IN (0, 64)),
    -- What its paths are signed by.
    signers TEXT NOT NULL,
    made_at INTEGER NOT NULL,
    UNIQUE (closure, base)
  ) STRICT;

  -- The blobs that a pack consists of, in order; the first is its beginning.
  CREATE TABLE pack_part (
    pack INTEGER NOT NULL REFERENCES pack ON DELETE CASCADE,
    place INTEGER NOT NULL CHECK (place >= 0),
    blob TEXT NOT NULL CHECK (length(blob) = 64),
    size INTEGER NOT NULL CHECK (size > 0),
    PRIMARY KEY (pack, place)
  ) STRICT, WITHOUT ROWID;
  CREATE INDEX pack_part_blob ON pack_part (blob);

  -- Which closure a system that a host reports has.
  CREATE INDEX manifest_toplevel ON manifest (toplevel);
`;
