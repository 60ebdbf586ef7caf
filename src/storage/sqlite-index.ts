// State's changes to the cache's index: rows with their edges, listings and debug files, uploads,
// logs, realisations, pins. Short synchronous transactions, as in sqlite-writes.ts.
// What always holds: a NAR is released exactly when no row names it, and an uploaded row comes only
// after all that it refers to.
import type { Database } from 'better-sqlite3';
import { FleetError } from '../errors.ts';
import { hashPartOf, type StorePath } from '../nix/storepath.ts';
import type { BlobId } from './blobs.ts';
import { CACHED_PATH, type CachedPathRow, cachedPathOf, cachedPathValues } from './sqlite-rows.ts';
import type { SyncWrites } from './sqlite-writes.ts';
import type {
  CachedPath,
  NarContents,
  NewPath,
  Pin,
  SaidOfPath,
  StagedNar,
  UploadOutcome,
} from './state.ts';

type Index = Pick<
  SyncWrites,
  | 'addCachedPaths'
  | 'touchPaths'
  | 'confirmPath'
  | 'dropPath'
  | 'stageNar'
  | 'addUploadedPath'
  | 'addBuildLog'
  | 'addRealisation'
  | 'addPin'
  | 'removePin'
>;

/** A path signed by more than this many others is signed enough. */
const MAX_FOREIGN_SIGS = 16;

export function createIndex(db: Database): Index {
  const find = db.prepare<[string], CachedPathRow>(
    `SELECT ${CACHED_PATH} FROM cached_path WHERE hash_part = ?`,
  );
  const putPath = db.prepare(
    'INSERT OR REPLACE INTO cached_path VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)',
  );
  const putNar = db.prepare(
    `INSERT INTO nar (blob, size, released_at) VALUES (?, ?, NULL)
     ON CONFLICT (blob) DO UPDATE SET size = excluded.size, released_at = NULL`,
  );
  const dropEdges = db.prepare('DELETE FROM path_reference WHERE referrer = ?');
  const putEdge = db.prepare('INSERT OR IGNORE INTO path_reference VALUES (?, ?)');
  const putListing = db.prepare('INSERT OR REPLACE INTO listing VALUES (?, ?)');
  const putDebugFile = db.prepare('INSERT OR IGNORE INTO debug_file VALUES (?, ?, ?)');
  const touch = db.prepare(
    'UPDATE cached_path SET used_at = max(used_at, ?) WHERE hash_part = ? AND path = ?',
  );
  const isThere = db
    .prepare<[string, string], number>('SELECT 1 FROM cached_path WHERE hash_part = ? AND path = ?')
    .pluck();
  const setSigs = db.prepare('UPDATE cached_path SET sigs = ? WHERE hash_part = ?');
  const stage = db.prepare('INSERT OR REPLACE INTO staged_nar VALUES (?,?,?,?,?,?,?,?,?,?,?,?)');
  const putLog = db.prepare(
    `INSERT INTO build_log VALUES (@drv, @id, @size, @now)
     ON CONFLICT (drv) DO UPDATE SET used_at = max(used_at, excluded.used_at),
       blob = iif(blob = @lost, excluded.blob, blob), size = iif(blob = @lost, excluded.size, size)`,
  );
  const putRealisation = db.prepare('INSERT OR REPLACE INTO realisation VALUES (?, ?, ?, ?)');
  const pinned = db.prepare<[string], string>('SELECT path FROM pin WHERE name = ?').pluck();
  const putPin = db.prepare('INSERT OR REPLACE INTO pin VALUES (@name, @path, @createdAt)');
  const dropPin = db.prepare('DELETE FROM pin WHERE name = ?');
  const countDropped = db.prepare('UPDATE dropped_paths SET count = count + 1');
  const remove = createRemoval(db);

  const putContents = (hashPart: string, contents: NarContents): void => {
    remove.contents(hashPart);
    if (contents.listing !== null) putListing.run(hashPart, contents.listing);
    for (const { buildId, member } of contents.debugFiles) {
      putDebugFile.run(buildId, hashPart, member);
    }
  };

  const put = (given: NewPath, now: number): void => {
    const hashPart = hashPartOf(given.path);
    const old = find.get(hashPart);
    const row = old === undefined ? given : withKnown(given, cachedPathOf(old));
    if (row.blob !== null) putNar.run(row.blob, row.blobSize);
    putPath.run(...cachedPathValues(row, now));
    if (old !== undefined) dropEdges.run(hashPart);
    for (const reference of row.references) putEdge.run(hashPart, hashPartOf(reference));
    if (old?.blob != null && old.blob !== row.blob) remove.release(old.blob, now);
    if (row.contents !== undefined) putContents(hashPart, row.contents);
    else if (old !== undefined && old.narHash !== row.narHash) remove.contents(hashPart);
  };

  const addCachedPaths = db.transaction((rows: readonly NewPath[], now: number): void => {
    for (const row of rows) put(row, now);
  });

  const touchPaths = db.transaction((paths: readonly StorePath[], now: number): number =>
    paths.reduce((sum, path) => sum + touch.run(now, hashPartOf(path), path).changes, 0),
  );

  const dropPath = db.transaction((path: StorePath, now: number): void => {
    const row = find.get(hashPartOf(path));
    if (row?.path !== path) return;
    remove.path(hashPartOf(path), row.blob, now);
    countDropped.run();
  });

  const confirm = (said: SaidOfPath, now: number): 'same' | 'differs' | 'absent' => {
    const hashPart = hashPartOf(said.path);
    const found = find.get(hashPart);
    if (found === undefined) return 'absent';
    const known = cachedPathOf(found);
    const agrees =
      known.path === said.path &&
      known.narHash === said.narHash &&
      known.narSize === said.narSize &&
      known.references.join() === said.references.join();
    if (!agrees) return 'differs';
    const sigs = [...new Set([...known.sigs, ...said.sigs])].slice(0, MAX_FOREIGN_SIGS);
    setSigs.run(sigs.join(' '), hashPart);
    touch.run(now, hashPart, said.path);
    return 'same';
  };
  const confirmPath = db.transaction(confirm);

  const addUploadedPath = db.transaction(
    (row: NewPath, lost: BlobId | null, now: number): UploadOutcome => {
      const outcome = confirm(row, now);
      if (outcome === 'same' && lost !== null) {
        // Only while it is still that one: a build may have stored the path anew meanwhile.
        if (find.get(hashPartOf(row.path))?.blob === lost) put(row, now);
      }
      if (outcome !== 'absent') return { outcome };
      const others = row.references.filter((path) => path !== row.path);
      const missing = others.filter((path) => isThere.get(hashPartOf(path), path) === undefined);
      if (missing.length > 0) return { outcome: 'references missing', missing };
      for (const path of others) touch.run(now, hashPartOf(path), path);
      put({ ...row, sigs: row.sigs.slice(0, MAX_FOREIGN_SIGS) }, now);
      return { outcome: 'added' };
    },
  );

  const addRealisation = db.transaction(
    ({ key, outPath, json }: Parameters<Index['addRealisation']>[0], now: number): boolean => {
      if (touch.run(now, hashPartOf(outPath), outPath).changes === 0) return false;
      putRealisation.run(key, outPath, json, now);
      return true;
    },
  );

  const addPin = db.transaction((pin: Pin): boolean => {
    const taken = pinned.get(pin.name);
    if (taken !== undefined && taken !== pin.path) {
      throw new FleetError('E_USAGE', `the pin ${pin.name} keeps another path: ${taken}`, {
        hint: `choose another name, or first: fleet cache unpin ${pin.name}`,
      });
    }
    if (touch.run(pin.createdAt, hashPartOf(pin.path), pin.path).changes === 0) return false;
    putPin.run(pin);
    return true;
  });

  return {
    addCachedPaths: (rows, now) => addCachedPaths.immediate(rows, now),
    touchPaths: (paths, now) => touchPaths.immediate(paths, now),
    confirmPath: (said, now) => confirmPath.immediate(said, now),
    dropPath: (path, now) => dropPath.immediate(path, now),
    stageNar: (nar, now) => void stage.run(...stagedValues(nar, now)),
    addUploadedPath: (row, lost, now) => addUploadedPath.immediate(row, lost, now),
    addBuildLog: (drv, { id, size }, lost, now) => void putLog.run({ drv, id, size, lost, now }),
    addRealisation: (record, now) => addRealisation.immediate(record, now),
    addPin: (pin) => addPin.immediate(pin),
    removePin: (name) => dropPin.run(name).changes > 0,
  };
}

