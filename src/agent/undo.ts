// An activation that came to nothing → the machine as it was before (machine.ts, `undo`): first what
// it boots, then what it runs, by the previous system's own program at its exact path. Whatever fails on the
// way, a full disk included, is told and keeps nothing else from being undone; what is left stays in the
// journal, and the next run goes on with it. "Rolled back" is said only when nothing is left.
import { messageOf } from '../errors.ts';
import { makeReason } from '../manifest/receipt.ts';
import { setProfile } from '../nix/realise.ts';
import type { StorePath } from '../nix/storepath.ts';
import { NEEDS_REBOOT } from './check.ts';
import { type Host, switchTo } from './host.ts';
import type { Touched, Transaction } from './journal.ts';
import { INTERRUPTED } from './outcome.ts';
import { canSwitchTo, type Place, readSystems } from './place.ts';
import type { At, Happened } from './transaction.ts';
import { toldBy } from './verdict.ts';

type Before = Pick<Transaction, 'target' | 'previous' | 'previousProfile'>;

/** Goes back to what was before. Throws nothing. */
export async function undo(host: Host, at: At): Promise<Happened> {
  const { why, exitCode, failedUnits } = at;
  const { touched, bootId } = await asOfThisBoot(host, at).catch(() => at);
  const reason = why ?? INTERRUPTED;
  const problems: string[] = [];
  let left: Touched = touched;
  let needsBoot = false;
  try {
    if (left.boot) await restoreBoot(host, at);
    left = { ...left, boot: false };
  } catch (error) {
    problems.push(`the boot loader: ${messageOf(error)}`);
  }
  try {
    if (left.system) needsBoot = (await restoreSystem(host, at)) === 'by-boot';
    if (!needsBoot) left = { ...left, system: false };
  } catch (error) {
    problems.push(`going back: ${messageOf(error)}`);
  }
  const change = { touched: left, bootId, why: reason };
  if (problems.length === 0 && !needsBoot) {
    const told = { phase: 'rolled-back', reason, exitCode, failedUnits } as const;
    return { event: 'undone', change, told };
  }
  if (needsBoot) problems.push('going back: the system of before is there with the next boot');
  const text = `${problems.join('; ')}; after: ${reason.text}`;
  const failed = { phase: 'failed', reason: makeReason(reason.code, text), exitCode } as const;
  const event = needsBoot && !left.boot ? 'undone-by-boot' : 'left';
  return { event, change, told: { ...failed, failedUnits } };
}

/**
 * What `transaction` has touched as this boot finds it: a reboot takes back what was only activated, but one
 * whose boot loader was touched may have booted into the target.
 */
export async function asOfThisBoot<T extends Omit<Transaction, 'step'>>(
  host: Host,
  transaction: T,
): Promise<T> {
  const { bootId, touched, previous } = transaction;
  if (bootId === host.bootId) return transaction;
  const { current } = await readSystems(host.place);
  const system = touched.boot && current !== previous;
  return { ...transaction, bootId: host.bootId, touched: { ...touched, system } };
}

async function restoreBoot(
  host: Host,
  { target, previous, previousProfile }: Before,
): Promise<void> {
  const { place } = host;
  // A generation may have been deleted meanwhile; what ran is held.
  const back = await wayBack(place, target, [previousProfile, previous]);
  const { profile } = await readSystems(place);
  if (profile !== back) await setProfile(place.profile, back, place.nix);
  // Always: the profile may have been set right by a run that did not get as far as this.
  const boot = await switchTo(host, back, 'boot');
  if (boot.code !== 0) throw new Error(toldBy(boot, 'boot'));
}

async function restoreSystem(
  host: Host,
  { target, previous, previousProfile }: Before,
): Promise<'now' | 'by-boot'> {
  // Where what came to nothing only booted before, and did not run, going to it takes nothing back.
  const booted = previousProfile === target ? null : previousProfile;
  const back = await wayBack(host.place, target, [previous, booted]);
  const test = await switchTo(host, back, 'test');
  if (test.code === NEEDS_REBOOT) return 'by-boot';
  if (test.code !== 0 && test.code !== 4) throw new Error(toldBy(test, 'test'));
  const { current } = await readSystems(host.place);
  if (current !== back) throw new Error(`the current system is ${current}`);
  return 'now';
}

/** The first of `before` that is there. What came to nothing is the last of them: it may be all that there was. */
async function wayBack(
  place: Place,
  target: StorePath,
  before: readonly (StorePath | null)[],
): Promise<StorePath> {
  const known = before.filter((path) => path !== null);
  const others = known.filter((path) => path !== target);
  for (const path of [...others, ...known]) {
    if (await canSwitchTo(place, path)) return path;
  }
  throw new Error('no system of before is known');
}
