// A host → what its next step costs: from the system that it says it runs to the one that is published for it or waits to be,
// in bytes by NARs and by its update pack, in all and by package. Reads what is stored, and makes nothing.
import { buffer } from 'node:stream/consumers';
import { readClosure } from '../cache/read-closure.ts';
import { readyPack, signersOf } from '../cache/ready-pack.ts';
import { type PackIndex, parsePackHead, parsePackIndex } from '../delta/pack-index.ts';
import { FleetError } from '../errors.ts';
import { diffClosures } from '../manifest/closure-diff.ts';
import type { Closure, PathInfo } from '../nix/closure.ts';
import { splitName } from '../nix/drv-name.ts';
import { nameOf, type StorePath } from '../nix/storepath.ts';
import type { BlobId } from '../storage/blobs.ts';
import type { KeptPack } from '../storage/packs.ts';
import type { CachedPath, NamedSystem, PublishedManifest, StatusRow } from '../storage/state.ts';
import { closureOfSystem, runningSystem } from './pack-steps.ts';
import type { StateDir } from './statedir.ts';
import { waitingOf } from './waiting.ts';

export type Cost = { readonly paths: number; readonly bytes: number };

export type PackCost = {
  /** All of it, as it is sent. */
  readonly bytes: number;
  readonly indexBytes: number;
  /** How many paths it has of each kind. */
  readonly copied: number;
  readonly patched: number;
  readonly whole: number;
};

export type PackageCost = {
  readonly name: string;
  readonly before: readonly string[];
  readonly after: readonly string[];
  readonly paths: number;
  readonly narBytes: number;
  /** Its part of the pack; of what is packed together, by size. null where there is no pack. */
  readonly packBytes: number | null;
};

export type StepCost = {
  readonly host: string;
  /** What it says it runs, also where no manifest ever named that. */
  readonly running: StorePath | null;
  /** What the step is from; null: from nothing that is known, as a first install. */
  readonly from: { readonly toplevel: StorePath; readonly closure: BlobId } | null;
  readonly to: {
    readonly epoch: number;
    readonly sequence: number;
    readonly toplevel: StorePath;
    readonly closure: BlobId;
    /** false: it waits to be. */
    readonly published: boolean;
  };
  /** Compressed NARs that are fetched here; and at upstreams, which no pack has. */
  readonly nars: Cost;
  readonly upstream: Cost;
  readonly pack: PackCost | null;
  /** What costs most first. */
  readonly packages: readonly PackageCost[];
};

/**
 * `now` in POSIX seconds.
 * @throws FleetError E_HOST_UNKNOWN; E_NO_MANIFEST; E_DECOMMISSIONED; E_CACHE_INCOMPLETE where a path or a closure file is lost
 */
export async function stepCost(dir: StateDir, host: string, now: number): Promise<StepCost> {
  const { state, cacheKeys, config } = dir;
  const row = (await state.status()).find(({ record }) => record.host === host);
  if (row === undefined) throw new FleetError('E_HOST_UNKNOWN', `there is no host named ${host}`);
  const { manifest, published } = await targetOf(dir, row, now);
  const { epoch, sequence, toplevel, closure } = manifest;
  const to = { epoch, sequence, toplevel, closure, published };
  const running = runningSystem(row.report);
  const base = running === null ? null : await closureOfSystem(state, running);
  const from = running === null || base === null ? null : { toplevel: running, closure: base };
  const next = await readClosure(dir.blobs, to);
  const before = from === null ? null : await readClosure(dir.blobs, from);
  const { added, packages } = diffClosures(before, next);
  const rows = new Map((await state.cachedPaths(added)).map((one) => [one.path, one]));
  const isStep = config.packs && from?.closure !== closure;
  const step = { closure, base };
  const pack = isStep ? await readyPack(step, signersOf(cacheKeys), dir) : null;
  const index = pack === null ? null : await readIndex(dir, pack, next);
  const packed = index === null ? null : packedBytes(index);
  const sizeOf = (path: StorePath): number => narBytes(path, rows);
  const byName = Map.groupBy(added, (path) => splitName(nameOf(path)).name);
  return {
    ...{ host, running, from, to },
    nars: costOf(
      added.filter((path) => rows.get(path)?.upstream == null),
      sizeOf,
    ),
    upstream: costOf(
      added.filter((path) => rows.get(path)?.upstream != null),
      sizeOf,
    ),
    pack: pack === null || index === null ? null : packCost(pack, index),
    packages: packages
      .flatMap(({ name, before: old, after }) => {
        const paths = byName.get(name) ?? [];
        if (paths.length === 0) return [];
        const packBytes = packed && sum(paths, (path) => packed.get(path) ?? 0);
        const cost = { paths: paths.length, narBytes: sum(paths, sizeOf) };
        return { name, before: old, after, ...cost, packBytes: packBytes && Math.round(packBytes) };
      })
      .sort((a, b) => (b.packBytes ?? 0) - (a.packBytes ?? 0) || b.narBytes - a.narBytes),
  };
}

