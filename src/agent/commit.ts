// A target → what the machine boots: profile and boot loader (machine.ts, `commit`).
import { isFleetError, messageOf } from '../errors.ts';
import { makeReason } from '../manifest/receipt.ts';
import { setProfile } from '../nix/realise.ts';
import { type Host, switchTo } from './host.ts';
import { IN_SYNC } from './outcome.ts';
import { readSystems } from './place.ts';
import { LOCKED, type SwitchResult } from './switch.ts';
import { type At, backBecause, type Happened } from './transaction.ts';
import { awaitingLock, whyOf } from './verdict.ts';

export async function commit(host: Host, at: At): Promise<Happened> {
  const { target, failedUnits } = at;
  const { place } = host;
  let boot: SwitchResult;
  try {
    await setProfile(place.profile, target, place.nix);
    boot = await switchTo(host, target, 'boot');
  } catch (error) {
    const code = isFleetError(error) ? error.code : 'E_INTERNAL';
    return backBecause('broken', makeReason(code, messageOf(error)), { exitCode: null });
  }
  // The journal stays: the next run commits.
  if (boot.code === LOCKED) return { event: 'locked', told: awaitingLock(boot, 'boot') };
  if (boot.code !== 0) {
    return backBecause('broken', whyOf(boot, 'boot'), { exitCode: boot.code });
  }
  const { current } = await readSystems(place);
  // A power cut came before this was written, and the machine booted it; or it ran all the time.
  if (at.step === 'setting' && current === target) return arrived(host, at);
  const done = at.done ?? IN_SYNC;
  return { event: 'committed', told: { ...done, failedUnits } };
}

/** What was set for a boot runs: from now on a boot brings it, and what runs is to be undone as well. */
export function arrived(host: Host, { target, previous }: Omit<At, 'step'>): Happened {
  const touched = { system: previous !== target, boot: true };
  return { event: 'arrived', change: { touched, bootId: host.bootId } };
}
