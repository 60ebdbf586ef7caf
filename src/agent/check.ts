// A target in the store → whether and how it can be switched to, with nothing changed yet (machine.ts, `check`): room in /boot, what a
// switch in place cannot bring, the system's own checks, the units that are failed already, and what would be done.
import { makeReason } from '../manifest/receipt.ts';
import { makeBootRoom } from './commit.ts';
import { type Host, switchTo } from './host.ts';
import { type Attempt, INTERRUPTED } from './outcome.ts';
import { readSystems } from './place.ts';
import { whyReboot } from './reboot.ts';
import { systemBehind } from './specialisation.ts';
import { LOCKED, type SwitchResult } from './switch.ts';
import { type At, backBecause, type Happened } from './transaction.ts';
import { failedUnits } from './units.ts';
import { awaitingLock, failedCheck, hasNoCheck, notKnown, rebootPending } from './verdict.ts';

/** switch-to-configuration's status for what only a reboot can do; nothing was activated. */
export const NEEDS_REBOOT = 100;

/** What an earlier run half activated, while the new one begins with a boot: it is undone first. */
export const BOOT_FIRST = makeReason(
  INTERRUPTED.code,
  `${INTERRUPTED.text}: the next needs a boot`,
);

/** As much of what a system says that it would do as a receipt holds. */
const FORETOLD_CHARACTERS = 2000;

export async function check(host: Host, from: At): Promise<Happened> {
  const { target, rules, again } = from;
  let failedBefore: readonly string[];
  try {
    // Of one that broke off, what was before that was begun.
    if (again) failedBefore = from.failedBefore;
    else failedBefore = host.hasSystemd ? await failedUnits() : [];
  } catch (error) {
    return unfit(from, notKnown(error));
  }
  const at = { ...from, failedBefore };
  const lack = await makeBootRoom(host, at);
  if (lack !== null) return unfit(at, lack);
  if (rules.mode === 'boot' || rules.reboot === 'required') {
    return bootOnly(at, rebootPending('mode-boot', 'set for the next boot'));
  }
  const systems = await readSystems(host.place);
  const { current } = systems;
  if ((await systemBehind(host.place, current, [at.previous])) !== current) {
    const text = `a specialisation runs, ${current}, which is left to whoever chose it`;
    return bootOnly(at, rebootPending('reboot-required', text));
  }
  const need = await whyReboot(host.place, target, systems);
  if (need !== null && (need.isInhibited || rules.reboot === 'allowed')) {
    return bootOnly(at, rebootPending('reboot-required', need.text));
  }
  const checked = await switchTo(host, target, 'check');
  if (checked.code === LOCKED) {
    return { event: again ? 'still-locked' : 'locked', told: awaitingLock(checked, 'check') };
  }
  if (checked.code === NEEDS_REBOOT) return bootOnly(at, needsReboot());
  if (checked.code !== 0 && !hasNoCheck(checked)) return unfit(at, failedCheck(checked));
  const foretold = foretoldBy(await switchTo(host, target, 'dry-activate'));
  const touched = { ...at.touched, system: true };
  const rebootFor = need?.text ?? null;
  return { event: 'passed', change: { touched, failedBefore, foretold, rebootFor } };
}

/** `done` is told once it is set for the next boot. */
export function bootOnly(at: At, done: Attempt): Happened {
  if (at.again && at.touched.system) return backBecause('abandoned', BOOT_FIRST);
  const { phase, reason, exitCode } = done;
  const touched = { system: false, boot: true };
  const pending = { phase, reason, exitCode } as const;
  const { failedBefore } = at;
  return { event: 'boot-only', change: { done: pending, touched, failedBefore } };
}

export function needsReboot(): Attempt {
  return rebootPending('reboot-required', 'the switch to it needs a reboot', NEEDS_REBOOT);
}

function unfit(at: At, told: Attempt): Happened {
  if (!at.again) return { event: 'unfit', told };
  const text = `${INTERRUPTED.text} and could not go on: ${told.reason?.text ?? told.phase}`;
  return backBecause('abandoned', makeReason(INTERRUPTED.code, text));
}

/** It is told of a switch, and decides nothing: some systems cannot say it. */
function foretoldBy({ code, words }: SwitchResult): string | null {
  if (code !== 0) return null;
  const text = words.replace(/[^\P{Cc}\n]/gu, ' ').trim();
  return text === '' ? null : text.slice(0, FORETOLD_CHARACTERS).toWellFormed();
}
