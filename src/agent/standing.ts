// A verified manifest, what this host runs, and what it tried and told before → what holds already and needs no
// activation, or null: then it is to be deployed.
import { makeReason } from '../manifest/receipt.ts';
import type { StorePath } from '../nix/storepath.ts';
import { goOnWaiting } from './activate.ts';
import { driftOf } from './drift.ts';
import { heldAttempt } from './go-back.ts';
import type { Host } from './host.ts';
import { readJournal, writeJournal } from './journal.ts';
import type { Held } from './local.ts';
import { waitingAfterLoss } from './lost.ts';
import type { ManifestId } from './memory.ts';
import { type Attempt, IN_SYNC } from './outcome.ts';
import { readSystems } from './place.ts';
import type { Chain } from './receipts.ts';
import { systemBehind } from './specialisation.ts';
import { COMMIT_WAITS, isCommitting } from './verdict.ts';

export async function standingOf(
  host: Host,
  { told }: Pick<Chain, 'told'>,
  manifest: ManifestId,
  toplevel: StorePath,
  {
    retry,
    mayReplace,
    held,
  }: {
    /** Try one again that was rolled back. */
    readonly retry: boolean;
    /** Whether what somebody else switched to is to be replaced. */
    readonly mayReplace: boolean;
    /** The one that somebody at the machine went back from. */
    readonly held: Held | null;
  },
): Promise<Attempt | null> {
  const isThis = (other: ManifestId | null | undefined): boolean =>
    other != null && other.sha256 === manifest.sha256;
  const journal = await readJournal(host.memory.dir);
  const { transaction, rejected, lost, ours } = journal;
  if (!retry) {
    if (held?.sha256 === manifest.sha256 && transaction === null) return heldAttempt(held);
    if (rejected !== null && isThis(rejected.manifest)) {
      return { phase: rejected.phase, reason: rejected.reason, exitCode: null };
    }
    if (transaction?.step === 'undoing' && isThis(transaction.manifest)) {
      return { phase: 'failed', reason: transaction.why, exitCode: null };
    }
  }
  const { current: running, profile } = await readSystems(host.place);
  // Whoever chose a specialisation chose nothing else.
  const current = await systemBehind(host.place, running, [toplevel, ...ours]);
  if (transaction !== null) {
    // It could not be finished when this run began.
    if (isCommitting(transaction)) return COMMIT_WAITS;
    if (transaction.step !== 'awaiting-boot' || !isThis(transaction.manifest)) return null;
    return await goOnWaiting(host, transaction);
  }
  const drift = mayReplace ? null : driftOf({ current, profile }, ours, toplevel);
  if (drift !== null) return drift;
  if (profile !== toplevel) return retry ? null : waitingAfterLoss(lost, manifest, host.now());
  const again = isThis(told?.manifest) ? told : null;
  const reason = again?.code == null ? null : makeReason(again.code, again.text ?? '');
  if (current !== toplevel) return null;
  // Somebody may have switched to the very system that this host is to run.
  if (!ours.includes(toplevel)) {
    await writeJournal(host.memory.dir, { ...journal, ours: [toplevel] });
  }
  const isPending = again?.phase === 'reboot-pending' && again.bootId === host.bootId;
  if (!isPending && again?.phase !== 'in-sync-degraded') return IN_SYNC;
  return { phase: again.phase, reason, exitCode: isPending ? null : 4 };
}
