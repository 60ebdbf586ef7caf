// A host → its end (SPEC §4.7): a manifest that the director signs and the log holds, which the host acts upon as on
// any other. Its tokens go on for it to be told, and for nothing else (State.commitLog). Where its group wants
// approvals the removal waits for them, as any manifest does. Done again after it broke off, it goes on.
import { FleetError } from '../errors.ts';
import { appendEntries } from '../manifest/append.ts';
import { signDecommission } from '../manifest/publish.ts';
import { approvalThreshold } from '../manifest/root.ts';
import type { LeaseHolder, PublishedManifest, State } from '../storage/state.ts';
import { staleness } from './pending.ts';
import { beginPublication } from './publication.ts';
import type { StateDir } from './statedir.ts';

export type Removed = {
  readonly manifest: PublishedManifest;
  /** It is signed and wants approvals. */
  readonly waits: boolean;
  /** False when it was done before. */
  readonly isNew: boolean;
};

/** @throws FleetError E_HOST_UNKNOWN, E_NO_MANIFEST before anything is changed; those of appendEntries. */
export async function removeHost(
  dir: StateDir,
  host: string,
  options: { readonly now: number; readonly onWait?: (holder: LeaseHolder | null) => void },
): Promise<Removed> {
  const { state } = dir;
  const { now } = options;
  await requireRemovable(state, host);
  await using publication = await beginPublication(dir, options);
  const { log, fence } = publication;
  const current = await requireRemovable(state, host);
  const rules = { root: dir.root, now, validSeconds: dir.config.manifestDays * 86_400 };
  if (current.toplevel === null) {
    return { manifest: current, waits: false, isNew: false };
  }
  const waits = approvalThreshold(dir.root, host) > 0;
  const waiting = (await state.pendingManifests()).find((one) => one.host === host);
  const isSame = waiting?.toplevel === null && staleness(waiting, current, dir.root, now) === null;
  // Somebody may be looking at it already.
  if (waits && isSame) {
    return { manifest: waiting, waits, isNew: false };
  }
  const manifest = signDecommission(current, log.director, rules);
  if (waits) await state.changePending([manifest], [], fence);
  else await appendEntries(log, [{ manifest }], { fence, now });
  return { manifest, waits, isNew: true };
}

/** The newest manifest of a host that can be removed. */
async function requireRemovable(
  state: Pick<State, 'host' | 'currentManifest'>,
  host: string,
): Promise<PublishedManifest> {
  const current = await state.currentManifest(host);
  if (current !== null) return current;
  if ((await state.host(host)) === null) {
    throw new FleetError('E_HOST_UNKNOWN', `there is no host named ${host}`);
  }
  throw new FleetError('E_NO_MANIFEST', `nothing was ever published for ${host}, so nothing ends`, {
    hint: `take its token, if it has one: fleet token revoke host:${host}`,
  });
}
