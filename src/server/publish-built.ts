// Hosts that were built and stored → manifests, published at once or left waiting. One publisher at a time: all that
// takes long was done before, and what is left is the same few steps for every host, so ten thousand of them take
// a minute at most (`npm run bench -- trust`). One host that cannot be published stops no other.
import { FleetError, isFleetError } from '../errors.ts';
import { appendEntries, finishLog } from '../manifest/append.ts';
import { parseEnvelope } from '../manifest/dsse.ts';
import { parseManifest } from '../manifest/manifest.ts';
import {
  type BuiltHost,
  type Change,
  changeOf,
  type Rules,
  requireWithinLimits,
  type StoredClosure,
  signManifest,
} from '../manifest/publish.ts';
import { approvalThreshold } from '../manifest/root.ts';
import { Servable } from '../manifest/servable.ts';
import type { StorePath } from '../nix/storepath.ts';
import { acquireLease } from '../storage/lease.ts';
import type { LeaseHolder, PublishedManifest } from '../storage/state.ts';
import type { GcRoots } from './gcroots.ts';
import { openLogWriter } from './log-writer.ts';
import type { StateDir } from './statedir.ts';

/** `stored` is null in a dry run. */
export type PreparedHost = {
  readonly host: string;
  readonly built: BuiltHost;
  readonly stored: StoredClosure | null;
};
export type FailedHost = { readonly host: string; readonly error: FleetError };

/** What became of one host. */
export type HostResult =
  | {
      readonly host: string;
      readonly change: Change;
      readonly toplevel: StorePath;
      /** What it was told to run before, if anything. */
      readonly before: StorePath | null;
      /** Its new manifest; null with a change of `none`, and in a dry run. */
      readonly manifest: PublishedManifest | null;
      /** It is signed, and not published: it wants an approval, or was not to be published. */
      readonly waits: boolean;
      readonly error: null;
    }
  | FailedHost;

export type PublishBuilt = {
  /** Sign and store, and leave it waiting. */
  readonly noPublish: boolean;
  /** The hosts were named: one whose removal waits is to stay. */
  readonly named: boolean;
  /** Hosts are to wait neither for windows nor for people. */
  readonly emergency?: boolean;
  /** Nobody at a machine is to go back behind it. */
  readonly minimum?: boolean;
  readonly signal?: AbortSignal;
  readonly onWait?: (holder: LeaseHolder | null) => void;
  readonly onFailed?: (failed: FailedHost) => void;
};

/** What publishing would change. */
export async function compareBuilt(
  dir: StateDir,
  prepared: readonly (PreparedHost | FailedHost)[],
  marks: Marks,
): Promise<HostResult[]> {
  const rules = rulesOf(dir, marks);
  return await Promise.all(
    prepared.map(async (one): Promise<HostResult> => {
      if ('error' in one) return one;
      const current = await dir.state.currentManifest(one.host);
      const change = changeOf(one.built, null, current, rules);
      return resultOf(one, change, current, null);
    }),
  );
}

