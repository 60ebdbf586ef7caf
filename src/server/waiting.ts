// What was signed and waits to be published → what `fleet status` says of it: for which host, to run what, how many
// approvals it needs, and why it never will be, where something else came first. Approvals are files with those who
// sign them: the server has none before they are published with.
import { isFleetError } from '../errors.ts';
import { isEmergency } from '../manifest/publish.ts';
import { approvalThreshold, type Root } from '../manifest/root.ts';
import type { StorePath } from '../nix/storepath.ts';
import type { PublishedManifest } from '../storage/state.ts';
import { staleness } from './pending.ts';
import type { StateDir } from './statedir.ts';

export type Waiting = {
  readonly epoch: number;
  readonly sequence: number;
  /** null: it removes the host. */
  readonly toplevel: StorePath | null;
  readonly digest: string;
  /** POSIX seconds. */
  readonly issuedAt: number;
  readonly expiresAt: number;
  /** Its host is to wait for nothing, once it is published. */
  readonly emergency: boolean;
  /** How many release keys must approve it; 0: it waits for nothing but `fleet publish`. */
  readonly approvals: number;
  /** What keeps it from being published at all; null: nothing. */
  readonly stale: string | null;
};

/** By host. `now` in POSIX seconds. */
export async function waitingOf(
  { state, root }: Pick<StateDir, 'state' | 'root'>,
  now: number,
): Promise<ReadonlyMap<string, Waiting>> {
  const waiting = new Map<string, Waiting>();
  for (const pending of await state.pendingManifests()) {
    const current = await state.currentManifest(pending.host);
    waiting.set(pending.host, waitingFor(pending, current, root, now));
  }
  return waiting;
}

function waitingFor(
  pending: PublishedManifest,
  current: PublishedManifest | null,
  root: Root,
  now: number,
): Waiting {
  const { epoch, sequence, toplevel, digest, issuedAt, expiresAt } = pending;
  const emergency = isEmergency(pending);
  const about = { epoch, sequence, toplevel, digest, issuedAt, expiresAt, emergency };
  const stale = staleness(pending, current, root, now);
  try {
    return { ...about, approvals: approvalThreshold(root, pending.host), stale };
  } catch (error) {
    if (!isFleetError(error, 'E_HOST_UNGROUPED')) throw error;
    return { ...about, approvals: 0, stale: stale ?? 'is of a host in no group' };
  }
}
