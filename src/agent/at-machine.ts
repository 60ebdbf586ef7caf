// What people at the machine asked for, as a run of the agent meets it (SPEC §5.8): a hold that ends because something
// else came, an update that waits because somebody put it off, wishes that are over, requests that become receipts.
import { isFleetError } from '../errors.ts';
import type { Deployment } from '../manifest/manifest.ts';
import { makeReason, type ReportedPhase } from '../manifest/receipt.ts';
import { changeLocal, type Local, mendLocal, readLocal } from './local.ts';
import type { ManifestId } from './memory.ts';
import type { Attempt, Outcome } from './outcome.ts';
import type { Systems } from './place.ts';
import type { Chain } from './receipts.ts';
import { isTransient } from './verdict.ts';
import { forget, ready, release } from './wishes.ts';

/** Makes sure that local.json can be read: what it holds is worth no update. */
export async function mend(dir: string, now: number, say: (line: string) => void): Promise<void> {
  const kept = await mendLocal(dir, now);
  if (kept !== null) say(`local.json was damaged: kept as ${kept}; ask again for what is missing`);
}

/** A manifest was accepted: a hold on another one is over; `force`: so is one on this. */
export async function heard(dir: string, sha256: string, force: boolean): Promise<Local> {
  const local = await readLocal(dir);
  if (release(local, sha256, force) === local) return local;
  return await changeLocal(dir, (now) => release(now, sha256, force));
}

/** It is to be activated from now on. Returns what people want. */
export async function coming(
  dir: string,
  { epoch, sequence, sha256 }: ManifestId,
  { toplevel, closure, activation }: Deployment,
  now: number,
): Promise<Local> {
  const { narBytes } = closure;
  const deferHours = activation.deferral?.maxHours ?? null;
  const next = { sha256, epoch, sequence, toplevel, narBytes, deferHours };
  const local = await readLocal(dir);
  const isKnown = ready(local, next, now) === local;
  return isKnown ? local : await changeLocal(dir, (before) => ready(before, next, now));
}

const WAITING: ReadonlySet<ReportedPhase> = new Set<ReportedPhase>([
  'manifest-pending',
  'staged',
  'awaiting-user',
  'awaiting-window',
  'awaiting-lock',
  'preflight-failed',
  'verifying',
  'reboot-pending',
  'rebooting',
  'drifted',
  'failed',
  'refused',
]);

/** What it came to: where nothing waits any more, wishes about it are over. */
export async function ended(dir: string, { phase, reason }: Attempt): Promise<void> {
  // It is tried again: since when it was ready stays.
  if (WAITING.has(phase) || (reason !== null && isTransient(reason))) return;
  const local = await readLocal(dir);
  if (forget(local) !== local) await changeLocal(dir, forget);
}

/** What a request is told with where the run had nothing to tell: what was told last; null: nothing ever was. */
export function toldBefore({ told }: Pick<Chain, 'told'>, systems: Systems): Outcome | null {
  if (told === null) return null;
  const reason = told.code === null ? null : makeReason(told.code, told.text ?? '');
  const { phase, manifest } = told;
  return { phase: phase as ReportedPhase, reason, exitCode: null, manifest, systems };
}

/** Makes receipts of the requests that wait, in their order, with `tell`; returns the chain as it is then. */
export async function tellRequests(
  dir: string,
  chain: Chain,
  tell: (chain: Chain, request: Local['requests'][number]) => Promise<Chain>,
): Promise<Chain> {
  const { requests } = await readLocal(dir);
  let at = chain;
  for (const request of requests) {
    // Told by a run that died before it could say so here.
    if (!at.requests.ids.includes(request.id)) at = await tell(at, request);
  }
  const isTold = ({ id }: { readonly id: string }): boolean => at.requests.ids.includes(id);
  if (requests.some(isTold)) {
    await changeLocal(dir, (local) => ({
      ...local,
      requests: local.requests.filter((one) => !isTold(one)),
    })).catch((error) => {
      // The next run removes them.
      if (!isFleetError(error, 'E_DISK_FULL', 'E_AGENT_BUSY')) throw error;
    });
  }
  return at;
}
