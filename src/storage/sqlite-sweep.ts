// Garbage collection of the index, in steps of one short transaction each. The store's graph has no
// cycles but self-references, so counting references is exact: a path goes when nothing keeps it
// itself and no row that is left refers to it; what it referred to is then looked at again.
// Roots, what is gone in a dry run, and what is to be looked at again are TEMP tables of the writing
// connection: they bound memory, and die with it.
import type { Database } from 'better-sqlite3';
import { FleetError } from '../errors.ts';
import { hashPartOf, type StorePath } from '../nix/storepath.ts';
import type { BlobId, BlobRef } from './blobs.ts';
import { createRemoval } from './sqlite-index.ts';
import type { SyncWrites } from './sqlite-writes.ts';
import type { SweepStep } from './state.ts';

type Sweeps = Pick<SyncWrites, 'beginSweep' | 'sweepPaths' | 'sweepNars' | 'sweepLeftovers'>;
type Swept = SweepStep['removed'][number];

/** Where a sweep is: hash parts up to `cursor` have been looked at once; null: all have. */
type Progress = {
  readonly cutoff: number;
  readonly dryRun: boolean;
  readonly cursor: string | null;
  /** When NARs that lose their last row are released, POSIX seconds. */
  readonly now: number;
};

export function createSweeps(db: Database): Sweeps {
  db.exec(`
    CREATE TEMP TABLE gc_root (hash_part TEXT PRIMARY KEY) WITHOUT ROWID;
    CREATE TEMP TABLE gc_gone (hash_part TEXT PRIMARY KEY) WITHOUT ROWID;
    CREATE TEMP TABLE gc_queue (hash_part TEXT PRIMARY KEY) WITHOUT ROWID;
  `);
  const addRoot = db.prepare('INSERT OR IGNORE INTO gc_root VALUES (?)');
  const queued = db.prepare<[number], string>('SELECT hash_part FROM gc_queue LIMIT ?').pluck();
  const queue = db.prepare('INSERT OR IGNORE INTO gc_queue VALUES (?)');
  const unqueue = db.prepare('DELETE FROM gc_queue WHERE hash_part = ?');
  const following = db
    .prepare<[string, number], string>(
      'SELECT hash_part FROM cached_path WHERE hash_part > ? ORDER BY hash_part LIMIT ?',
    )
    .pluck();
  const removable = db.prepare<[string, number], Swept & { blob: BlobId | null }>(
    `SELECT path, nar_size AS narSize, used_at AS usedAt, blob FROM cached_path AS p
     WHERE hash_part = ? AND used_at < ?
       AND hash_part NOT IN (SELECT hash_part FROM gc_root)
       AND hash_part NOT IN (SELECT hash_part FROM gc_gone)
       AND NOT EXISTS (SELECT 1 FROM path_reference AS r
         WHERE r.referred = p.hash_part AND r.referrer <> p.hash_part
           AND r.referrer NOT IN (SELECT hash_part FROM gc_gone))`,
  );
  const referencesOf = db
    .prepare<[string], string>('SELECT referred FROM path_reference WHERE referrer = ?')
    .pluck();
  const addGone = db.prepare('INSERT INTO gc_gone VALUES (?)');
  const freeNars = db.prepare<[number, number, number], BlobRef>(
    `SELECT blob AS id, size FROM nar WHERE released_at < ?
       AND NOT EXISTS (SELECT 1 FROM staged_nar WHERE staged_nar.blob = nar.blob AND staged_at >= ?)
     ORDER BY released_at LIMIT ?`,
  );
  const goneNars = db.prepare<[number], BlobRef>(
    `SELECT DISTINCT nar.blob AS id, nar.size AS size
     FROM gc_gone JOIN cached_path USING (hash_part) JOIN nar ON nar.blob = cached_path.blob
     WHERE nar.released_at IS NULL
       AND NOT EXISTS (SELECT 1 FROM staged_nar WHERE staged_nar.blob = nar.blob AND staged_at >= ?)
       AND NOT EXISTS (SELECT 1 FROM cached_path AS other WHERE other.blob = nar.blob
         AND other.hash_part NOT IN (SELECT hash_part FROM gc_gone))`,
  );
  const dropNar = db.prepare('DELETE FROM nar WHERE blob = ?');
  const dropDescribed = db.prepare<[number, number]>(
    `DELETE FROM staged_nar WHERE rowid IN
       (SELECT rowid FROM staged_nar WHERE staged_at < ?
         AND EXISTS (SELECT 1 FROM cached_path WHERE cached_path.blob = staged_nar.blob) LIMIT ?)`,
  );
  const leftovers = [
    `DELETE FROM staged_nar WHERE rowid IN
       (SELECT rowid FROM staged_nar WHERE staged_at < ? LIMIT ?)`,
    `DELETE FROM build_log WHERE drv IN (SELECT drv FROM build_log WHERE used_at < ?
       AND NOT EXISTS (SELECT 1 FROM cached_path WHERE deriver = build_log.drv) LIMIT ?)`,
    `DELETE FROM realisation WHERE key IN (SELECT key FROM realisation WHERE used_at < ?
       AND NOT EXISTS (SELECT 1 FROM cached_path
         WHERE hash_part = substr(out_path, 12, 32) AND path = out_path) LIMIT ?)`,
  ].map((sql) => db.prepare<[number, number]>(sql));
  const remove = createRemoval(db);

  let progress: Progress | null = null;

  const begin = db.transaction((roots: readonly StorePath[]): void => {
    db.exec('DELETE FROM gc_root; DELETE FROM gc_gone; DELETE FROM gc_queue');
    for (const path of roots) addRoot.run(hashPartOf(path));
  });

  const step = db.transaction(
    (at: Progress, limit: number, now: number): SweepStep & { cursor: string | null } => {
      const again = queued.all(limit);
      for (const hashPart of again) unqueue.run(hashPart);
      const room = limit - again.length;
      const fresh = at.cursor === null || room === 0 ? [] : following.all(at.cursor, room);
      const cursor = fresh.length < room ? null : (fresh.at(-1) ?? at.cursor);
      const removed: Swept[] = [];
      for (const hashPart of [...again, ...fresh]) {
        const found = removable.get(hashPart, at.cutoff);
        if (found === undefined) continue;
        const { blob, ...swept } = found;
        removed.push(swept);
        // All of them, also those that the scan has yet to reach: looking twice costs less than a rule.
        for (const other of referencesOf.all(hashPart)) if (other !== hashPart) queue.run(other);
        if (at.dryRun) addGone.run(hashPart);
        else remove.path(hashPart, blob, now);
      }
      return { removed, cursor, done: cursor === null && queued.all(1).length === 0 };
    },
  );

  const sweepNars = db.transaction((cutoff: number, limit: number, dryRun: boolean): BlobRef[] => {
    // What a collection would have forgotten by now keeps nothing in a dry run either.
    const stagedSince = dryRun && progress !== null ? progress.cutoff : 0;
    const nars = freeNars.all(cutoff, stagedSince, limit);
    if (!dryRun) for (const { id } of nars) dropNar.run(id);
    // What would be released now and need not wait.
    if (dryRun && progress !== null && progress.now < cutoff)
      nars.push(...goneNars.all(stagedSince));
    return nars;
  });

  const sweepLeftovers = db.transaction(
    (cutoff: number, describedCutoff: number, limit: number): number =>
      leftovers.reduce(
        (sum, statement) => sum + statement.run(cutoff, limit).changes,
        dropDescribed.run(describedCutoff, limit).changes,
      ),
  );

  return {
    beginSweep: ({ roots, cutoff, dryRun }) => {
      begin.immediate(roots);
      progress = { cutoff, dryRun, cursor: '', now: Number.POSITIVE_INFINITY };
    },
    sweepPaths: (limit, now) => {
      if (progress === null) {
        throw new FleetError('E_GC_INTERRUPTED', 'no garbage collection is under way here');
      }
      const { cursor, ...result } = step.immediate(progress, limit, now);
      progress = { ...progress, cursor, now };
      return result;
    },
    sweepNars: (cutoff, limit, dryRun) => sweepNars.immediate(cutoff, limit, dryRun),
    sweepLeftovers: (cutoff, described, limit) =>
      sweepLeftovers.immediate(cutoff, described, limit),
  };
}
