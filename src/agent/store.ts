// A verified closure → all of it valid in the local store, each path with the signed hash, size and
// references (ARCHITECTURE, "The agent"), held by a garbage collector root of the
// agent's own. Nix adds what is missing (fetch-missing.ts), and builds nothing.
// A path that is valid with another hash is E_STORE_DIVERGES: deleted and fetched anew where nothing
// needs it, replaced in place where the host's owner allows it, and never activated otherwise.
import { mkdir } from 'node:fs/promises';
import { FleetError } from '../errors.ts';
import type { Closure, PathInfo } from '../nix/closure.ts';
import { invalidPaths, queryPathInfos } from '../nix/query.ts';
import { deletePath } from '../nix/realise.ts';
import { type Fetched, type FetchOptions, fetchMissing } from './fetch-missing.ts';
import type { Place } from './place.ts';
import { requireStoreRoom } from './preflight.ts';

/** What the local store holds of a closure. */
export type Comparison = {
  readonly missing: readonly PathInfo[];
  readonly divergent: readonly PathInfo[];
};

/**
 * Makes the whole closure valid and right in the store.
 * @throws FleetError E_STORE_DIVERGES, E_PREFLIGHT, E_FETCH, E_NARINFO…, E_NAR…, E_DISK_FULL, E_SERVER_…
 */
export async function fetchClosure(options: FetchOptions): Promise<Fetched> {
  const { place, closure } = options;
  let local = await compareStore(place, closure);
  if (local.divergent.length > 0) {
    await deleteDead(place, local.divergent);
    // Nix deletes with a path all that refers to it.
    local = await compareStore(place, closure);
  }
  const stuck = local.divergent;
  if (stuck.length > 0 && !options.repair) throw diverges(stuck);
  const wanted = [...local.missing, ...stuck];
  await requireStoreRoom(place, wanted);
  await mkdir(options.roots, { recursive: true, mode: 0o700 });
  const fetched = await fetchMissing(options, wanted, stuck);
  const after = await compareStore(place, closure);
  if (after.divergent.length > 0) throw diverges(after.divergent);
  const [first] = after.missing;
  if (first !== undefined) {
    throw new FleetError('E_FETCH', `${first.path} is still missing after the fetch`);
  }
  return fetched;
}

/**
 * @throws FleetError E_STORE_DIVERGES, or E_FETCH when a path is missing. Also asked
 *   just before activation.
 */
export async function requireStore(place: Place, closure: Closure): Promise<void> {
  const { missing, divergent } = await compareStore(place, closure);
  if (divergent.length > 0) throw diverges(divergent);
  const [first] = missing;
  if (first !== undefined) {
    throw new FleetError('E_FETCH', `${first.path} has gone from the store since it was fetched`);
  }
}

export async function compareStore(place: Place, closure: Closure): Promise<Comparison> {
  const options = { ...place.nix, isolated: true };
  const paths = [...closure.paths.keys()];
  const absent = new Set(await invalidPaths(paths, options));
  const present = paths.filter((path) => !absent.has(path));
  const divergent: PathInfo[] = [];
  for (const local of present.length === 0 ? [] : await queryPathInfos(present, options)) {
    const signed = closure.paths.get(local.path);
    if (signed === undefined) continue;
    const same =
      local.narHash === signed.narHash &&
      local.narSize === signed.narSize &&
      local.references.join() === signed.references.join();
    if (!same) divergent.push(signed);
  }
  const missing = [...absent].flatMap((path) => closure.paths.get(path) ?? []);
  return { missing, divergent };
}

/** Deletes those of `infos` that nothing alive needs. */
async function deleteDead(place: Place, infos: readonly PathInfo[]): Promise<void> {
  for (const { path } of infos) {
    const gone = await invalidPaths([path], { ...place.nix, isolated: true });
    if (gone.length === 0) await deletePath(path, place.nix);
  }
}

function diverges(infos: readonly PathInfo[]): FleetError {
  const [first] = infos;
  const others = infos.length > 1 ? ` (and ${infos.length - 1} more)` : '';
  return new FleetError(
    'E_STORE_DIVERGES',
    `${first?.path}${others} is in the local store with other contents than the signed ones`,
  );
}