/** `row` with what others said of the same bytes: they say it no less when the file is made anew. */
function withKnown(row: NewPath, old: CachedPath): NewPath {
  if (old.path !== row.path || old.narHash !== row.narHash) return row;
  const sigs = [...new Set([...row.sigs, ...old.sigs])].slice(0, MAX_FOREIGN_SIGS);
  return { ...row, sigs, ca: row.ca ?? old.ca };
}

/** What takes rows out of the index, within a transaction of the caller's. */
export function createRemoval(db: Database) {
  const dropRow = db.prepare('DELETE FROM cached_path WHERE hash_part = ?');
  const dropEdges = db.prepare('DELETE FROM path_reference WHERE referrer = ?');
  const dropListing = db.prepare('DELETE FROM listing WHERE hash_part = ?');
  const dropDebugFiles = db.prepare('DELETE FROM debug_file WHERE hash_part = ?');
  const release = db.prepare(
    `UPDATE nar SET released_at = ? WHERE blob = ? AND released_at IS NULL
     AND NOT EXISTS (SELECT 1 FROM cached_path WHERE cached_path.blob = nar.blob)`,
  );
  const contents = (hashPart: string): void => {
    dropListing.run(hashPart);
    dropDebugFiles.run(hashPart);
  };
  return {
    contents,
    /** Notes that `blob` lost a row; it is released when that was the last. */
    release: (blob: BlobId, now: number): void => void release.run(now, blob),
    path: (hashPart: string, blob: BlobId | null, now: number): void => {
      dropRow.run(hashPart);
      dropEdges.run(hashPart);
      contents(hashPart);
      if (blob !== null) release.run(now, blob);
    },
  };
}

function stagedValues(nar: StagedNar, now: number): (string | number | Uint8Array | null)[] {
  return [
    nar.file,
    nar.narHash,
    nar.narSize,
    nar.fileHash,
    nar.fileSize,
    nar.blob,
    nar.blobSize,
    nar.flatHash,
    nar.mentions.join(' '),
    nar.contents.listing,
    JSON.stringify(nar.contents.debugFiles),
    now,
  ];
}
