// A new root, signed elsewhere → the fleet's newest (SPEC §3.4): checked as agents will check it, stored, and
// then logged, with every host's manifest issued again under it, in one publication. Done again after it
// broke off, it goes on. Refuses a root under which this server could not sign.
import { createDurable } from '../durable.ts';
import { FleetError, isFleetError } from '../errors.ts';
import { parsePublicKey } from '../keyfile.ts';
import { appendEntries, logNumber } from '../manifest/append.ts';
import { anchorOf, requireGrowth } from '../manifest/log-view.ts';
import { reissue, signDecommission } from '../manifest/publish.ts';
import {
  approvalThreshold,
  type Root,
  requireCurrentRoot,
  requireHostKey,
  verifyRootUpdate,
} from '../manifest/root.ts';

import { openDraft } from '../manifest/rotate.ts';
import { headOf } from '../manifest/verify-offer.ts';
import { formatNixPublicKey, nixPublicKeyOf, parseNixPublicKey } from '../nix/signature.ts';
import { acquireLease } from '../storage/lease.ts';
import type { PublishedManifest } from '../storage/state.ts';
import { emptyRoot } from '../tlog/merkle.ts';
import { proveConsistency } from '../tlog/prove.ts';
import { logStoreOf, openLogWriter } from './log-writer.ts';
import { staleness } from './pending.ts';
import { readServerKey, SERVER_ROLES, type StateDir } from './statedir.ts';

export type Imported = {
  readonly root: Root;
  /** False when it was there already. */
  readonly isNew: boolean;
  readonly reissued: readonly PublishedManifest[];
  /** Those that want an approval under the new root. */
  readonly waiting: readonly PublishedManifest[];
  /** Of `reissued`: hosts whose removal waited for an approval, which the new root no longer wants. */
  readonly removed: readonly string[];
};

/** `now` in POSIX seconds. */
export async function importRoot(dir: StateDir, text: string, now: number): Promise<Imported> {
  await using lease = await acquireLease({ file: dir.layout.publishLock, state: dir.state });
  await dir.refreshRoots();
  const isNew = dir.roots.at(-1)?.envelope !== text;
  const root = isNew ? await requireServableRoot(dir, text, now) : dir.root;
  const { secret } = await readServerKey({ layout: dir.layout, root }, 'director');
  const rules = { root, now, validSeconds: dir.config.manifestDays * 86_400 };
  const reissued: PublishedManifest[] = [];
  const waiting: PublishedManifest[] = [];
  const put: PublishedManifest[] = [];
  const removed: string[] = [];
  const pending = new Map((await dir.state.pendingManifests()).map((one) => [one.host, one]));
  for (const current of await dir.state.currentManifests()) {
    const { host } = current;
    const before = pending.get(host);
    const waits = approvalThreshold(root, host) > 0;
    // Signed since this root came into force, when it was imported before: somebody may be looking at it already.
    if (waits && before !== undefined && staleness(before, current, root, now) === null) {
      waiting.push(before);
      continue;
    }
    // A removal that waits is still meant, whatever else is said anew; one that was published is only said again.
    const removes = before?.toplevel === null && current.toplevel !== null;
    const manifest = removes
      ? signDecommission(current, secret, rules)
      : reissue(current, secret, rules);
    if (manifest === null) continue;
    if (removes && !waits) removed.push(host);
    if (waits) put.push(manifest);
    (waits ? waiting : reissued).push(manifest);
  }
  // From here on it is in force: whatever can refuse it stands before.
  if (isNew) await createDurable(dir.layout.root(root.version), text);
  await dir.refreshRoots();
  const log = await openLogWriter(dir);
  await dir.state.changePending(put, [], lease.holder.fence);
  const entries = reissued.map((manifest) => ({ manifest }));
  await appendEntries(log, entries, { fence: lease.holder.fence, now });
  return { root, isNew, reissued, waiting, removed };
}

/** The root that follows, under which this server can go on. @throws FleetError with what refuses it. */
async function requireServableRoot(dir: StateDir, text: string, now: number): Promise<Root> {
  const next = verifyRootUpdate(dir.root, openDraft(text));
  requireCurrentRoot(next, now);
  await requireOwnKeys(dir, next);
  const { threshold } = next.roles.director;
  if (threshold > 1) {
    refuse(`roles.director needs ${threshold} signatures, and this server signs with one key`);
  }
  if (next.maxAge < LEAST_MAX_AGE) {
    refuse(
      `maxAge is ${next.maxAge} s, and this server cannot renew checkpoints for less than 80 s`,
    );
  }
  if (logNumber(next) < logNumber(dir.root)) {
    refuse(`log.origin must not go back from ${dir.root.log.origin} to ${next.log.origin}`);
  }
  for (const { record } of await dir.state.status()) {
    // SPEC §3.2: one key, one role.
    if (record.publicKey !== null) requireHostKey(next, parsePublicKey(record.publicKey));
  }
  await requireAnchor(dir, next);
  return next;
}

/** Eight times as long as it takes the keeper to see that a checkpoint is old. */
const LEAST_MAX_AGE = 80;

/** The log goes on from the root's anchor, as every host will ask. @throws FleetError as requireGrowth. */
async function requireAnchor({ layout, state }: StateDir, root: Root): Promise<void> {
  const store = logStoreOf({ layout, root });
  const text = await store.checkpoint();
  const { origin } = root.log;
  if (text !== null && (await state.logHead(logNumber(root))) === null) {
    const where = layout.log(logNumber(root));
    throw new FleetError('E_LOG_DAMAGED', `${where} has a log that the database does not know`, {
      hint: 'it is of after the backup: move it elsewhere, then import the root',
    });
  }
  const checkpoint = text === null ? { origin, size: 0, root: emptyRoot() } : headOf(text);
  const anchor = anchorOf(root);
  const proof = await proveConsistency(store.tile, anchor.size, checkpoint.size);
  requireGrowth(anchor, { checkpoint }, proof, 'is the root’s anchor');
}

function refuse(what: string): never {
  throw new FleetError('E_ROOT_FORM', `root: ${what}`);
}

/** Every key that the server signs with is named by the root. @throws FleetError E_STATE_INCOMPLETE. */
async function requireOwnKeys(dir: StateDir, root: Root): Promise<void> {
  for (const role of SERVER_ROLES) {
    try {
      await readServerKey({ layout: dir.layout, root }, role);
    } catch (error) {
      if (!isFleetError(error, 'E_STATE_INCOMPLETE')) throw error;
      throw new FleetError(
        'E_STATE_INCOMPLETE',
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
  throw new FleetError(
    'E_STATE_INCOMPLETE',
    'this server has no cache key that the new root names',
    {
      hint: `put it into ${dir.layout.keys} as cache-NAME.sec, then import the root`,
    },
  );
}
