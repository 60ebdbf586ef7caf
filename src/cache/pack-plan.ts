// Two closures and the cache's rows → what a pack is to be made of: each path that only the new one has, and the old one that
// it may be a patch against. Paths that are left to upstreams are no part of it, and nothing of an old path whose NAR is gone.

import type { Renames } from '../delta/pack-index.ts';
import { pairPaths, renamesOf } from '../delta/pair.ts';
import { FleetError } from '../errors.ts';
import type { Closure, PathInfo } from '../nix/closure.ts';
import type { StorePath } from '../nix/storepath.ts';
import type { Blobs } from '../storage/blobs.ts';
import type { CachedPath, State, StoredPath } from '../storage/state.ts';
import { inPackOrder } from './pack-order.ts';
import type { NarFile } from './pack-tasks.ts';

export type PlannedPath = {
  readonly info: PathInfo;
  readonly row: StoredPath;
  readonly from: {
    readonly path: StorePath;
    readonly row: StoredPath;
    readonly renames: Renames;
  } | null;
};

type Paths = Pick<Closure, 'paths'>;
type Stores = {
  readonly state: Pick<State, 'cachedPaths'>;
  readonly blobs: Pick<Blobs, 'size'>;
};

/**
 * In the order in which they come in the pack.
 * @throws FleetError E_CACHE_INCOMPLETE when a path of the new closure is not here as it should be
 */
export async function planPack(
  base: Paths | null,
  next: Paths,
  { state, blobs }: Stores,
): Promise<PlannedPath[]> {
  const added = inPackOrder(next, (path) => base?.paths.has(path) !== true);
  const pairs = base === null ? new Map<StorePath, StorePath>() : pairPaths(base, next);
  const wanted = [...new Set([...added.map(({ path }) => path), ...pairs.values()])];
  const rows = new Map((await state.cachedPaths(wanted)).map((row) => [row.path, row]));
  const planned: PlannedPath[] = [];
  for (const info of added) {
    if (rows.get(info.path)?.blob === null) continue;
    const row = await storedAs(info, rows, blobs);
    if (row === null) {
      const what = `${info.path} is not in the cache as its closure has it`;
      throw new FleetError('E_CACHE_INCOMPLETE', what);
    }
    const old = base?.paths.get(pairs.get(info.path) ?? info.path);
    const oldRow = await storedAs(old, rows, blobs);
    const renames = old === undefined ? new Map() : renamesOf(old, info);
    const from =
      old === undefined || oldRow === null ? null : { path: old.path, row: oldRow, renames };
    planned.push({ info, row, from });
  }
  return planned;
}

/** The NAR of a row as a thread reads it. */
export function narFileOf(
  { narHash, narSize, blob }: StoredPath,
  blobs: Pick<Blobs, 'fileOf'>,
): NarFile {
  return { narHash, narSize, file: blobs.fileOf(blob) };
}

/** The row, where it is what the closure says and its bytes are here. */
async function storedAs(
  info: PathInfo | undefined,
  rows: ReadonlyMap<StorePath, CachedPath>,
  blobs: Pick<Blobs, 'size'>,
): Promise<StoredPath | null> {
  const row = info && rows.get(info.path);
  if (info === undefined || row === undefined || row.blob === null) return null;
  const isSame =
    row.narHash === info.narHash &&
    row.narSize === info.narSize &&
    row.references.join() === info.references.join();
  return isSame && (await blobs.size(row.blob)) === row.blobSize ? row : null;
}
