// A verified system in the store → the running system and the next boot's, or the old ones again
// (ARCHITECTURE, "The agent"). `switch-to-configuration switch` is never used: it
// writes the boot loader before it activates, so that a failed switch would boot the bad system. Here:
// check → test → (it runs, and is the current system) → profile and boot loader. Until then a crash or
// a power cut returns to the old system by itself; every step is journalled, durably, before it is done.
// Rolling back runs the previous system's own program by its exact path.
import { join } from 'node:path';
import { type ErrorCode, FleetError, isFleetError } from '../errors.ts';
import { makeReason, type Reason } from '../manifest/receipt.ts';
import { invalidPaths } from '../nix/query.ts';
import { addRoot, setProfile } from '../nix/realise.ts';
import type { StorePath } from '../nix/storepath.ts';
import {
  EMPTY_JOURNAL,
  journalStep,
  type ManifestId,
  type Memory,
  memoryFiles,
  type Transaction,
  writeJournal,
} from './memory.ts';
import type { Attempt } from './outcome.ts';
import { canSwitchTo, type Place, readBootId, readSystems } from './place.ts';
import { runSwitch, type SwitchAction, type SwitchResult } from './switch.ts';

export type Host = { readonly memory: Memory; readonly place: Place };

export type Plan = {
  readonly manifest: ManifestId;
  readonly target: StorePath;
  readonly mode: 'switch' | 'boot';
  /** Leave a system that failed to activate as it is (`onFailure: keep`); it is not booted again. */
  readonly keep: boolean;
  /** One that an earlier run left unfinished: what was before it is what there is to go back to. */
  readonly unfinished: Transaction | null;
};

/** Which boot an activation belongs to. A chroot store's /run is a directory: it survives every boot. */
export async function bootIdOf(place: Place): Promise<string> {
  return place.root === null ? await readBootId() : 'chroot store';
}

/** Switches to `plan.target`. Throws only where nothing was begun. */
export async function activate(host: Host, plan: Plan): Promise<Attempt> {
  const { manifest, target, mode, unfinished } = plan;
  const systems = await readSystems(host.place);
  const transaction: Transaction = {
    step: 'activating',
    mode,
    manifest,
    target,
    previous: unfinished === null ? await keepPrevious(host, systems.current) : unfinished.previous,
    previousProfile: unfinished === null ? systems.profile : unfinished.previousProfile,
    bootId: await bootIdOf(host.place),
    why: null,
  };
  if (mode === 'boot') {
    return await commit(host, transaction, rebootPending('mode-boot', 'set for the next boot'));
  }
  const check = await run(host, target, 'check');
  if (check.code === 11) return awaitingLock();
  const passed = check.code === 0 || hasNoCheck(check);
  if (!passed && check.code !== 100) return failedCheck(check);
  if (passed) {
    await journalStep(host.memory.dir, transaction);
    const test = await run(host, target, 'test');
    if (test.code === 11) {
      if (unfinished === null) await journalStep(host.memory.dir, null);
      return awaitingLock();
    }
    if (test.code !== 100) return await afterTest(host, transaction, test, plan.keep);
  }
  // Exit 100: nothing was activated, because only a reboot can do it.
  const pending = rebootPending('reboot-required', 'the switch to it needs a reboot', 100);
  return await commit(host, { ...transaction, mode: 'boot' }, pending);
}

/**
 * Deals with what a run that died left behind: finishes a commit, finishes an undoing. One that was still
 * activating stays open (null): the caller tries again, or undoes it.
 */
export async function settle(host: Host, transaction: Transaction): Promise<Attempt | null> {
  if (transaction.bootId !== (await bootIdOf(host.place))) {
    // The machine has booted since, into what was committed before.
    const { why } = transaction;
    if (why === null) await journalStep(host.memory.dir, null);
    else await close(host, transaction, 'rolled-back', why);
    return why === null ? null : { phase: 'rolled-back', reason: why, exitCode: null };
  }
  if (transaction.step === 'activating') return null;
  if (transaction.why !== null) return await undo(host, transaction, transaction.why, null);
  const done: Attempt =
    transaction.mode === 'boot'
      ? rebootPending('mode-boot', 'set for the next boot')
      : { phase: 'in-sync', reason: null, exitCode: 0 };
  return await commit(host, transaction, done);
}

/** Goes back to what was before `transaction`, and says why. */
export async function undo(
  host: Host,
  transaction: Transaction,
  why: Reason,
  exitCode: number | null,
): Promise<Attempt> {
  const { memory, place } = host;
  const { mode, target, previous, previousProfile } = transaction;
  await journalStep(memory.dir, { ...transaction, step: 'undoing', why });
  const problems: string[] = [];
  const attempt = async (what: string, step: () => Promise<string | null>): Promise<void> => {
    try {
      const problem = await step();
      if (problem !== null) problems.push(`${what}: ${problem}`);
    } catch (error) {
      if (!isFleetError(error)) throw error;
      problems.push(`${what}: ${error.message}`);
    }
  };
  const { profile } = await readSystems(place);
  if (profile === target && previousProfile !== null && previousProfile !== target) {
    await attempt('the profile', async () => {
      await setProfile(place.profile, previousProfile, rootOption(place));
      const boot = await run(host, previousProfile, 'boot');
      return boot.code === 0 ? null : toldBy(boot, 'boot');
    });
  }
  if (mode === 'switch') {
    await attempt('going back', async () => {
      if (previous === null) return 'no system of before is known';
      if (previous === target) return 'it is the one that ran before';
      const back = await run(host, previous, 'test');
      if (back.code !== 0 && back.code !== 4) return toldBy(back, 'test');
      const { current } = await readSystems(place);
      return current === previous ? null : `the current system is ${current}`;
    });
  }
  if (problems.length > 0) {
    // Left open: the next run tries again.
    const reason = makeReason(why.code, `${problems.join('; ')}; after: ${why.text}`);
    return { phase: 'failed', reason, exitCode };
  }
  await close(host, transaction, 'rolled-back', why);
  return { phase: 'rolled-back', reason: why, exitCode };
}

