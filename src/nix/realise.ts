// The agent's half of Nix: paths come from substituters into a local store and are never built; roots,
// profiles, deletion and repair of single paths. Everything here runs isolated (environment.ts): the
// host's Nix configuration cannot add a substituter, a trusted key or a builder.
//
// Tried with Nix 2.8 (test/e2e/nix-programs.test.ts), read in the source of 2.36:
// - In a chroot store, roots and generations are links outside of any namespace to the logical path
//   (`/nix/store/X`), registered in ROOT/nix/var/nix/gcroots/auto; the collector follows them.
//   `--indirect` does nothing: 2.8 and later accept and ignore it.
// - `nix-env --set` works on a chroot store and a profile of any place; setting what is set already makes
//   no new generation.
// - `--repair-path` fetches a valid path anew also when its registered hash is not the substituter's:
//   afterwards contents, hash and size are the substituter's. References are only ever ADDED to the
//   database (registerValidPaths), so a path that had others than the substituter's keeps those too and
//   still differs: who repairs asks again afterwards (queryPathInfos).
import { readlink } from 'node:fs/promises';
import { isAbsolute } from 'node:path';
import { dirname } from 'node:path/posix';
import { syncDirectory } from '../durable.ts';
import { FleetError, isFleetError } from '../errors.ts';
import { batchesOf } from './batches.ts';
import { type NixOptions, runNix } from './command.ts';
import { invalidPaths } from './query.ts';
import { parseStorePath, type StorePath } from './storepath.ts';

export type StoreOptions = Pick<NixOptions, 'root' | 'scratch' | 'signal' | 'env'>;

export type FetchOptions = StoreOptions &
  Pick<NixOptions, 'onLine' | 'through'> & {
    /** `substituters`, `trusted-public-keys`, …; building stays forbidden whatever it says. */
    readonly settings: ReadonlyMap<string, string>;
  };

// A host never builds. Only what a trusted key signed is let in, and no earlier answer is believed.
const FETCH_ONLY: ReadonlyMap<string, string> = new Map([
  ['max-jobs', '0'],
  ['builders', ''],
  ['fallback', 'false'],
  ['substitute', 'true'],
  ['require-sigs', 'true'],
  ['narinfo-cache-positive-ttl', '0'],
  ['narinfo-cache-negative-ttl', '0'],
]);

/**
 * Makes `paths` and their closures valid by fetching what is missing. With `addRoot` (one path only)
 * that link keeps it from the collector from before the program ends.
 * @throws FleetError E_NIX_FAILED (`details` say what was refused and why), E_DISK_FULL.
 */
export async function realisePaths(
  paths: readonly StorePath[],
  options: FetchOptions & { readonly addRoot?: string },
): Promise<void> {
  const { addRoot: link, ...rest } = options;
  if (link !== undefined && paths.length !== 1) throw new RangeError('one path per root');
  for (const batch of batchesOf(paths)) {
    const args = ['--realise', ...batch, ...rootArguments(link)];
    await runNix('nix-store', args, fetching(rest));
  }
}

/**
 * Keeps a valid path from the collector by a link (absolute path; replaced when it is one already).
 * Nothing is fetched.
 */
export async function addRoot(
  path: StorePath,
  link: string,
  options: StoreOptions = {},
): Promise<void> {
  await runNix('nix-store', ['--realise', path, ...rootArguments(link)], offline(options));
  await syncDirectory(dirname(link));
}

/**
 * The same for many paths, with one process for some two thousand of them: links that begin with `link`, one for
 * each path, whose names Nix chooses. Those that are not valid are left out, and returned.
 * @throws FleetError E_NIX_FAILED, E_NIX_OUTPUT when some path has no link then.
 */
export async function addRoots(
  paths: readonly StorePath[],
  link: string,
  options: StoreOptions = {},
): Promise<ReadonlySet<StorePath>> {
  const settings = offline(options);
  const invalid = new Set(await invalidPaths(paths, settings));
  const valid = paths.filter((path) => !invalid.has(path));
  let number = 0;
  for (const batch of batchesOf(valid)) {
    number += 1;
    // LINK, LINK-2, LINK-3 and so on: in the order of the paths, from 2.3 to 2.36.
    const name = `${link}.${number}`;
    await runNix('nix-store', ['--realise', ...batch, ...rootArguments(name)], settings);
    await requireLinks(batch, name);
  }
  if (number > 0) await syncDirectory(dirname(link));
  return invalid;
}

/** What Nix prints is not asked, for it differs: the links are. */
async function requireLinks(paths: readonly StorePath[], link: string): Promise<void> {
  for (const [i, path] of paths.entries()) {
    const name = i === 0 ? link : `${link}-${i + 1}`;
    if ((await readlink(name).catch(() => null)) === path) continue;
    throw new FleetError('E_NIX_OUTPUT', `nix-store --add-root made no link ${name} to ${path}`);
  }
}

/**
 * Deletes a path and all that refers to it, if none of these is alive. False: the path is still there
 * (dead ones that refer to it may be gone). True also when it was not there.
 */
export async function deletePath(path: StorePath, options: StoreOptions = {}): Promise<boolean> {
  const settings = offline(options);
  // Nix deletes nothing that something else in the store refers to, dead or not, unless that is named too.
  const referrers = await runNix('nix-store', ['--query', '--referrers-closure', path], settings);
  const paths = referrers.stdout.split('\n').slice(0, -1).map(parseStorePath);
  try {
    await runNix('nix-store', ['--delete', ...paths], settings);
    return true;
  } catch (error) {
    const alive = (line: string): boolean => /still alive/.test(line);
    if (isFleetError(error, 'E_NIX_FAILED') && error.details.some(alive)) return false;
    throw error;
  }
}

/**
 * Fetches a valid path anew and puts it in the place of what is there. Not atomic: a crash can leave the
 * path registered and absent or partial, with its old hash; repair it again then.
 */
export async function repairPath(path: StorePath, options: FetchOptions): Promise<void> {
  await runNix('nix-store', ['--repair-path', path], fetching(options));
}

/**
 * Makes `toplevel` (valid) the newest generation of `profile`, the path of a link such as
 * `ROOT/nix/var/nix/profiles/system`. Survives a power cut once fulfilled.
 */
export async function setProfile(
  profile: string,
  toplevel: StorePath,
  options: StoreOptions = {},
): Promise<void> {
  if (!isAbsolute(profile)) throw new RangeError(`not absolute: ${profile}`);
  await runNix('nix-env', ['--profile', profile, '--set', toplevel], offline(options));
  await syncDirectory(dirname(profile));
}

function rootArguments(link: string | undefined): string[] {
  if (link === undefined) return [];
  if (!isAbsolute(link)) throw new RangeError(`not absolute: ${link}`);
  return ['--add-root', link];
}

function fetching(options: FetchOptions): NixOptions {
  return { ...options, isolated: true, settings: new Map([...options.settings, ...FETCH_ONLY]) };
}

function offline(options: StoreOptions): NixOptions {
  return {
    ...options,
    isolated: true,
    settings: new Map([...FETCH_ONLY, ['substitute', 'false']]),
  };
}
