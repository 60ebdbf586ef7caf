// Store paths → what a local store says of them: which are valid, their closure, their path infos.
// Asks the database only; no file of a path is read, nothing is fetched. By `nix-store`, whose verbs and
// output stayed the same from Nix 2.3 to 2.36 and in Lix.
import { isFleetError } from '../errors.ts';
import { batchesOf } from './batches.ts';
import { type NixOptions, runNix } from './command.ts';
import { parseDumpDb, type RegisteredPath } from './dump-db.ts';
import { parseStorePath, type StorePath } from './storepath.ts';

export type QueryOptions = Pick<NixOptions, 'root' | 'isolated' | 'scratch' | 'signal'>;

/**
 * `paths` and all that they need, references before referrers, each once.
 * @throws FleetError E_NIX_FAILED when one of them is not valid.
 */
export async function queryClosure(
  paths: readonly StorePath[],
  options: QueryOptions = {},
): Promise<StorePath[]> {
  const found = new Set<StorePath>();
  for (const batch of batchesOf(paths)) {
    const { stdout } = await runNix('nix-store', ['--query', '--requisites', ...batch], options);
    // The order holds across batches: what is found again later stays at its first place.
    for (const path of parsePaths(stdout)) found.add(path);
  }
  return [...found];
}

/**
 * What the database holds of `paths`, in their order. Those that are not valid are left out.
 * @throws FleetError E_NIX_OUTPUT, and what runNix throws.
 */
export async function queryPathInfos(
  paths: readonly StorePath[],
  options: QueryOptions = {},
): Promise<RegisteredPath[]> {
  const infos: RegisteredPath[] = [];
  for (const batch of batchesOf(paths)) infos.push(...(await dumpDb(batch, options)));
  return infos;
}

/** Those of `paths` that are not valid in the store, in their order. */
export async function invalidPaths(
  paths: readonly StorePath[],
  options: QueryOptions = {},
): Promise<StorePath[]> {
  const invalid: StorePath[] = [];
  for (const batch of batchesOf(paths)) {
    const args = ['--check-validity', '--print-invalid', ...batch];
    invalid.push(...parsePaths((await runNix('nix-store', args, options)).stdout));
  }
  return invalid;
}

async function dumpDb(
  paths: readonly StorePath[],
  options: QueryOptions,
): Promise<RegisteredPath[]> {
  try {
    const { stdout } = await runNix('nix-store', ['--dump-db', ...paths], options);
    return parseDumpDb(stdout);
  } catch (error) {
    // One invalid path fails the whole command. Most often there is none, so they are looked for last.
    if (!isFleetError(error, 'E_NIX_FAILED')) throw error;
    const invalid = new Set(await invalidPaths(paths, options));
    if (invalid.size === 0) throw error;
    const valid = paths.filter((path) => !invalid.has(path));
    // Without arguments it would dump everything.
    return valid.length === 0 ? [] : await dumpDb(valid, options);
  }
}

function parsePaths(text: string): StorePath[] {
  return text.split('\n').slice(0, -1).map(parseStorePath);
}