/** Ends a transaction that came to nothing. Only one that broke off is tried again by itself. */
async function close(
  host: Host,
  { manifest }: Transaction,
  phase: 'rolled-back' | 'failed',
  reason: Reason,
): Promise<void> {
  const rejected = reason.code === 'E_INTERRUPTED' ? null : { manifest, phase, reason };
  await writeJournal(host.memory.dir, { transaction: null, rejected });
}

async function afterTest(
  host: Host,
  transaction: Transaction,
  test: SwitchResult,
  keep: boolean,
): Promise<Attempt> {
  const { current } = await readSystems(host.place);
  const ended = test.code === 0 || test.code === 4;
  if (!ended || current !== transaction.target) {
    const text = `its switch ended with ${test.code}, but the current system is ${current}`;
    const why = ended ? makeReason('E_SWITCH_FAILED', text) : whyOf(test, 'test');
    if (!keep) return await undo(host, transaction, why, test.code);
    await close(host, transaction, 'failed', why);
    return { phase: 'failed', reason: why, exitCode: test.code };
  }
  const done: Attempt =
    test.code === 0
      ? { phase: 'in-sync', reason: null, exitCode: 0 }
      : {
          phase: 'in-sync-degraded',
          reason: makeReason('units-failed', toldBy(test, 'test')),
          exitCode: 4,
        };
  return await commit(host, transaction, done);
}

/** Makes the target what the machine boots. */
async function commit(host: Host, transaction: Transaction, done: Attempt): Promise<Attempt> {
  const { memory, place } = host;
  const committing: Transaction = { ...transaction, step: 'committing' };
  await journalStep(memory.dir, committing);
  let boot: SwitchResult;
  try {
    await setProfile(place.profile, transaction.target, rootOption(place));
    boot = await run(host, transaction.target, 'boot');
  } catch (error) {
    if (!isFleetError(error)) throw error;
    return await undo(host, committing, makeReason(error.code, error.message), null);
  }
  // The journal stays: the next run commits.
  if (boot.code === 11) return awaitingLock();
  if (boot.code !== 0) return await undo(host, committing, whyOf(boot, 'boot'), boot.code);
  await writeJournal(memory.dir, EMPTY_JOURNAL);
  return done;
}

/** The system to go back to, held from the garbage collector; null when there is none that could be. */
async function keepPrevious(host: Host, current: StorePath | null): Promise<StorePath | null> {
  const { memory, place } = host;
  if (current === null || !(await canSwitchTo(place, current))) return null;
  if ((await invalidPaths([current], { ...rootOption(place), isolated: true })).length > 0) {
    return null;
  }
  await addRoot(current, join(memoryFiles(memory.dir).roots, 'previous'), rootOption(place));
  return current;
}

async function run(host: Host, toplevel: StorePath, action: SwitchAction): Promise<SwitchResult> {
  const { memory, place } = host;
  const dir = memoryFiles(memory.dir).switches;
  return await runSwitch({ toplevel, action, place, dir, seconds: memory.config.switchSeconds });
}

function whyOf(result: SwitchResult, action: SwitchAction): Reason {
  const code: ErrorCode = result.timedOut ? 'E_SWITCH_TIMEOUT' : 'E_SWITCH_FAILED';
  return makeReason(code, toldBy(result, action));
}

function toldBy(result: SwitchResult, action: SwitchAction): string {
  const how = result.timedOut
    ? 'took too long'
    : result.code === null
      ? 'was killed'
      : `ended with ${result.code}`;
  const last = result.lastLines.at(-1) ?? '';
  return `switch-to-configuration ${action} ${how}${last === '' ? '' : `: ${last}`} (${result.log})`;
}

function failedCheck(check: SwitchResult): Attempt {
  const reason = makeReason('E_PREFLIGHT', toldBy(check, 'check'));
  return { phase: 'preflight-failed', reason, exitCode: check.code };
}

// Systems before NixOS 25.05 answer the verb with their usage, which does not name it; they run their
// pre-switch checks, if any, at the start of `test`.
function hasNoCheck(check: SwitchResult): boolean {
  const usage = check.lastLines.find((line) => /^usage:.*\btest\b/i.test(line));
  return check.code === 1 && usage !== undefined && !/\bcheck\b/.test(usage);
}

function awaitingLock(): Attempt {
  const text = 'another switch of this machine holds its lock';
  return { phase: 'awaiting-lock', reason: makeReason('E_SWITCH_LOCKED', text), exitCode: 11 };
}

function rebootPending(code: string, text: string, exitCode = 0): Attempt {
  return { phase: 'reboot-pending', reason: makeReason(code, text), exitCode };
}

function rootOption(place: Place): { root?: string } {
  return place.root === null ? {} : { root: place.root };
}

/** @throws FleetError E_NOT_NIXOS */
export async function requireSwitchable(place: Place, toplevel: StorePath): Promise<void> {
  if (await canSwitchTo(place, toplevel)) return;
  throw new FleetError('E_NOT_NIXOS', `${toplevel} has no bin/switch-to-configuration`);
}
