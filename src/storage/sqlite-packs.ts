// What State keeps of update packs (packs.ts) as SQL: questions on a connection that cannot write, and short
// synchronous transactions as in sqlite-writes.ts.
import type { Database } from 'better-sqlite3';
import { FleetError } from '../errors.ts';
import type { StorePath } from '../nix/storepath.ts';
import type { BlobId, BlobRef } from './blobs.ts';
import type { KeptPack, MadeSegment, PackReads, PackStep, PackWrites } from './packs.ts';
import { asking } from './sqlite-cache-reads.ts';
import type { SyncWrites } from './sqlite-writes.ts';

type PackRow = Pick<KeptPack, 'closure' | 'signers' | 'madeAt'> & {
  readonly id: number;
  readonly base: string;
};
type SegmentRow = {
  readonly key: string;
  readonly outcome: MadeSegment['outcome'];
  readonly blob: BlobId | null;
  readonly size: number | null;
  readonly memory: number | null;
};

/** Newer manifests of the same host. */
const NEWER = `FROM committed_manifest AS n
  WHERE n.host = m.host AND (n.epoch, n.sequence) > (m.epoch, m.sequence)`;

export function createPackReads(db: Database, patience: number): PackReads {
  const packOf = db.prepare<[string, string], PackRow>(
    'SELECT id, closure, base, signers, made_at AS madeAt FROM pack WHERE closure = ? AND base = ?',
  );
  const partsOf = db.prepare<[number], BlobRef>(
    'SELECT blob AS id, size FROM pack_part WHERE pack = ? ORDER BY place',
  );
  const recent = db
    .prepare<[string, number], number>(
      `SELECT 1 FROM committed_manifest AS m WHERE closure = ?
         AND (SELECT count(*) ${NEWER}) < ?
         AND NOT EXISTS (SELECT 1 ${NEWER} AND n.toplevel IS NULL) LIMIT 1`,
    )
    .pluck();
  const closures = db
    .prepare<[string], BlobId>(
      `SELECT closure FROM committed_manifest WHERE toplevel = ?
       GROUP BY closure ORDER BY max(issued_at) DESC, closure`,
    )
    .pluck();
  const system = db.prepare<[string], { toplevel: StorePath; closureBytes: number }>(
    `SELECT toplevel, closure_bytes AS closureBytes FROM committed_manifest
     WHERE closure = ? LIMIT 1`,
  );
  // One transaction: another process may replace the pack in between.
  const whole = db.transaction(({ closure, base }: PackStep): KeptPack | null => {
    const row = packOf.get(closure, base ?? '');
    if (row === undefined) return null;
    const { signers, madeAt } = row;
    return { closure, base, signers, madeAt, parts: partsOf.all(row.id) };
  });
  const ask = asking(db, patience);
  return {
    pack: (step) => ask(() => whole(step)),
    isRecentClosure: (closure, perHost) => ask(() => recent.get(closure, perHost) !== undefined),
    systemOf: (closure) => ask(() => system.get(closure) ?? null),
    closuresOf: (toplevel) => ask(() => closures.all(toplevel)),
  };
}

type Writes = Pick<SyncWrites, keyof PackWrites>;

export function createPackWrites(db: Database): Writes {
  const segments = db.prepare<[string], SegmentRow>(
    `SELECT key, outcome, blob, size, memory FROM segment
     WHERE key IN (SELECT value FROM json_each(?))`,
  );
  const touch = db.prepare<[number, string]>(
    `UPDATE segment SET used_at = max(used_at, ?) WHERE key IN (SELECT value FROM json_each(?))`,
  );
  const putSegment = db.prepare('INSERT OR REPLACE INTO segment VALUES (?, ?, ?, ?, ?, ?)');
  const dropPack = db.prepare<[string, string]>('DELETE FROM pack WHERE closure = ? AND base = ?');
  const putPack = db
    .prepare<[string, string, string, number], number>(
      'INSERT INTO pack (closure, base, signers, made_at) VALUES (?, ?, ?, ?) RETURNING id',
    )
    .pluck();
  const putPart = db.prepare('INSERT INTO pack_part VALUES (?, ?, ?, ?)');
  const sweepPacks = db.prepare<[number, string, string, number]>(
    `DELETE FROM pack WHERE id IN (SELECT id FROM pack
       WHERE made_at < ? AND (closure NOT IN (SELECT value FROM json_each(?))
         OR (base <> '' AND base NOT IN (SELECT value FROM json_each(?)))) LIMIT ?)`,
  );
  const sweepSegments = db.prepare<[number, number]>(
    `DELETE FROM segment WHERE key IN (SELECT key FROM segment WHERE used_at < ?
       AND NOT EXISTS (SELECT 1 FROM pack_part WHERE pack_part.blob = segment.blob) LIMIT ?)`,
  );

  const useSegments = db.transaction((keys: readonly string[], now: number) => {
    const json = JSON.stringify(keys);
    touch.run(now, json);
    return new Map(segments.all(json).map((row) => [row.key, madeOf(row)]));
  });
  const addPack = db.transaction(({ closure, base, signers, madeAt, parts }: KeptPack): void => {
    dropPack.run(closure, base ?? '');
    const id = putPack.get(closure, base ?? '', signers, madeAt);
    if (id === undefined) throw new FleetError('E_INTERNAL', 'the pack was not recorded');
    for (const [place, { id: blob, size }] of parts.entries()) putPart.run(id, place, blob, size);
  });

  return {
    useSegments: (keys, now) => useSegments.immediate(keys, now),
    addSegment: (key, made, now) => {
      const bytes = 'blob' in made ? [made.blob.id, made.blob.size, made.memory] : NO_BYTES;
      putSegment.run(key, made.outcome, ...bytes, now);
    },
    addPack: (pack) => addPack.immediate(pack),
    dropPack: ({ closure, base }) => {
      dropPack.run(closure, base ?? '');
    },
    sweepPacks: ({ closures, bases }, time, limit) =>
      sweepPacks.run(time, JSON.stringify(closures), JSON.stringify(bases), limit).changes,
    sweepSegments: (cutoff, limit) => sweepSegments.run(cutoff, limit).changes,
  };
}

const NO_BYTES = [null, null, null] as const;

/** The table's checks: with bytes or without. */
function madeOf({ outcome, blob, size, memory }: SegmentRow): MadeSegment {
  if (outcome === 'copy' || outcome === 'poor') return { outcome };
  return { outcome, blob: { id: blob as BlobId, size: size ?? 0 }, memory: memory ?? 0 };
}
