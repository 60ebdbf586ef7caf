// A new root, signed elsewhere → the fleet's newest (SPEC §3.4): checked as agents will check it, stored, and
// then logged, with every host's manifest issued again under it, in one publication. Done again after it
// broke off, it goes on. Refuses a root under which this server could not sign.
import { createDurable } from '../durable.ts';
import { FleetError, isFleetError } from '../errors.ts';
import { appendEntries } from '../manifest/append.ts';
import { reissue } from '../manifest/publish.ts';
import {
  approvalThreshold,
  type Root,
  requireCurrentRoot,
  verifyRootUpdate,
} from '../manifest/root.ts';
import { openDraft } from '../manifest/rotate.ts';
import { formatNixPublicKey, nixPublicKeyOf, parseNixPublicKey } from '../nix/signature.ts';
import { acquireLease } from '../storage/lease.ts';
import type { PublishedManifest } from '../storage/state.ts';
import { openLogWriter } from './log-writer.ts';
import { readServerKey, SERVER_ROLES, type StateDir } from './statedir.ts';

export type Imported = {
  readonly root: Root;
  /** False when it was there already. */
  readonly isNew: boolean;
  readonly reissued: readonly PublishedManifest[];
  /** Those that want an approval under the new root. */
  readonly waiting: readonly PublishedManifest[];
};

/** `now` in POSIX seconds. */
export async function importRoot(dir: StateDir, text: string, now: number): Promise<Imported> {
  await using lease = await acquireLease({ file: dir.layout.publishLock, state: dir.state });
  await dir.refreshRoots();
  const isNew = dir.roots.at(-1)?.envelope !== text;
  if (isNew) {
    const next = verifyRootUpdate(dir.root, openDraft(text));
    requireCurrentRoot(next, now);
    await requireOwnKeys(dir, next);
    await createDurable(dir.layout.root(next.version), text);
    await dir.refreshRoots();
  }
  const { root } = dir;
  const log = await openLogWriter(dir);
  const rules = { root, now, validSeconds: dir.config.manifestDays * 86_400 };
  const reissued: PublishedManifest[] = [];
  const waiting: PublishedManifest[] = [];
  for (const current of await dir.state.currentManifests()) {
    const manifest = reissue(current, log.director, rules);
    if (manifest === null) continue;
    const waits = approvalThreshold(root, manifest.host) > 0;
    (waits ? waiting : reissued).push(manifest);
  }
  await dir.state.changePending(waiting, [], lease.holder.fence);
  const entries = reissued.map((manifest) => ({ manifest }));
  await appendEntries(log, entries, { fence: lease.holder.fence, now });
  return { root, isNew, reissued, waiting };
}

/** Every key that the server signs with is named by the root. @throws FleetError E_STATE_DAMAGED. */
async function requireOwnKeys(dir: StateDir, root: Root): Promise<void> {
  for (const role of SERVER_ROLES) {
    try {
      await readServerKey({ layout: dir.layout, root }, role);
    } catch (error) {
      if (!isFleetError(error, 'E_STATE_DAMAGED')) throw error;
      throw new FleetError(
        'E_STATE_DAMAGED',
        `this server has no ${role} key that the new root names`,
        {
          hint: `put it into ${dir.layout.keys} as ${role}-NAME.pem, then import the root`,
          cause: error,
        },
      );
    }
  }
  const named = root.cache.keys.map((key) => formatNixPublicKey(parseNixPublicKey(key)));
  if (dir.cacheKeys.some((key) => named.includes(formatNixPublicKey(nixPublicKeyOf(key))))) return;
  throw new FleetError('E_STATE_DAMAGED', 'this server has no cache key that the new root names', {
    hint: `put it into ${dir.layout.keys} as cache-NAME.sec, then import the root`,
  });
}
