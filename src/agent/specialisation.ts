// A system that runs, and systems that might be behind it → the one whose specialisation it is. NixOS systems may have variants
// (`specialisation/NAME`), systems of their own that a person chooses in the boot menu: who runs one runs the system that
// it is of, as far as an agent is concerned. Reads only.
import { readdir } from 'node:fs/promises';
import { errnoOf } from '../errors.ts';
import { parseStorePath, type StorePath } from '../nix/storepath.ts';
import { type Place, realPathOf, resolveInside } from './place.ts';

/** The one of `systems` that is `running`, or has it as a specialisation; else `running`. */
export async function systemBehind(
  place: Place,
  running: StorePath | null,
  systems: readonly (StorePath | null)[],
): Promise<StorePath | null> {
  if (running === null || systems.includes(running)) return running;
  for (const system of systems) {
    if (system !== null && (await specialisationsOf(place, system)).includes(running)) {
      return system;
    }
  }
  return running;
}

/** Mostly none. */
export async function specialisationsOf(
  place: Place,
  system: StorePath,
): Promise<readonly StorePath[]> {
  const dir = await resolveInside(place, `${system}/specialisation`);
  if (dir === null) return [];
  const names = await readdir(realPathOf(place, dir)).catch((error: unknown) => {
    if (['ENOENT', 'ENOTDIR'].includes(errnoOf(error) ?? '')) return [];
    throw error;
  });
  const found: StorePath[] = [];
  for (const name of names) {
    const path = await resolveInside(place, `${dir}/${name}`);
    try {
      if (path !== null) found.push(parseStorePath(path));
    } catch {
      // Something else that lies there.
    }
  }
  return found;
}
