// A verified closure → all of it valid in the local store, each path with the signed hash, size and
// references (ARCHITECTURE, "The agent"), held by a garbage collector root of the
// agent's own. Nix adds what is missing, from our substituter alone, and builds nothing.
// A path that is valid with another hash is E_STORE_DIVERGES: deleted and fetched anew where nothing
// needs it, replaced in place where the host's owner allows it, and never activated otherwise.
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { FleetError, isFleetError } from '../errors.ts';
import type { Closure, PathInfo } from '../nix/closure.ts';
import { invalidPaths, queryPathInfos } from '../nix/query.ts';
import { addRoot, deletePath, realisePaths, repairPath } from '../nix/realise.ts';
import { formatNixPublicKey, type NixPublicKey } from '../nix/signature.ts';
import type { StorePath } from '../nix/storepath.ts';
import { fetchNarInfos } from './cached.ts';
import type { Place } from './place.ts';
import { requireStoreRoom } from './preflight.ts';
import type { Source } from './source.ts';
import { Substituter } from './substituter.ts';

export type FetchOptions = {
  readonly source: Source;
  readonly place: Place;
  readonly closure: Closure;
  /** The root's Nix cache keys. */
  readonly keys: readonly NixPublicKey[];
  /** Directory of the agent's garbage collector roots. */
  readonly roots: string;
  /** Whether paths in use may be replaced. */
  readonly repair: boolean;
};

export type Fetched = {
  /** Paths that were added or replaced. */
  readonly paths: number;
  /** Bytes that came over the line for their NARs. */
  readonly bytes: number;
};

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
  const bytes = await substitute(options, wanted, stuck);
  const after = await compareStore(place, closure);
  if (after.divergent.length > 0) throw diverges(after.divergent);
  const [first] = after.missing;
  if (first !== undefined) {
    throw new FleetError('E_FETCH', `${first.path} is still missing after the fetch`);
  }
  return { paths: wanted.length, bytes };
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

async function substitute(
  options: FetchOptions,
  wanted: readonly PathInfo[],
  replace: readonly PathInfo[],
): Promise<number> {
  const { source, place, closure, keys } = options;
  const link = join(options.roots, 'next');
  if (wanted.length === 0) {
    await addRoot(closure.toplevel, link, place.nix);
    return 0;
  }
  const narInfos = await fetchNarInfos(source, wanted, keys);
  await using substituter = await Substituter.open(source, narInfos);
  const settings = nixSettings(substituter.url, keys);
  const { signal } = substituter;
  try {
    const given = { ...place.nix, settings, signal };
    await realisePaths([closure.toplevel], { ...given, addRoot: link });
    for (const { path } of replace) await repairPath(path, given);
  } catch (error) {
    throw substituter.failure ?? nixFailure(closure.toplevel, substituter.url, error);
  }
  return substituter.received;
}

// What counts is said here, so that nothing the machine is configured to do lets anything else in.
function nixSettings(url: string, keys: readonly NixPublicKey[]): Map<string, string> {
  return new Map([
    ['substituters', url],
    ['substitute', 'true'],
    ['trusted-public-keys', keys.map(formatNixPublicKey).join(' ')],
    ['require-sigs', 'true'],
    ['max-jobs', '0'],
    ['builders', ''],
    ['fallback', 'false'],
    ['narinfo-cache-positive-ttl', '0'],
    ['narinfo-cache-negative-ttl', '0'],
    // The server’s has a least rate of its own; a NAR that waits for its turn is not stalled.
    ['stalled-download-timeout', '86400'],
    ['netrc-file', '/dev/null'],
  ]);
}

/** What Nix said, without the substituter's secret address. */
function nixFailure(toplevel: StorePath, url: string, error: unknown): unknown {
  if (!isFleetError(error, 'E_NIX_FAILED')) return error;
  const details = error.details.map((line) => line.replaceAll(url, 'the agent'));
  const unsigned = details.find((line) => /not signed by|lacks a .*signature/.test(line));
  return unsigned === undefined
    ? new FleetError('E_FETCH', `${toplevel} could not be fetched: ${error.message}`, { details })
    : new FleetError('E_NARINFO_UNSIGNED', unsigned.replace(/^\w+: /, ''), { details });
}

function diverges(infos: readonly PathInfo[]): FleetError {
  const [first] = infos;
  const others = infos.length > 1 ? ` (and ${infos.length - 1} more)` : '';
  return new FleetError(
    'E_STORE_DIVERGES',
    `${first?.path}${others} is in the local store with other contents than the signed ones`,
  );
}
