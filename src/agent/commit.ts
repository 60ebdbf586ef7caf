// A target → what the machine boots: profile, old generations, boot loader (machine.ts, `commit`). And before anything of it is
// begun: room for it in /boot.
import { isFleetError, messageOf } from '../errors.ts';
import { makeReason, type Reason } from '../manifest/receipt.ts';
import { setProfile } from '../nix/realise.ts';
import { hasBootEntry } from './boot-entry.ts';
import { DEFAULT_KEEP, prune } from './generations.ts';
import { type Host, switchTo } from './host.ts';
import { type Attempt, IN_SYNC } from './outcome.ts';
import { readSystems } from './place.ts';
import { lackOfBootRoom } from './preflight.ts';
import { systemBehind } from './specialisation.ts';
import { LOCKED, type SwitchResult } from './switch.ts';
import { type At, backBecause, type Happened } from './transaction.ts';
import { awaitingLock, whyOf } from './verdict.ts';

export async function commit(host: Host, at: At): Promise<Happened> {
  const { target, failedUnits } = at;
  const { place } = host;
  let boot: SwitchResult;
  try {
    await setProfile(place.profile, target, place.nix);
    await pruneAll(host, at);
    boot = await switchTo(host, target, 'boot');
  } catch (error) {
    const code = isFleetError(error) ? error.code : 'E_INTERNAL';
    return backBecause('broken', makeReason(code, messageOf(error)), { exitCode: null });
  }
  // The journal stays: the next run commits.
  if (boot.code === LOCKED) return { event: 'locked', told: awaitingLock(boot, 'boot') };
  const why = boot.code === 0 ? await lackOfEntry(host, at) : whyOf(boot, 'boot');
  if (why !== null) return backBecause('broken', why, { exitCode: boot.code });
  const { current: running } = await readSystems(place);
  const current = await systemBehind(place, running, [target]);
  // A power cut came before this was written, and the machine booted it; or it ran all the time.
  if (at.step === 'setting' && current === target) return arrived(host, at);
  const done = at.done ?? IN_SYNC;
  // A boot from now on is the one that is waited for, also where this was begun in another.
  const change = { bootId: host.bootId };
  return { event: 'committed', change, told: { ...done, failedUnits } };
}

/**
 * What is told where the new system has no room in /boot; null: it has. Where there is none, old generations go first, and what
 * boots now is written anew without them.
 */
export async function makeBootRoom(host: Host, at: At): Promise<Attempt | null> {
  const lack = await lackOfBootRoom(host.place, at.target);
  if (lack === null || at.again) return lack;
  const { profile } = await readSystems(host.place);
  if (profile === null || !(await pruneAll(host, at))) return lack;
  await switchTo(host, profile, 'boot');
  return await lackOfBootRoom(host.place, at.target);
}

/** Whether anything went. One that cannot go now stays until the next time: no reason to keep an update back. */
async function pruneAll(host: Host, at: At): Promise<boolean> {
  const { rules, previous, previousProfile, target } = at;
  const keep = rules.keepGenerations ?? DEFAULT_KEEP;
  return await prune(host.place, keep, [previous, previousProfile, target], host.now()).catch(
    () => false,
  );
}

/** Of a boot loader that said it went well. */
async function lackOfEntry({ place }: Host, { target }: At): Promise<Reason | null> {
  // A chroot store has no boot loader of its own.
  if (place.root !== null || (await hasBootEntry(target))) return null;
  const text = `switch-to-configuration boot ended with 0, but no entry of /boot starts ${target}`;
  return makeReason('E_SWITCH_FAILED', text);
}

/** What was set for a boot runs: from now on a boot brings it, and what runs is to be undone as well. */
export function arrived(host: Host, { target, previous }: Omit<At, 'step'>): Happened {
  const touched = { system: previous !== target, boot: true };
  return { event: 'arrived', change: { touched, bootId: host.bootId } };
}
