// A verified system in the store → the running system and the next boot's, or the old ones again
// (ARCHITECTURE, "The agent"). `switch-to-configuration switch` is never used: it
// writes the boot loader before it activates, so that a failed switch would boot the bad system. Here:
// check → which units are failed already → test → it runs, is the current system, and proves healthy (health.ts) →
// profile and boot loader. Until then a crash or a power cut returns to the old system by itself; every step is
// journalled, durably, before it is done, and nothing is committed that did not pass.
import { join } from 'node:path';
import { FleetError, isFleetError, messageOf } from '../errors.ts';
import type { Activation } from '../manifest/activation.ts';
import { makeReason, type Reason } from '../manifest/receipt.ts';
import { invalidPaths } from '../nix/query.ts';
import { addRoot, setProfile } from '../nix/realise.ts';
import type { StorePath } from '../nix/storepath.ts';
import type { Listen } from './fresh.ts';
import { changedUnits, type Proved, proveHealthy } from './health.ts';
import { type Host, switchTo } from './host.ts';
import { type Done, isOpen, journalStep, type Transaction, writeJournal } from './journal.ts';
import { committed } from './last-good.ts';
import { type ManifestId, memoryFiles } from './memory.ts';
import { type Attempt, IN_SYNC, INTERRUPTED } from './outcome.ts';
import { canSwitchTo, type Place, readSystems } from './place.ts';
import { LOCKED, type SwitchResult } from './switch.ts';
import { asOfThisBoot, close, undo } from './undo.ts';
import { failedUnits, NO_UNITS } from './units.ts';
import {
  awaitingLock,
  failedCheck,
  hasNoCheck,
  isSystemsFault,
  notKnown,
  rebootPending,
  toldBy,
  whyOf,
} from './verdict.ts';

export type Plan = {
  readonly manifest: ManifestId;
  readonly target: StorePath;
  /** `onFailure: keep`: a system that failed is left as it is; it is not booted again. */
  readonly rules: Activation;
  /** How to find out whether the server is heard from the new system; null: it decides nothing. */
  readonly listen: Listen | null;
  /** One that an earlier run left unfinished: what was before it is what there is to go back to. */
  readonly unfinished: Transaction | null;
};

/** switch-to-configuration's status for what only a reboot can do; nothing was activated. */
const NEEDS_REBOOT = 100;

/** Switches to `plan.target`. Throws only where nothing was begun that the journal does not tell of. */
export async function activate(host: Host, plan: Plan): Promise<Attempt> {
  const { target, unfinished, rules } = plan;
  const { dir } = host.memory;
  if (rules.mode === 'boot' || rules.reboot === 'required') {
    return await setForNextBoot(host, plan, rebootPending('mode-boot', 'set for the next boot'));
  }
  const text = 'the switch to it needs a reboot';
  const needsReboot = rebootPending('reboot-required', text, NEEDS_REBOOT);

  const check = await switchTo(host, target, 'check');
  if (check.code === LOCKED) return awaitingLock(check, 'check');
  if (check.code === NEEDS_REBOOT) return await setForNextBoot(host, plan, needsReboot);
  if (check.code !== 0 && !hasNoCheck(check)) return failedCheck(check);

  const failedBefore = await baseline(host, unfinished).catch(notKnown);
  if ('phase' in failedBefore) return failedBefore;
  const begun = await begin(host, plan, failedBefore);
  const transaction = { ...begun, touched: { ...begun.touched, system: true } };
  await journalStep(dir, transaction);
  const test = await switchTo(host, target, 'test');
  if (test.code === LOCKED) {
    await journalStep(dir, unfinished);
    return awaitingLock(test, 'test');
  }
  if (test.code === NEEDS_REBOOT) return await setForNextBoot(host, plan, needsReboot);
  const fault = await faultOf(host, transaction, test);
  if (fault !== null) {
    const failed = await changedUnits(host, transaction.failedBefore);
    return await giveUp(host, plan, { ...transaction, failedUnits: failed }, fault, test.code);
  }

  const verifying: Transaction = { ...transaction, step: 'verifying' };
  await journalStep(dir, verifying);
  const proved = await prove(host, plan, verifying);
  const verified = { ...verifying, failedUnits: proved.failedUnits };
  if (proved.why !== null) return await giveUp(host, plan, verified, proved.why, test.code);
  return await commit(host, verified, doneBy(test, proved));
}

/**
 * Deals with what a run that died left behind: finishes a commit, finishes an undoing. One that was still
 * activating stays open (null): the caller tries again, or undoes it.
 */
export async function settle(host: Host, transaction: Transaction): Promise<Attempt | null> {
  const { step, target, touched } = transaction;
  if (step === 'undoing') {
    return await undo(host, transaction, transaction.why ?? INTERRUPTED, null);
  }
  if (isOpen(transaction)) {
    const left = (await asOfThisBoot(host, transaction)).touched;
    if (!left.system && !left.boot) await journalStep(host.memory.dir, null);
    return null;
  }
  const { current } = await readSystems(host.place);
  // A reboot, or someone else's switch, came before the boot loader was finished.
  const lost = touched.system && current !== target;
  if (lost) return await undo(host, transaction, INTERRUPTED, null);
  return await commit(host, transaction, transaction.done ?? IN_SYNC);
}

