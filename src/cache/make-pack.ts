// A step from one closure to another → the update pack for it (SPEC §12), as blobs and a row that says which. Equal closures
// give equal packs; what is in other packs already is not made again. Bytes first, then the row; and the row counts only while
// all bytes are there, so a process that dies in between leaves nothing but blobs that nobody names.
import { setImmediate as nextTurn } from 'node:timers/promises';
import { groupWhole } from '../delta/group.ts';
import type { PackedPath, Segment } from '../delta/pack-index.ts';
import { wholeMemory } from '../delta/whole.ts';
import { FleetError } from '../errors.ts';
import type { Closure, PathInfo } from '../nix/closure.ts';
import type { NixSecretKey } from '../nix/signature.ts';
import type { BlobId, BlobRef, Blobs } from '../storage/blobs.ts';
import type { KeptPack, MadeSegment, PackStep } from '../storage/packs.ts';
import type { State } from '../storage/state.ts';
import { sigsFor } from './narinfo-view.ts';
import { patchKey, wholeKey } from './pack-keys.ts';
import { narFileOf, type PlannedPath, planPack } from './pack-plan.ts';
import type { PackPool } from './pack-pool.ts';
import type { PackSegments } from './pack-segments.ts';
import type { SegmentTask } from './pack-tasks.ts';
import { readClosure } from './read-closure.ts';
import { isWholePack, signersOf } from './ready-pack.ts';

export type PackMaking = {
  readonly state: Pick<State, 'systemOf' | 'cachedPaths' | 'addPack' | 'dropPack'>;
  readonly blobs: Blobs;
  readonly segments: PackSegments;
  readonly pool: PackPool;
  /** That sign its paths. */
  readonly keys: readonly NixSecretKey[];
  /** POSIX seconds. */
  readonly now: number;
};

/** Of the compressed NAR: a larger patch costs a weak machine more than it saves. */
const PATCH_PART = 0.7;
/** Of the compressed NARs of a group, so that they are not stored twice for little. */
const WHOLE_PART = 0.92;
/** Larger paths are a group each: what they have in common with others is little, and others need them alone. */
const GROUPED_BYTES = 1024 * 1024;
/** NARs are compressed at levels up to 19, whose windows are at most 8 MiB. */
const NAR_MEMORY = 9 * 1024 * 1024;
/** Signed in one turn: some milliseconds. */
const SIGNED_AT_ONCE = 100;

/**
 * @throws FleetError E_CACHE_INCOMPLETE when bytes of either closure are not here; E_DISK_FULL; E_NAR_… where stored ones
 *   are damaged; E_INTERNAL
 */
export async function makePack(step: PackStep, making: PackMaking): Promise<KeptPack> {
  const { state, blobs, pool, keys, now } = making;
  const next = await closureOf(step.closure, making);
  const base = step.base === null ? null : await closureOf(step.base, making);
  const planned = await planPack(base, next, making);
  const patches = await makePatches(planned, making);
  const wholes = await makeWholes(
    planned.filter((path) => !patches.has(path)),
    making,
  );
  const parts: BlobRef[] = [];
  const segments: Segment[] = [];
  const numbers = new Map<StoredSegment, number>();
  const numberOf = (segment: StoredSegment): number => {
    const known = numbers.get(segment);
    if (known !== undefined) return known;
    const { blob, memory } = segment;
    parts.push(blob);
    numbers.set(segment, segments.push({ bytes: blob.size, sha256: blob.id, memory }) - 1);
    return segments.length - 1;
  };
  const paths: PackedPath[] = [];
  for (const path of planned) {
    if (paths.length % SIGNED_AT_ONCE === 0) await nextTurn();
    const said = { info: path.info, sigs: sigsFor(path.row, keys) };
    const patch = patches.get(path);
    const whole = wholes.get(path);
    if (patch !== undefined && path.from !== null) {
      const source = { ...said, old: path.from.path, renames: path.from.renames };
      paths.push(
        patch === 'copy'
          ? { ...source, kind: 'copy' }
          : { ...source, kind: 'patch', segment: numberOf(patch) },
      );
    } else if (whole !== undefined) {
      paths.push({ ...said, kind: 'whole', segment: numberOf(whole) });
    }
  }
  const index = { ...step, segments, paths };
  parts.unshift(await pool.writeIndex({ kind: 'index', index, paths: next.paths }));
  const pack = { ...step, signers: signersOf(keys), madeAt: now, parts };
  await state.addPack(pack);
  // Named from now on, and so theirs for good, if they are still there.
  if (await isWholePack(pack, blobs)) return pack;
  await state.dropPack(step);
  throw new FleetError('E_CACHE_INCOMPLETE', 'bytes of an update pack went while it was made');
}

