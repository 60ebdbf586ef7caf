// The hosts of a flake, and those that were named → those that are built. Hosts that were removed may stand in the
// flake as long as they like: they are skipped, with a word, and refused where somebody names them. One whose
// removal waits may be named: then it is to stay. One that the admin holds is passed over like a removed one.
import { FleetError } from '../errors.ts';
import type { State } from '../storage/state.ts';

/** Why a host gets no further system: it was removed, or is to be once that is published; or the admin holds it. */
export type Gone = 'removed' | 'removal waits' | 'held';

export type Chosen = {
  readonly hosts: readonly string[];
  readonly skipped: readonly { readonly host: string; readonly why: Gone }[];
};

/** @throws FleetError E_HOST_NOT_IN_FLAKE, E_DECOMMISSIONED, E_HOST_HELD. */
export async function chooseHosts(
  state: Pick<State, 'currentManifests' | 'pendingManifests' | 'heldHosts'>,
  all: readonly string[],
  wanted: readonly string[],
): Promise<Chosen> {
  const unknown = wanted.filter((host) => !all.includes(host));
  if (unknown.length > 0) {
    throw new FleetError('E_HOST_NOT_IN_FLAKE', `the flake has no host ${unknown.join(', ')}`, {
      hint: `it has: ${all.join(', ')}`,
    });
  }
  const gone = await goneHosts(state);
  if (wanted.length === 0) {
    return {
      hosts: all.filter((host) => !gone.has(host)),
      skipped: all.flatMap((host) => {
        const why = gone.get(host);
        return why === undefined ? [] : [{ host, why }];
      }),
    };
  }
  const removed = wanted.filter((host) => gone.get(host) === 'removed');
  const held = wanted.filter((host) => gone.get(host) === 'held');
  if (removed.length === 0 && held.length > 0) {
    throw new FleetError('E_HOST_HELD', `${held.join(', ')}: held by the admin`);
  }
  if (removed.length === 0) return { hosts: [...new Set(wanted)], skipped: [] };
  const were = removed.length === 1 ? 'was' : 'were';
  throw new FleetError('E_DECOMMISSIONED', `${removed.join(', ')} ${were} removed from the fleet`);
}

async function goneHosts(
  state: Pick<State, 'currentManifests' | 'pendingManifests' | 'heldHosts'>,
): Promise<ReadonlyMap<string, Gone>> {
  const gone = new Map<string, Gone>();
  for (const host of await state.heldHosts()) gone.set(host, 'held');
  for (const { host, toplevel } of await state.pendingManifests()) {
    if (toplevel === null) gone.set(host, 'removal waits');
  }
  for (const { host, toplevel } of await state.currentManifests()) {
    if (toplevel === null) gone.set(host, 'removed');
  }
  return gone;
}
