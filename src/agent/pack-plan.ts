// A pack's index and what is missing here → which of it is used, and how: paths whose segments are worth their bytes, fit into
// memory, and whose old paths are of the base, here. All else is left to NARs.
import type { PackedPath, PackIndex } from '../delta/pack-index.ts';
import { packedBound } from '../delta/patch-format.ts';
import { narBytesOf, type PathInfo } from '../nix/closure.ts';
import { parsePathSignature } from '../nix/signature.ts';
import type { StorePath } from '../nix/storepath.ts';

export type PackPlan = {
  readonly paths: ReadonlyMap<StorePath, PackedPath>;
  /** The segments that these need, increasing. */
  readonly segments: readonly number[];
  /** For each of them that holds whole NARs: all that are in it, in order. */
  readonly groups: ReadonlyMap<number, readonly PathInfo[]>;
};

export type PlanLimits = {
  /** Bytes of memory that applying one segment may take. */
  readonly memory: number;
  /** Names of the keys whose signatures count. */
  readonly signers: ReadonlySet<string>;
  /** Those of these paths that are not of the base, or not valid in the store. */
  readonly notOfBase: (paths: readonly StorePath[]) => Promise<readonly StorePath[]>;
};

/** What asking for a path by itself costs beside its bytes: two round trips. */
const REQUEST_BYTES = 128 * 1024;
/** A group's NARs are unpacked to disk together, but for one that is alone. */
export const MAX_GROUP = 128 * 1024 * 1024;

/** What of the pack is used for `missing`. */
export async function planPack(
  index: PackIndex,
  missing: readonly PathInfo[],
  limits: PlanLimits,
): Promise<PackPlan> {
  const wanted = new Set(missing.map(({ path }) => path));
  const groups = groupsOf(index);
  const candidates = index.paths.filter(
    (one) => wanted.has(one.info.path) && isSigned(one, limits) && fits(one, index, groups, limits),
  );
  const olds = candidates.flatMap((one) => (one.kind === 'whole' ? [] : [one.old]));
  const gone = new Set(olds.length === 0 ? [] : await limits.notOfBase([...new Set(olds)]));
  const usable = candidates.filter((one) => one.kind === 'whole' || !gone.has(one.old));
  const worth = worthwhile(index, groups, usable);
  const used = usable.filter((one) => one.kind !== 'whole' || worth.has(one.segment));
  const segments = new Set(used.flatMap((one) => (one.kind === 'copy' ? [] : [one.segment])));
  return {
    paths: new Map(used.map((one) => [one.info.path, one])),
    segments: [...segments].sort((a, b) => a - b),
    groups,
  };
}

function isSigned({ sigs }: PackedPath, { signers }: PlanLimits): boolean {
  return sigs.some((sig) => signers.has(parsePathSignature(sig).name));
}

/** Into memory; and no more bytes than its NARs would be as they are, whatever the index says. */
function fits(
  path: PackedPath,
  { segments }: PackIndex,
  groups: ReadonlyMap<number, readonly PathInfo[]>,
  limits: PlanLimits,
): boolean {
  if (path.kind === 'copy') return true;
  const { bytes, memory } = segments[path.segment] ?? { bytes: Infinity, memory: Infinity };
  const nars = path.kind === 'patch' ? [path.info] : (groups.get(path.segment) ?? []);
  return memory <= limits.memory && bytes <= packedBound(narBytesOf(nars));
}

function groupsOf(index: PackIndex): Map<number, PathInfo[]> {
  const groups = new Map<number, PathInfo[]>();
  for (const path of index.paths) {
    if (path.kind !== 'whole') continue;
    const group = groups.get(path.segment);
    if (group === undefined) groups.set(path.segment, [path.info]);
    else group.push(path.info);
  }
  return groups;
}

/** Groups of which so much is needed that it costs less than its NARs one by one. */
function worthwhile(
  { segments }: PackIndex,
  groups: ReadonlyMap<number, readonly PathInfo[]>,
  usable: readonly PackedPath[],
): Set<number> {
  const needed = Map.groupBy(
    usable.filter((one) => one.kind === 'whole'),
    ({ segment }) => segment,
  );
  const worth = new Set<number>();
  for (const [segment, paths] of needed) {
    const all = narBytesOf(groups.get(segment) ?? []);
    const share = narBytesOf(paths.map(({ info }) => info)) / all;
    const wasted = (segments[segment]?.bytes ?? 0) * (1 - share);
    const isSpoolable = paths.length === 1 || all <= MAX_GROUP;
    if (isSpoolable && wasted <= paths.length * REQUEST_BYTES) worth.add(segment);
  }
  return worth;
}
