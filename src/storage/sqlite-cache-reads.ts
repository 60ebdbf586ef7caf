// State's questions about what the cache holds, as SQL, on a connection that cannot write. In WAL mode
// a reader never waits for a writer; the rare lock (recovery after a crash) is waited for without
// blocking.
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Database } from 'better-sqlite3';
import { STORE_DIR } from '../nix/storepath.ts';
import type { BlobId, BlobRef } from './blobs.ts';
import { asStateError } from './sqlite-database.ts';
import { patiently } from './sqlite-patience.ts';
import { CACHED_PATH, type CachedPathRow, cachedPathOf, words } from './sqlite-rows.ts';
import type {
  CachedPath,
  CacheTotals,
  DebugFile,
  Pin,
  RealisationRecord,
  StagedNar,
  StateReads,
} from './state.ts';

/** What StateReads asks of the cache. */
export type CacheReads = Pick<
  StateReads,
  | 'version'
  | 'cachedPath'
  | 'cachedPaths'
  | 'cachedPathsByHash'
  | 'cachedPathsAfter'
  | 'cacheTotals'
  | 'listing'
  | 'debugFile'
  | 'buildLog'
  | 'realisation'
  | 'stagedNar'
  | 'pins'
  | 'namedBlobs'
  | 'narBlobSize'
  | 'droppedPaths'
>;

type StagedRow = Omit<StagedNar, 'mentions' | 'contents'> & {
  readonly mentions: string;
  readonly listing: Uint8Array | null;
  readonly debugFiles: string;
};

// A question about more than this is asked in parts, so that the event loop goes on.
const PER_QUERY = 500;

/** Runs questions on `db`, waiting up to `patience` milliseconds for a lock before E_STATE_BUSY. */
export function asking(db: Database, patience: number) {
  return async <T>(question: () => T): Promise<T> => {
    try {
      return await patiently(db.name, performance.now() + patience, question);
    } catch (error) {
      throw asStateError(error, db.name);
    }
  };
}

