// What is coming, and what this host runs → what that means for people (SPEC §5.8): which packages change, and whether
// the machine has to be restarted. Reads the local store alone; what is not there yet is not known.
import { lstat, readFile, readlink } from 'node:fs/promises';
import { errnoOf } from '../errors.ts';
import { diffClosures, type PackageChange } from '../manifest/closure-diff.ts';
import type { Closure } from '../nix/closure.ts';
import { invalidPaths, queryClosure, queryPathInfos } from '../nix/query.ts';
import { STORE_DIR, type StorePath } from '../nix/storepath.ts';
import { type Place, realPathOf, type Systems } from './place.ts';

export type ComingChanges = {
  /** At most MAX_PACKAGES, by name; null: the target is not in the store. */
  readonly packages: readonly PackageChange[] | null;
  /** How many more there are. */
  readonly morePackages: number;
  /** null: it cannot be told. */
  readonly reboot: boolean | null;
};

/** A new release changes thousands, which nobody reads, and the process that waits all day hands on. */
export const MAX_PACKAGES = 500;
/** Nothing could be found out. */
export const NOT_KNOWN: ComingChanges = { packages: null, morePackages: 0, reboot: null };

/** What only a boot can change (facts of NixOS: switch-to-configuration compares the same). */
const BOOTED_LINKS = ['kernel', 'initrd', 'kernel-modules'];

export async function changesOf(
  place: Place,
  target: StorePath,
  systems: Systems,
): Promise<ComingChanges> {
  const options = { ...place.nix, isolated: true };
  const { current } = systems;
  const wanted = current === null ? [target] : [target, current];
  const invalid = await invalidPaths(wanted, options);
  if (invalid.includes(target)) return NOT_KNOWN;
  const after = await closureOf(place, target);
  const before =
    current === null || invalid.includes(current) ? null : await closureOf(place, current);
  const { packages } = diffClosures(before, after);
  return {
    packages: packages.slice(0, MAX_PACKAGES),
    morePackages: Math.max(0, packages.length - MAX_PACKAGES),
    reboot: await needsReboot(place, target, systems),
  };
}

/** Whether `target` differs from what was booted in what only a boot changes; null: nothing that is known was booted. */
export async function needsReboot(
  place: Place,
  target: StorePath,
  { booted, current }: Systems,
): Promise<boolean | null> {
  if (booted === null || !(await isThere(place, booted))) return null;
  for (const name of BOOTED_LINKS) {
    if ((await linkOf(place, target, name)) !== (await linkOf(place, booted, name))) return true;
  }
  if (await differ(place, 'reboot-triggers', target, booted)) return true;
  return current !== null && (await differ(place, 'switch-inhibitors', target, current));
}

async function closureOf({ nix }: Place, toplevel: StorePath): Promise<Pick<Closure, 'paths'>> {
  const options = { ...nix, isolated: true };
  const infos = await queryPathInfos(await queryClosure([toplevel], options), options);
  return { paths: new Map(infos.map((info) => [info.path, info])) };
}

async function isThere(place: Place, path: StorePath): Promise<boolean> {
  return await lstat(realPathOf(place, path)).then(
    () => true,
    () => false,
  );
}

/** Where a link of a system leads; null: it has none. Never followed: in a chroot store it means something else here. */
async function linkOf(place: Place, system: StorePath, name: string): Promise<string | null> {
  try {
    return await readlink(realPathOf(place, `${system}/${name}`));
  } catch (error) {
    if (['ENOENT', 'EINVAL', 'ENOTDIR'].includes(errnoOf(error) ?? '')) return null;
    throw error;
  }
}

/** Whether a key that both have differs in a JSON object that systems may have. */
async function differ(place: Place, name: string, a: StorePath, b: StorePath): Promise<boolean> {
  const one = await objectOf(place, a, name);
  const other = await objectOf(place, b, name);
  for (const [key, value] of one) {
    if (other.has(key) && JSON.stringify(other.get(key)) !== JSON.stringify(value)) return true;
  }
  return false;
}

async function objectOf(
  place: Place,
  system: StorePath,
  name: string,
): Promise<ReadonlyMap<string, unknown>> {
  const link = await linkOf(place, system, name);
  const file = link?.startsWith(`${STORE_DIR}/`) === true ? link : `${system}/${name}`;
  try {
    const json: unknown = JSON.parse(await readFile(realPathOf(place, file), 'utf8'));
    return new Map(Object.entries(typeof json === 'object' && json !== null ? json : {}));
  } catch {
    // Older systems have none; one that cannot be read says nothing.
    return new Map();
  }
}