async function begin(
  host: Host,
  { manifest, target, unfinished }: Plan,
  failedBefore: readonly string[],
): Promise<Transaction> {
  const { current, profile } = await readSystems(host.place);
  return {
    step: 'activating',
    manifest,
    target,
    previous: unfinished === null ? await keepPrevious(host, current) : unfinished.previous,
    previousProfile: unfinished === null ? profile : unfinished.previousProfile,
    bootId: host.bootId,
    touched: { system: false, boot: unfinished?.touched.boot ?? false },
    failedBefore,
    failedUnits: NO_UNITS,
    done: null,
    why: null,
  };
}

/** Leaves what runs as it is; what an earlier run half activated does not belong to that, and is undone first. */
async function setForNextBoot(host: Host, plan: Plan, done: Done): Promise<Attempt> {
  const { unfinished } = plan;
  if (unfinished !== null) {
    const back = await undo(host, unfinished, INTERRUPTED, null);
    if (back.phase !== 'rolled-back') return back;
  }
  return await commit(host, await begin(host, { ...plan, unfinished: null }, []), done);
}

/** The units that are failed before anything is done; of one that broke off, before that was begun. */
async function baseline(host: Host, unfinished: Transaction | null): Promise<readonly string[]> {
  if (unfinished !== null) return unfinished.failedBefore;
  return host.hasSystemd ? await failedUnits() : [];
}

/** Why the system that was switched to is none that runs; null: it runs. */
async function faultOf(
  host: Host,
  { target }: Transaction,
  test: SwitchResult,
): Promise<Reason | null> {
  if (test.code !== 0 && test.code !== 4) return whyOf(test, 'test');
  const { current } = await readSystems(host.place);
  if (current === target) return null;
  const text = `its switch ended with ${test.code}, but the current system is ${current}`;
  return makeReason('E_SWITCH_FAILED', text);
}

async function prove(
  host: Host,
  { rules, listen }: Plan,
  { target, previous, failedBefore }: Transaction,
): Promise<Proved> {
  const { health, confirmSeconds } = rules;
  // Where there is nothing to go back to, no better line is found there.
  const isOnly = previous === null || previous === target;
  const proved = await proveHealthy(host, {
    health,
    confirmSeconds,
    failedBefore,
    listen: isOnly ? null : listen,
  });
  const { current } = await readSystems(host.place);
  if (proved.why !== null || current === target) return proved;
  // No fault of this system: the next run tries it again.
  const text = `another switch came before it was confirmed: the current system is ${current}`;
  return { ...proved, why: makeReason('E_INTERRUPTED', text) };
}

/** Back to what was before; or, where the host wants to keep what failed, no further. */
async function giveUp(
  host: Host,
  { rules }: Plan,
  transaction: Transaction,
  why: Reason,
  exitCode: number | null,
): Promise<Attempt> {
  const { failedUnits } = transaction;
  const mayStay = rules.onFailure === 'keep' && isSystemsFault(why);
  // What an earlier run did to the boot loader is not kept.
  if (!mayStay || transaction.touched.boot) return await undo(host, transaction, why, exitCode);
  await close(host, transaction, 'failed', why);
  return { phase: 'failed', reason: why, exitCode, failedUnits };
}

/** Exit 4 says that some unit failed. Where all that are failed were so before, it is no news of this system. */
function doneBy(test: SwitchResult, { failedNow }: Proved): Done {
  if (test.code === 0 || failedNow.length > 0) {
    return { phase: 'in-sync', reason: null, exitCode: test.code };
  }
  const reason = makeReason('units-failed', toldBy(test, 'test'));
  return { phase: 'in-sync-degraded', reason, exitCode: test.code };
}

/** Makes the target what the machine boots. */
async function commit(host: Host, transaction: Transaction, done: Done): Promise<Attempt> {
  const { memory, place } = host;
  const { target } = transaction;
  const touched = { ...transaction.touched, boot: true };
  const committing: Transaction = { ...transaction, step: 'committing', touched, done };
  await journalStep(memory.dir, committing);
  let boot: SwitchResult;
  try {
    await setProfile(place.profile, target, place.nix);
    boot = await switchTo(host, target, 'boot');
  } catch (error) {
    const code = isFleetError(error) ? error.code : 'E_INTERNAL';
    return await undo(host, committing, makeReason(code, messageOf(error)), null);
  }
  // The journal stays: the next run commits.
  if (boot.code === LOCKED) return awaitingLock(boot, 'boot');
  if (boot.code !== 0) return await undo(host, committing, whyOf(boot, 'boot'), boot.code);
  await writeJournal(memory.dir, await committed(host, transaction));
  return { ...done, failedUnits: transaction.failedUnits };
}

/** The system to go back to, held from the garbage collector; null when there is none that could be. */
async function keepPrevious(host: Host, current: StorePath | null): Promise<StorePath | null> {
  const { memory, place } = host;
  if (current === null || !(await canSwitchTo(place, current))) return null;
  if ((await invalidPaths([current], { ...place.nix, isolated: true })).length > 0) return null;
  await addRoot(current, join(memoryFiles(memory.dir).roots, 'previous'), place.nix);
  return current;
}

/** @throws FleetError E_NOT_NIXOS */
export async function requireSwitchable(place: Place, toplevel: StorePath): Promise<void> {
  if (await canSwitchTo(place, toplevel)) return;
  throw new FleetError('E_NOT_NIXOS', `${toplevel} has no bin/switch-to-configuration`);
}