/** Publishes those that changed, in one publication. @throws FleetError for what concerns all of it. */
export async function publishBuilt(
  dir: StateDir,
  prepared: readonly (PreparedHost | FailedHost)[],
  gcroots: Pick<GcRoots, 'keep'>,
  { signal, onWait, onFailed, noPublish, named, ...marks }: PublishBuilt,
): Promise<HostResult[]> {
  if (prepared.every((one) => 'error' in one)) return [...prepared];
  await using lease = await acquireLease({
    file: dir.layout.publishLock,
    state: dir.state,
    ...(onWait === undefined ? {} : { onWait }),
    ...(signal === undefined ? {} : { signal }),
  });
  const { fence } = lease.holder;
  // Another root may have come into force meanwhile, with other keys.
  await dir.refreshRoots();
  const log = await openLogWriter(dir);
  const rules = rulesOf(dir, marks);
  const servable = new Servable(dir);
  const waiting = new Map((await dir.state.pendingManifests()).map((one) => [one.host, one]));
  const drop: string[] = [];
  const held = new Set(await dir.state.heldHosts());

  const attempt = async (one: PreparedHost): Promise<HostResult> => {
    const { host, built, stored } = one;
    if (stored === null) throw new RangeError('nothing is published of a dry run');
    // Since its build began.
    if (held.has(host)) throw new FleetError('E_HOST_HELD', `${host} is held by the admin`);
    const current = await dir.state.currentManifest(host);
    const change = changeOf(built, stored.blob.id, current, rules);
    const before = waiting.get(host) ?? null;
    if (before?.toplevel === null && !named) {
      throw new FleetError('E_DECOMMISSIONED', `the removal of ${host} waits meanwhile`, {
        hint: 'publish it, or name the host, which is to stay then: fleet build HOST',
      });
    }
    if (change === 'none') {
      // What waits for it is no longer wanted.
      if (before !== null) drop.push(host);
      return resultOf(one, change, current, null);
    }
    const waits = noPublish || approvalThreshold(dir.root, host) > 0;
    // Somebody may be looking at it already.
    if (waits && before?.toplevel != null && follows(before, current)) {
      if (changeOf(built, stored.blob.id, before, rules) === 'none') {
        return resultOf(one, change, current, before, true);
      }
    }
    requireWithinLimits(host, stored, dir.root.limits);
    await servable.require(host, stored.blob);
    const manifest = signManifest(built, stored, current, log.director, rules);
    return resultOf(one, change, current, manifest, waits);
  };

  const failed = (host: string, error: FleetError): FailedHost => {
    onFailed?.({ host, error });
    return { host, error };
  };
  const results: HostResult[] = [];
  for (const one of prepared) {
    signal?.throwIfAborted();
    if ('error' in one) results.push(one);
    else {
      const result = await attempt(one).catch((error: unknown) => {
        if (!isFleetError(error)) throw error;
        return failed(one.host, error);
      });
      results.push(result);
    }
  }

  const isNew = (one: HostResult): one is Made =>
    one.error === null && one.manifest !== null && one.manifest !== waiting.get(one.host);
  const told = results.flatMap((one) => (one.error !== null || isNew(one) ? [] : [one.toplevel]));
  const lost = await gcroots.keep(
    results.filter(isNew).map(({ toplevel }) => toplevel),
    told,
    fence,
  );
  const kept = results.map((one) => {
    if (!isNew(one) || !lost.has(one.toplevel)) return one;
    const text = `${one.toplevel} is no longer in the store`;
    return failed(one.host, new FleetError('E_CACHE_INCOMPLETE', text));
  });

  const made = kept.filter(isNew);
  const put = made.filter(({ waits }) => waits).map(({ manifest }) => manifest);
  await dir.state.changePending(put, drop, fence);
  const entries = made.filter(({ waits }) => !waits).map(({ manifest }) => ({ manifest }));
  // With many hosts it is minutes later by now, and what is published is used from now on.
  const now = clock();
  if (entries.length > 0) {
    await appendEntries(log, entries, { fence, now, dropped: await servable.dropped() });
  } else {
    // What looks unchanged may have been committed by a build that died before anybody could see it.
    await finishLog(log, now);
  }
  return kept;
}

function clock(): number {
  return Math.floor(Date.now() / 1000);
}

type Made = Extract<HostResult, { error: null }> & { readonly manifest: PublishedManifest };

type Marks = Pick<Rules, 'emergency' | 'minimum'>;

function rulesOf(dir: StateDir, { emergency = false, minimum = false }: Marks): Rules {
  return {
    root: dir.root,
    now: clock(),
    validSeconds: dir.config.manifestDays * 86_400,
    emergency,
    minimum,
  };
}

/** Whether what waits was made after the newest manifest, and not before. */
function follows(waiting: PublishedManifest, current: PublishedManifest | null): boolean {
  const { previous } = parseManifest(parseEnvelope(waiting.envelope).payload);
  return (previous?.sha256 ?? null) === (current?.digest ?? null);
}

function resultOf(
  { host, built }: PreparedHost,
  change: Change,
  current: PublishedManifest | null,
  manifest: PublishedManifest | null,
  waits = false,
): HostResult {
  const before = current?.toplevel ?? null;
  return { host, change, toplevel: built.toplevel, before, manifest, waits, error: null };
}