type StoredSegment = Extract<MadeSegment, { readonly blob: BlobRef }>;

async function closureOf(
  digest: BlobId,
  { state, blobs }: Pick<PackMaking, 'state' | 'blobs'>,
): Promise<Closure> {
  const system = await state.systemOf(digest);
  if (system !== null) return await readClosure(blobs, { closure: digest, ...system });
  throw new FleetError('E_CACHE_INCOMPLETE', `no system has the closure file ${digest}`);
}

/** Those that are copies or patches. */
async function makePatches(
  planned: readonly PlannedPath[],
  { blobs, segments, pool }: PackMaking,
): Promise<ReadonlyMap<PlannedPath, StoredSegment | 'copy'>> {
  const tasks = new Map<string, SegmentTask>();
  const keys = new Map<PlannedPath, string>();
  for (const path of planned) {
    if (path.from === null) continue;
    const { row, renames } = path.from;
    const key = patchKey(row.narHash, path.row.narHash, renames);
    keys.set(path, key);
    tasks.set(key, {
      kind: 'patch',
      old: narFileOf(row, blobs),
      renames,
      nar: narFileOf(path.row, blobs),
      most: Math.floor(path.row.blobSize * PATCH_PART),
    });
  }
  const outcomes = await segments.all(tasks, pool);
  const made = new Map<PlannedPath, StoredSegment | 'copy'>();
  for (const [path, key] of keys) {
    const outcome = outcomes.get(key);
    if (typeof outcome !== 'object') continue;
    if ('blob' in outcome) made.set(path, outcome);
    else if (outcome.outcome === 'copy') made.set(path, 'copy');
  }
  return made;
}

/** A segment for each; those of a group have the same. */
async function makeWholes(
  planned: readonly PlannedPath[],
  { blobs, segments, pool }: PackMaking,
): Promise<ReadonlyMap<PlannedPath, StoredSegment>> {
  const tasks = new Map<string, SegmentTask>();
  const groups = groupsOf(planned).map((paths) => {
    const key = wholeKey(paths.map(({ row }) => row.narHash));
    const stored = paths.reduce((sum, { row }) => sum + row.blobSize, 0);
    const nars = paths.map(({ row }) => narFileOf(row, blobs));
    tasks.set(key, { kind: 'whole', nars, most: Math.floor(stored * WHOLE_PART) });
    return { key, paths };
  });
  const outcomes = await segments.all(tasks, pool);
  const made = new Map<PlannedPath, StoredSegment>();
  for (const { key, paths } of groups) {
    const outcome = outcomes.get(key);
    const group = typeof outcome === 'object' && 'blob' in outcome ? outcome : null;
    for (const path of paths) made.set(path, group ?? ownNar(path));
  }
  return made;
}

function groupsOf(planned: readonly PlannedPath[]): PlannedPath[][] {
  const byInfo = new Map<PathInfo, PlannedPath>(planned.map((path) => [path.info, path]));
  const infos = [...byInfo.keys()];
  const small = infos.filter(({ narSize }) => narSize < GROUPED_BYTES);
  const large = infos.filter(({ narSize }) => narSize >= GROUPED_BYTES);
  return [...groupWhole(small), ...large.map((info) => [info])].map((group) =>
    group.flatMap((info) => byInfo.get(info) ?? []),
  );
}

/** The NAR as it is stored anyway. */
function ownNar({ row }: PlannedPath): StoredSegment {
  const memory = Math.min(wholeMemory(row.narSize), NAR_MEMORY);
  return { outcome: 'whole', blob: { id: row.blob, size: row.blobSize }, memory };
}
