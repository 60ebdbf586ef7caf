// A verified manifest, what this host runs, and what it tried and told before → what holds already and needs no
// activation, or null: then it is to be deployed.
import { makeReason } from '../manifest/receipt.ts';
import type { StorePath } from '../nix/storepath.ts';
import { heldAttempt } from './go-back.ts';
import type { Host } from './host.ts';
import { readJournal } from './journal.ts';
import type { Held } from './local.ts';
import { waitingAfterLoss } from './lost.ts';
import type { ManifestId } from './memory.ts';
import { type Attempt, IN_SYNC } from './outcome.ts';
import { readSystems } from './place.ts';
import type { Chain } from './receipts.ts';

export async function standingOf(
  host: Host,
  { told }: Pick<Chain, 'told'>,
  manifest: ManifestId,
  toplevel: StorePath,
  /** Try one again that was rolled back. */
  retry: boolean,
  /** The one that somebody at the machine went back from. */
  held: Held | null,
): Promise<Attempt | null> {
  const isThis = (other: ManifestId | null | undefined): boolean =>
    other != null && other.sha256 === manifest.sha256;
  const { transaction, rejected, lost } = await readJournal(host.memory.dir);
  if (!retry) {
    if (held?.sha256 === manifest.sha256 && transaction === null) return heldAttempt(held);
    if (rejected !== null && isThis(rejected.manifest)) {
      return { phase: rejected.phase, reason: rejected.reason, exitCode: null };
    }
    if (transaction?.step === 'undoing' && isThis(transaction.manifest)) {
      return { phase: 'failed', reason: transaction.why, exitCode: null };
    }
  }
  const { current, profile } = await readSystems(host.place);
  if (transaction !== null) return null;
  if (profile !== toplevel) return retry ? null : waitingAfterLoss(lost, manifest, host.now());
  const again = isThis(told?.manifest) ? told : null;
  const reason = again?.code == null ? null : makeReason(again.code, again.text ?? '');
  if (current === toplevel) {
    if (again?.phase !== 'in-sync-degraded') return IN_SYNC;
    return { phase: again.phase, reason, exitCode: 4 };
  }
  if (again?.phase !== 'reboot-pending') return null;
  if (again.bootId !== host.bootId) return null;
  return { phase: again.phase, reason, exitCode: null };
}