export function createCacheReads(db: Database, patience: number): CacheReads {
  const version = db.prepare<[], number>('PRAGMA data_version').pluck();
  const byHashPart = db.prepare<[string], CachedPathRow>(
    `SELECT ${CACHED_PATH} FROM cached_path WHERE hash_part = ?`,
  );
  const byHashParts = db.prepare<[string], CachedPathRow>(
    `SELECT ${CACHED_PATH} FROM cached_path WHERE hash_part IN (SELECT value FROM json_each(?))`,
  );
  const after = db.prepare<[string, number], CachedPathRow>(
    `SELECT ${CACHED_PATH} FROM cached_path WHERE hash_part > ? ORDER BY hash_part LIMIT ?`,
  );
  const pathTotals = db.prepare<[], Pick<CacheTotals, 'paths' | 'upstreamPaths' | 'narBytes'>>(
    `SELECT count(*) AS paths, count(*) - count(blob) AS upstreamPaths,
       coalesce(sum(nar_size), 0) AS narBytes FROM cached_path`,
  );
  const narTotals = db.prepare<[], Pick<CacheTotals, 'blobs' | 'blobBytes'>>(
    'SELECT count(*) AS blobs, coalesce(sum(size), 0) AS blobBytes FROM nar',
  );
  const listing = db
    .prepare<[string], Uint8Array>('SELECT zstd FROM listing WHERE hash_part = ?')
    .pluck();
  const debugFile = db.prepare<[string], CachedPathRow & { member: string }>(
    `SELECT ${CACHED_PATH}, member FROM debug_file JOIN cached_path USING (hash_part)
     WHERE build_id = ? ORDER BY used_at DESC, hash_part, member LIMIT 1`,
  );
  const buildLog = db.prepare<[string], BlobRef>(
    'SELECT blob AS id, size FROM build_log WHERE drv = ?',
  );
  const realisation = db.prepare<[string], RealisationRecord>(
    'SELECT key, out_path AS outPath, json FROM realisation WHERE key = ?',
  );
  const stagedNar = db.prepare<[string], StagedRow>(
    `SELECT file, nar_hash AS narHash, nar_size AS narSize, file_hash AS fileHash,
       file_size AS fileSize, blob, blob_size AS blobSize, flat_hash AS flatHash, mentions, listing,
       debug_files AS debugFiles FROM staged_nar WHERE file = ?`,
  );
  const pins = db.prepare<[], Pin>(
    'SELECT name, path, created_at AS createdAt FROM pin ORDER BY name',
  );
  const named = db
    .prepare<[string], BlobId>(
      `SELECT value FROM json_each(?) WHERE
         EXISTS (SELECT 1 FROM nar WHERE blob = value)
         OR EXISTS (SELECT 1 FROM manifest WHERE closure = value)
         OR EXISTS (SELECT 1 FROM pending_manifest WHERE closure = value)
         OR EXISTS (SELECT 1 FROM build_log WHERE blob = value)
         OR EXISTS (SELECT 1 FROM staged_nar WHERE blob = value)
         OR EXISTS (SELECT 1 FROM pack_part WHERE blob = value)
         OR EXISTS (SELECT 1 FROM segment WHERE blob = value)`,
    )
    .pluck();
  const narSize = db.prepare<[string], number>('SELECT size FROM nar WHERE blob = ?').pluck();

  const dropped = db.prepare<[], number>('SELECT count FROM dropped_paths').pluck();

  const ask = asking(db, patience);
  const inParts = async <A, B>(all: readonly A[], query: (json: string) => B[]): Promise<B[]> => {
    const found: B[] = [];
    for (let at = 0; at < all.length; at += PER_QUERY) {
      if (at > 0) await nextTurn();
      const part = JSON.stringify(all.slice(at, at + PER_QUERY));
      for (const row of await ask(() => query(part))) found.push(row);
    }
    return found;
  };
  const totals = db.transaction((): CacheTotals => {
    const paths = pathTotals.get() ?? { paths: 0, upstreamPaths: 0, narBytes: 0 };
    return { ...paths, ...(narTotals.get() ?? { blobs: 0, blobBytes: 0 }) };
  });

  return {
    version: async () => version.get() ?? 0,
    cachedPath: (hashPart) => ask(() => optional(byHashPart.get(hashPart), cachedPathOf)),
    async cachedPaths(paths) {
      const wanted = new Set<string>(paths);
      const hashParts = paths.map((path) =>
        path.slice(STORE_DIR.length + 1, STORE_DIR.length + 33),
      );
      const rows = await inParts(hashParts, (json) => byHashParts.all(json));
      return rows.map(cachedPathOf).filter(({ path }) => wanted.has(path));
    },
    async cachedPathsByHash(hashParts) {
      return (await inParts(hashParts, (json) => byHashParts.all(json))).map(cachedPathOf);
    },
    async cachedPathsAfter(hashPart, limit): Promise<CachedPath[]> {
      return (await ask(() => after.all(hashPart, limit))).map(cachedPathOf);
    },
    cacheTotals: () => ask(totals),
    listing: (hashPart) => ask(() => listing.get(hashPart) ?? null),
    debugFile: (buildId) =>
      ask(() => {
        const found = debugFile.get(buildId);
        return found === undefined ? null : { row: cachedPathOf(found), member: found.member };
      }),
    buildLog: (drv) => ask(() => buildLog.get(drv) ?? null),
    realisation: (key) => ask(() => realisation.get(key) ?? null),
    stagedNar: (file) => ask(() => optional(stagedNar.get(file), stagedNarOf)),
    pins: () => ask(() => pins.all()),
    namedBlobs: async (blobs) => new Set(await inParts(blobs, (json) => named.all(json))),
    droppedPaths: () => ask(() => dropped.get() ?? 0),
    narBlobSize: (blob) => ask(() => narSize.get(blob) ?? null),
  };
}

function stagedNarOf({ mentions, listing, debugFiles, ...nar }: StagedRow): StagedNar {
  const files = JSON.parse(debugFiles) as DebugFile[];
  return { ...nar, mentions: words(mentions), contents: { listing, debugFiles: files } };
}

function optional<A, B>(value: A | undefined, convert: (value: A) => B): B | null {
  return value === undefined ? null : convert(value);
}
