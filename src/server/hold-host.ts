// The admin has a host passed over (hold), and lets it go on (release). A hold is the server's alone: what is published already
// goes on to be offered, and hosts learn nothing of it. A release also gives a host that went back from its newest manifest,
// or failed with it, something newer: the same system under the next number, signed and logged like any other, because
// a host tries nothing twice by itself.
import { FleetError } from '../errors.ts';
import { appendEntries } from '../manifest/append.ts';
import { parseEnvelope } from '../manifest/dsse.ts';
import { issueAgain } from '../manifest/publish.ts';
import { type Phase, parseReceipt } from '../manifest/receipt.ts';
import { approvalThreshold } from '../manifest/root.ts';
import { Servable } from '../manifest/servable.ts';
import type { LeaseHolder, PublishedManifest } from '../storage/state.ts';
import { staleness } from './pending.ts';
import { beginPublication } from './publication.ts';
import type { StateDir } from './statedir.ts';

/** @throws FleetError E_HOST_UNKNOWN, E_DECOMMISSIONED */
export async function holdHost(
  { state }: Pick<StateDir, 'state'>,
  host: string,
  hold: { readonly at: number; readonly reason: string | null },
): Promise<void> {
  if ((await state.currentManifest(host))?.toplevel === null) {
    throw new FleetError('E_DECOMMISSIONED', `${host} was removed from the fleet`);
  }
  if (!(await state.holdHost(host, hold))) throw unknown(host);
}

export type Released = {
  /** It was held by the admin. */
  readonly wasHeld: boolean;
  /** The manifest that the host is to try again by; null: it did not refuse its newest one. */
  readonly again: PublishedManifest | null;
  /** That is signed and wants approvals. */
  readonly waits: boolean;
};

/** What a host tells of a manifest that it does not try again by itself. */
const GIVEN_UP: ReadonlySet<Phase> = new Set<Phase>(['held', 'rolled-back', 'failed']);

/** @throws FleetError E_HOST_UNKNOWN, E_CACHE_INCOMPLETE, E_CLOSURE_LIMIT; those of appendEntries. */
export async function releaseHost(
  dir: StateDir,
  host: string,
  options: { readonly now: number; readonly onWait?: (holder: LeaseHolder | null) => void },
): Promise<Released> {
  const { state } = dir;
  const { now } = options;
  if ((await state.host(host)) === null) throw unknown(host);
  await using publication = await beginPublication(dir, options);
  const { log, fence } = publication;
  // First: if it breaks off behind this, the same command goes on from here.
  const wasHeld = (await state.host(host))?.heldAt != null;
  await state.holdHost(host, null);
  const current = await state.currentManifest(host);
  if (current === null || current.closure === null || !(await gaveUp(dir, current, now))) {
    return { wasHeld, again: null, waits: false };
  }
  const servable = new Servable(dir);
  await servable.require(host, { id: current.closure, size: current.closureBytes });
  const rules = { root: dir.root, now, validSeconds: dir.config.manifestDays * 86_400 };
  const again = issueAgain(current, log.director, rules);
  if (again === null) return { wasHeld, again, waits: false };
  const waits = approvalThreshold(dir.root, host) > 0;
  if (waits) await state.changePending([again], [], fence);
  else {
    const dropped = await servable.dropped();
    await appendEntries(log, [{ manifest: again }], { fence, now, dropped });
  }
  return { wasHeld, again, waits };
}

/** Whether the host would not try its newest manifest again, and nothing newer waits for it. */
async function gaveUp(dir: StateDir, current: PublishedManifest, now: number): Promise<boolean> {
  const { state, root } = dir;
  const { host, digest } = current;
  const waiting = (await state.pendingManifests()).find((one) => one.host === host);
  if (waiting !== undefined && staleness(waiting, current, root, now) === null) return false;
  const report = await state.lastReport(host);
  if (report === null) return false;
  const { manifest, phase } = parseReceipt(parseEnvelope(report.envelope).payload);
  return manifest?.sha256 === digest && GIVEN_UP.has(phase);
}

function unknown(host: string): FleetError {
  return new FleetError('E_HOST_UNKNOWN', `there is no host named ${host}`);
}
