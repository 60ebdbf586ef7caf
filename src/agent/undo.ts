// An activation that came to nothing → the machine as it was before (ARCHITECTURE, "The agent"): first what
// it boots, then what it runs, by the previous system's own program at its exact path. Whatever fails on the
// way, a full disk included, is told and keeps nothing else from being undone; what is left stays in the
// journal, and the next run goes on with it. "Rolled back" is said only when nothing is left.
import { messageOf } from '../errors.ts';
import { makeReason, type Reason } from '../manifest/receipt.ts';
import { setProfile } from '../nix/realise.ts';
import { type Host, switchTo } from './host.ts';
import {
  journalStep,
  readJournal,
  type Touched,
  type Transaction,
  writeJournal,
} from './journal.ts';
import { lostAgain } from './lost.ts';
import type { Attempt } from './outcome.ts';
import { readSystems } from './place.ts';
import { isSystemsFault, toldBy } from './verdict.ts';

/** Goes back to what was before `transaction`, and says why. Throws nothing. */
export async function undo(
  host: Host,
  transaction: Transaction,
  why: Reason,
  exitCode: number | null,
): Promise<Attempt> {
  const { dir } = host.memory;
  const problems: string[] = [];
  const succeeds = async (what: string, step: () => Promise<void>): Promise<boolean> => {
    try {
      await step();
      return true;
    } catch (error) {
      problems.push(`${what}: ${messageOf(error)}`);
      return false;
    }
  };
  const now = await asOfThisBoot(host, transaction).catch(() => transaction);
  let left: Touched = now.touched;
  const journal = async (): Promise<void> => {
    // What the journal says without this leads here again.
    const undoing: Transaction = { ...now, step: 'undoing', why, touched: left };
    await journalStep(dir, undoing).catch(() => {});
  };
  await journal();
  if (left.boot && (await succeeds('the boot loader', () => restoreBoot(host, transaction)))) {
    left = { ...left, boot: false };
  }
  if (left.system && (await succeeds('going back', () => restoreSystem(host, transaction)))) {
    left = { ...left, system: false };
  }
  if (!left.boot && !left.system) {
    await succeeds('the journal', () => close(host, transaction, 'rolled-back', why));
  }
  const { failedUnits } = transaction;
  if (problems.length === 0) return { phase: 'rolled-back', reason: why, exitCode, failedUnits };
  await journal();
  const reason = makeReason(why.code, `${problems.join('; ')}; after: ${why.text}`);
  return { phase: 'failed', reason, exitCode, failedUnits };
}

/**
 * What `transaction` has touched as this boot finds it: a reboot takes back what was only activated, but one
 * whose boot loader was touched may have booted into the target.
 */
export async function asOfThisBoot(host: Host, transaction: Transaction): Promise<Transaction> {
  const { bootId, touched, previous } = transaction;
  if (bootId === host.bootId) return transaction;
  const { current } = await readSystems(host.place);
  const system = touched.boot && current !== previous;
  return { ...transaction, bootId: host.bootId, touched: { ...touched, system } };
}

/** Ends a transaction that came to nothing. What was not the system's fault is tried again by itself. */
export async function close(
  host: Host,
  { manifest }: Transaction,
  phase: 'rolled-back' | 'failed',
  reason: Reason,
): Promise<void> {
  const { dir } = host.memory;
  const rejected = isSystemsFault(reason) ? { manifest, phase, reason } : null;
  const journal = await readJournal(dir);
  const before = journal.lost;
  // In the very write that ends it, so that each is counted once, however often this run dies before.
  const isLost = reason.code === 'E_SERVER_LOST';
  const lost = isLost ? lostAgain(before, manifest, reason, host.now()) : before;
  const left = { transaction: null, rejected, lost: rejected === null ? lost : null };
  await writeJournal(dir, { ...journal, ...left });
}

async function restoreBoot(host: Host, transaction: Transaction): Promise<void> {
  const { target, previous, previousProfile } = transaction;
  const { place } = host;
  const back = [previousProfile, previous].find((path) => path !== null && path !== target);
  if (back == null) throw new Error('no system of before is known');
  const { profile } = await readSystems(place);
  if (profile !== back) await setProfile(place.profile, back, place.nix);
  // Always: the profile may have been set right by a run that did not get as far as this.
  const boot = await switchTo(host, back, 'boot');
  if (boot.code !== 0) throw new Error(toldBy(boot, 'boot'));
}

async function restoreSystem(host: Host, transaction: Transaction): Promise<void> {
  const { target, previous } = transaction;
  if (previous === null) throw new Error('no system of before is known');
  if (previous === target) throw new Error('it is the one that ran before');
  const test = await switchTo(host, previous, 'test');
  if (test.code !== 0 && test.code !== 4) throw new Error(toldBy(test, 'test'));
  const { current } = await readSystems(host.place);
  if (current !== previous) throw new Error(`the current system is ${current}`);
}