type Target = { readonly manifest: PublishedManifest & NamedSystem; readonly published: boolean };

/** What waits, where it may still be published and names a system; else what is published. */
async function targetOf(
  dir: StateDir,
  { record, manifest }: StatusRow,
  now: number,
): Promise<Target> {
  const { host } = record;
  if (manifest !== null && manifest.toplevel === null) {
    throw new FleetError('E_DECOMMISSIONED', `${host} was removed from the fleet`);
  }
  const waiting = (await waitingOf(dir, now)).get(host);
  if (waiting !== undefined && waiting.stale === null) {
    const pending = (await dir.state.pendingManifests()).find((one) => one.host === host);
    if (pending !== undefined && pending.toplevel !== null) {
      return { manifest: pending, published: false };
    }
  }
  if (manifest === null) {
    throw new FleetError('E_NO_MANIFEST', `nothing was published for ${host} yet`);
  }
  return { manifest, published: true };
}

async function readIndex(
  { blobs }: StateDir,
  { closure, base, parts }: KeptPack,
  next: Closure,
): Promise<PackIndex | null> {
  const [first] = parts;
  const file = first === undefined ? null : await blobs.get(first.id);
  const bytes = file === null ? null : await buffer(file);
  const head = bytes === null ? null : parsePackHead(bytes);
  // It went since it was looked for.
  if (bytes === null || head === null) return null;
  return parsePackIndex(bytes.subarray(head.head), { closure: next, digest: closure, base });
}

function packCost({ parts }: KeptPack, { paths }: PackIndex): PackCost {
  const count = (kind: string): number => paths.filter((path) => path.kind === kind).length;
  return {
    bytes: sum(parts, ({ size }) => size),
    indexBytes: parts[0]?.size ?? 0,
    ...{ copied: count('copy'), patched: count('patch'), whole: count('whole') },
  };
}

/** Of each path, its part of the segments. */
function packedBytes({ paths, segments }: PackIndex): ReadonlyMap<StorePath, number> {
  const unpacked = new Map<number, number>();
  for (const path of paths) {
    if (path.kind === 'copy') continue;
    unpacked.set(path.segment, (unpacked.get(path.segment) ?? 0) + path.info.narSize);
  }
  const partOf = ({ narSize }: PathInfo, segment: number): number =>
    ((segments[segment]?.bytes ?? 0) * narSize) / (unpacked.get(segment) ?? 1);
  return new Map(
    paths.map((path) => [
      path.info.path,
      path.kind === 'copy' ? 0 : partOf(path.info, path.segment),
    ]),
  );
}

/** Compressed, where that is known. */
function narBytes(path: StorePath, rows: ReadonlyMap<StorePath, CachedPath>): number {
  const row = rows.get(path);
  if (row === undefined) {
    throw new FleetError('E_CACHE_INCOMPLETE', `${path} is not in the cache any more`);
  }
  return row.blobSize ?? row.upstream?.fileSize ?? row.narSize;
}

function costOf(paths: readonly StorePath[], sizeOf: (path: StorePath) => number): Cost {
  return { paths: paths.length, bytes: sum(paths, sizeOf) };
}

function sum<T>(items: readonly T[], of: (item: T) => number): number {
  return items.reduce((all, item) => all + of(item), 0);
}
