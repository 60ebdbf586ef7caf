// What a machine runs and boots, and what its agent made of it → whether somebody else switched it (a `nixos-rebuild switch`, an
// older generation from the boot menu). That is reported, and not overwritten until policy says so.
import { makeReason } from '../manifest/receipt.ts';
import type { StorePath } from '../nix/storepath.ts';
import type { Attempt } from './outcome.ts';
import type { Systems } from './place.ts';

/** What is told of it; null: the machine is as its agent left it, or is already what it is to be. */
export function driftOf(
  { current, profile }: Pick<Systems, 'current' | 'profile'>,
  ours: readonly StorePath[],
  target: StorePath,
): Attempt | null {
  const isKnown = (system: StorePath | null): boolean =>
    system === null || system === target || ours.includes(system);
  // Before its first commit an agent knows nothing of the machine, and takes it as it is.
  if (ours.length === 0 || (isKnown(current) && isKnown(profile))) return null;
  const what = isKnown(current) ? `set to boot ${profile}` : `switched to ${current}`;
  const text = `somebody else ${what}; it stays until drift is "replace", or root runs: fleet agent apply --force`;
  return { phase: 'drifted', reason: makeReason('local-switch', text), exitCode: null };
}
