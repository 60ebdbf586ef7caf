// Generations of a profile that are not wanted any more → gone, and with them what only they kept in the store. Everything here
// runs isolated, as in realise.ts. Nothing alive is ever deleted: Nix refuses that itself.

import { batchesOf } from './batches.ts';
import { runNix } from './command.ts';
import { queryClosure } from './query.ts';
import type { StoreOptions } from './realise.ts';
import { parseStorePath, type StorePath } from './storepath.ts';

/** Deletes generations, by number, of `profile` (the path of its link). Their store paths stay. */
export async function deleteGenerations(
  profile: string,
  numbers: readonly number[],
  options: StoreOptions = {},
): Promise<void> {
  if (numbers.length === 0) return;
  const args = ['--profile', profile, '--delete-generations', ...numbers.map(String)];
  await runNix('nix-env', args, { ...options, isolated: true });
}

/** Deletes what of the closures of `paths` nothing keeps. Returns how many paths that were. */
export async function deleteDead(
  paths: readonly StorePath[],
  options: StoreOptions = {},
): Promise<number> {
  const settings = { ...options, isolated: true };
  const closure = new Set(await queryClosure(paths, settings));
  const { stdout } = await runNix('nix-store', ['--gc', '--print-dead'], settings);
  const dead = stdout
    .split('\n')
    .filter((line) => line.startsWith('/'))
    .map(parseStorePath)
    .filter((path) => closure.has(path));
  for (const batch of batchesOf(dead)) {
    await runNix('nix-store', ['--delete', ...batch], settings);
  }
  return dead.length;
}
