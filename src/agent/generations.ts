// The generations of the system profile and what a host's policy keeps → the rest is deleted, and what only it kept in the
// store (SPEC §4.4, `keepGenerations`). What is booted, what runs, what boots and what there is to go back to is kept, whatever the
// policy says. Done before the boot loader is written: a /boot that is full of old entries would never take a new one.
import { lstat, readdir } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { deleteDead, deleteGenerations } from '../nix/generations.ts';
import type { StorePath } from '../nix/storepath.ts';
import { type Place, readStoreLink, readSystems } from './place.ts';
import { systemBehind } from './specialisation.ts';

export type Generation = {
  readonly number: number;
  /** null: it leads nowhere that is a store path. */
  readonly path: StorePath | null;
  /** When it was made, POSIX seconds. */
  readonly at: number;
};

export type Keep = { readonly count: number; readonly days: number };

/** What stays where the rules say nothing. SPEC §4.4 */
export const DEFAULT_KEEP: Keep = { count: 5, days: 0 };

/** Which of `all` are to go, oldest first. `held`: systems that stay. */
export function unwanted(
  all: readonly Generation[],
  { count, days }: Keep,
  held: ReadonlySet<StorePath | null>,
  now: number,
): readonly Generation[] {
  const newest = [...all].sort((a, b) => b.number - a.number);
  const isOld = ({ at }: Generation): boolean => days === 0 || at < now - days * 86_400;
  return newest
    .slice(count)
    .filter((one) => isOld(one) && !held.has(one.path))
    .reverse();
}

/** Deletes what `keep` does not keep. `held`: systems to go back to. Returns whether there was anything. */
export async function prune(
  place: Place,
  keep: Keep,
  held: readonly (StorePath | null)[],
  now: number,
): Promise<boolean> {
  const all = await readGenerations(place);
  const { booted, current, profile } = await readSystems(place);
  const paths = all.map(({ path }) => path);
  // Whose specialisation was booted, or runs, is in the boot menu with it.
  const behind = [booted, current].map((system) => systemBehind(place, system, paths));
  const stays = new Set([...held, booted, current, profile, ...(await Promise.all(behind))]);
  const gone = unwanted(all, keep, stays, now);
  if (gone.length === 0) return false;
  const numbers = gone.map(({ number }) => number);
  await deleteGenerations(place.profile, numbers, place.nix);
  const dead = new Set(gone.flatMap(({ path }) => (path === null ? [] : [path])));
  await deleteDead([...dead], place.nix);
  return true;
}

/** Lets go of a system that was held for its own sake, if it has no generation any more. */
export async function release(place: Place, system: StorePath): Promise<void> {
  const all = await readGenerations(place);
  const { booted, current } = await readSystems(place);
  const isThere = all.some(({ path }) => path === system) || [booted, current].includes(system);
  if (!isThere) await deleteDead([system], place.nix);
}

async function readGenerations(place: Place): Promise<readonly Generation[]> {
  const dir = dirname(place.profile);
  const pattern = new RegExp(`^${basename(place.profile)}-(\\d{1,9})-link$`);
  const all: Generation[] = [];
  for (const name of await readdir(dir)) {
    const number = Number(pattern.exec(name)?.[1] ?? Number.NaN);
    if (!Number.isSafeInteger(number)) continue;
    const link = join(dir, name);
    const { mtimeMs } = await lstat(link);
    all.push({ number, path: await readStoreLink(place, link), at: Math.floor(mtimeMs / 1000) });
  }
  return all;
}
