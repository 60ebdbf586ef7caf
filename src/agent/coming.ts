// What is coming, and what this host runs → what that means for people (SPEC §5.8): which packages change, and whether
// the machine has to be restarted. Reads the local store alone; what is not there yet is not known.
import { diffClosures, type PackageChange } from '../manifest/closure-diff.ts';
import type { Closure } from '../nix/closure.ts';
import { invalidPaths, queryClosure, queryPathInfos } from '../nix/query.ts';
import type { StorePath } from '../nix/storepath.ts';
import type { Place, Systems } from './place.ts';
import { whyReboot } from './reboot.ts';

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
    reboot: systems.booted === null ? null : (await whyReboot(place, target, systems)) !== null,
  };
}

async function closureOf({ nix }: Place, toplevel: StorePath): Promise<Pick<Closure, 'paths'>> {
  const options = { ...nix, isolated: true };
  const infos = await queryPathInfos(await queryClosure([toplevel], options), options);
  return { paths: new Map(infos.map((info) => [info.path, info])) };
}
