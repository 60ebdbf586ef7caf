// A flake → published manifests: evaluate, build, root, ingest, sign, publish. One host that fails
// stops no other. What is built is rooted before it is ingested, so that the build box's own garbage
// collection harms nothing, and publication waits for the lease with everything else done.
import { hostname } from 'node:os';
import { storeBuildLogs } from '../cache/build-logs.ts';
import { type Ingested, type IngestProgress, ingestClosure } from '../cache/ingest.ts';
import { askUpstreams } from '../cache/upstream.ts';
import { FleetError, isFleetError, messageOf } from '../errors.ts';
import { type HostSettings, parseHostSettings } from '../manifest/activation.ts';
import { appendEntries, finishLog } from '../manifest/append.ts';
import { parseEnvelope } from '../manifest/dsse.ts';
import { parseManifest } from '../manifest/manifest.ts';
import {
  type BuiltHost,
  type Change,
  changeOf,
  type Rules,
  requireServable,
  signManifest,
  storeClosure,
} from '../manifest/publish.ts';
import { approvalThreshold } from '../manifest/root.ts';
import { buildDerivation } from '../nix/build.ts';
import type { BuildEvent } from '../nix/build-log.ts';
import { currentSystem, nixVersion } from '../nix/command.ts';
import {
  describeFlake,
  type EvaluatedHost,
  evaluateHost,
  type FlakeSource,
  listHosts,
} from '../nix/evaluate.ts';
import { queryClosure, queryPathInfos } from '../nix/query.ts';
import type { StorePath } from '../nix/storepath.ts';
import { acquireLease } from '../storage/lease.ts';
import type { LeaseHolder, PublishedManifest } from '../storage/state.ts';
import { chooseHosts, type Gone } from './choose-hosts.ts';
import { openGcRoots } from './gcroots.ts';
import { openLogWriter } from './log-writer.ts';
import { requireUntold } from './rebuilt.ts';
import type { StateDir } from './statedir.ts';

export type BuildRequest = {
  readonly flake: string;
  /** Which hosts; all of the flake where empty. */
  readonly hosts: readonly string[];
  /** Evaluate and compare only: build, store and publish nothing. */
  readonly dryRun: boolean;
  /** Sign and store, and leave it waiting for `fleet publish`. */
  readonly noPublish: boolean;
  /** Within one host, go on building what does not depend on what failed. */
  readonly keepGoing: boolean;
  readonly signal?: AbortSignal;
  readonly onEvent?: (event: FleetBuildEvent) => void;
};

export type FleetBuildEvent =
  | { readonly kind: 'flake'; readonly flake: FlakeSource; readonly hosts: readonly string[] }
  | { readonly kind: 'skipped'; readonly host: string; readonly why: Gone }
  | { readonly kind: 'evaluating'; readonly host: string }
  | { readonly kind: 'building'; readonly host: string; readonly event: BuildEvent }
  | { readonly kind: 'ingesting'; readonly host: string; readonly progress: IngestProgress }
  | { readonly kind: 'upstream'; readonly host: string; readonly error: FleetError }
  | { readonly kind: 'ready'; readonly host: string; readonly ingested: Ingested }
  | { readonly kind: 'failed'; readonly host: string; readonly error: FleetError }
  | { readonly kind: 'waiting'; readonly holder: LeaseHolder | null };

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
  | { readonly host: string; readonly error: FleetError };

/**
 * Builds hosts and publishes those that changed, in one publication.
 * @throws FleetError for what concerns all hosts (the flake, the state); a host's own failure is in
 *   its result.
 */
export async function buildFleet(dir: StateDir, request: BuildRequest): Promise<HostResult[]> {
  const { signal, onEvent } = request;
  const passed = signal === undefined ? {} : { signal };
  const flake = await describeFlake(request.flake, passed);
  const all = await listHosts(flake, passed);
  const { hosts, skipped } = await chooseHosts(dir.state, all, request.hosts);
  onEvent?.({ kind: 'flake', flake, hosts });
  for (const one of skipped) onEvent?.({ kind: 'skipped', ...one });
  // Before hours of building, not after.
  await openLogWriter(dir);
  const builder = {
    id: hostname(),
    nixVersion: await nixVersion(),
    system: currentSystem(),
  };
  await using gcroots = await openGcRoots(dir.layout.gcroots);

  const attempt = async (host: string): Promise<Prepared | FailedHost> => {
    try {
      onEvent?.({ kind: 'evaluating', host });
      const evaluated = await evaluateHost(flake, host, passed);
      const settings = parseHostSettings(evaluated.settings);
      const built = describe(evaluated, settings, flake, builder);
      if (request.dryRun) return { host, built: { ...built, closure: [] } };
      await gcroots.building(host, async (outLink) => {
        await buildDerivation(evaluated.drvPath, {
          outLink,
          settings: new Map([['keep-going', String(request.keepGoing)]]),
          ...passed,
          onEvent: (event) => onEvent?.({ kind: 'building', host, event }),
        });
      });
      return {
        host,
        built: {
          ...built,
          closure: await store(dir, host, built.toplevel, new Set(hosts), request),
        },
      };
    } catch (error) {
      signal?.throwIfAborted();
      // A full disk or a busy state concerns every host alike, but each is told its own failure.
      const known = isFleetError(error)
        ? error
        : new FleetError('E_INTERNAL', messageOf(error), { cause: error });
      onEvent?.({ kind: 'failed', host, error: known });
      return { host, error: known };
    }
  };
  // One after the other: evaluating takes gigabytes, and one build uses all cores by itself.
  const prepared: (Prepared | FailedHost)[] = [];
  for (const host of hosts) prepared.push(await attempt(host));
  if (request.dryRun) return await compare(dir, prepared);
  return await publishPrepared(dir, prepared, request, (manifest) => gcroots.keep(manifest));
}

type Prepared = { readonly host: string; readonly built: BuiltHost };
type FailedHost = { readonly host: string; readonly error: FleetError };

function describe(
  evaluated: EvaluatedHost,
  settings: HostSettings,
  flake: FlakeSource,
  builder: BuiltHost['provenance']['builder'],
): Omit<BuiltHost, 'closure'> {
  const { host, system, toplevel, attribute, drvPath } = evaluated;
  return {
    host,
    system,
    toplevel,
    activation: settings.activation,
    provenance: {
      flakeRef: flake.ref,
      rev: flake.dirty ? null : flake.rev,
      flakeNarHash: flake.narHash,
      lockSha256: flake.lockSha256,
      attribute,
      drvPath,
      builder,
    },
  };
}

/** Ingests a closure and returns it as the cache now serves it. */
async function store(
  dir: StateDir,
  host: string,
  toplevel: StorePath,
  hosts: ReadonlySet<string>,
  { signal, onEvent }: BuildRequest,
): Promise<BuiltHost['closure']> {
  const passed = signal === undefined ? {} : { signal };
  const paths = await queryClosure([toplevel], passed);
  const infos = await queryPathInfos(paths, passed);
  await requireUntold(dir, infos, hosts);
  const { upstreams } = dir.config;
  const news = new Set<StorePath>();
  const ingested = await ingestClosure(infos, {
    state: dir.state,
    blobs: dir.blobs,
    level: dir.config.zstdLevel,
    ...passed,
    leftOut: async (lacking) => {
      for (const { path } of lacking) news.add(path);
      if (upstreams.length === 0) return new Map();
      const trouble = (error: FleetError) => onEvent?.({ kind: 'upstream', host, error });
      return await askUpstreams(lacking, upstreams, { ...passed, onTrouble: trouble });
    },
    onProgress: (progress) => onEvent?.({ kind: 'ingesting', host, progress }),
  });
  await storeBuildLogs(
    infos.filter(({ path }) => news.has(path)),
    { state: dir.state, blobs: dir.blobs, level: dir.config.zstdLevel },
  );
  onEvent?.({ kind: 'ready', host, ingested });
  // The cache's word, not the local database's: a path that was built again with other bytes keeps
  // those that were published first, which hosts may have.
  return await dir.state.cachedPaths(paths);
}

function rulesOf(dir: StateDir): Rules {
  return {
    root: dir.root,
    now: Math.floor(Date.now() / 1000),
    validSeconds: dir.config.manifestDays * 86_400,
  };
}

async function compare(
  dir: StateDir,
  prepared: readonly (Prepared | FailedHost)[],
): Promise<HostResult[]> {
  const rules = rulesOf(dir);
  return await Promise.all(
    prepared.map(async (one): Promise<HostResult> => {
      if ('error' in one) return one;
      const current = await dir.state.currentManifest(one.host);
      const change = changeOf(one.built, null, current, rules);
      return resultOf(one, change, current, null);
    }),
  );
}

async function publishPrepared(
  dir: StateDir,
  prepared: readonly (Prepared | FailedHost)[],
  request: BuildRequest,
  keep: (manifest: PublishedManifest) => Promise<void>,
): Promise<HostResult[]> {
  const { signal, onEvent, noPublish: wantsToWait } = request;
  if (prepared.every((one) => 'error' in one)) return [...prepared];
  await using lease = await acquireLease({
    file: dir.layout.publishLock,
    state: dir.state,
    onWait: (holder) => onEvent?.({ kind: 'waiting', holder }),
    ...(signal === undefined ? {} : { signal }),
  });
  // Another root may have come into force meanwhile, with other keys.
  await dir.refreshRoots();
  const log = await openLogWriter(dir);
  const rules = rulesOf(dir);
  const waiting = new Map((await dir.state.pendingManifests()).map((one) => [one.host, one]));
  const publication: PublishedManifest[] = [];
  const pending: { put: PublishedManifest[]; drop: string[] } = { put: [], drop: [] };
  const results: HostResult[] = [];
  for (const one of prepared) {
    if ('error' in one) {
      results.push(one);
      continue;
    }
    try {
      const current = await dir.state.currentManifest(one.host);
      const stored = await storeClosure(one.built, dir.blobs, dir.root.limits);
      const change = changeOf(one.built, stored.blob.id, current, rules);
      const before = waiting.get(one.host) ?? null;
      if (before?.toplevel === null && request.hosts.length === 0) {
        throw new FleetError('E_DECOMMISSIONED', `the removal of ${one.host} waits meanwhile`, {
          hint: 'publish it, or name the host, which is to stay then: fleet build HOST',
        });
      }
      if (change === 'none') {
        // What waits for it is no longer wanted.
        if (before !== null) pending.drop.push(one.host);
        results.push(resultOf(one, change, current, null));
        continue;
      }
      const waits = wantsToWait || approvalThreshold(dir.root, one.host) > 0;
      // Somebody may be looking at it already.
      if (waits && before?.toplevel != null && follows(before, current)) {
        if (changeOf(one.built, stored.blob.id, before, rules) === 'none') {
          results.push(resultOf(one, change, current, before, true));
          continue;
        }
      }
      await requireServable(one.host, stored.closure, dir);
      const manifest = signManifest(one.built, stored, current, log.director, rules);
      await keep(manifest);
      (waits ? pending.put : publication).push(manifest);
      results.push(resultOf(one, change, current, manifest, waits));
    } catch (error) {
      if (!isFleetError(error)) throw error;
      onEvent?.({ kind: 'failed', host: one.host, error });
      results.push({ host: one.host, error });
    }
  }
  await dir.state.changePending(pending.put, pending.drop, lease.holder.fence);
  if (publication.length > 0) {
    const entries = publication.map((manifest) => ({ manifest }));
    await appendEntries(log, entries, { fence: lease.holder.fence, now: rules.now });
  } else {
    // What looks unchanged may have been committed by a build that died before anybody could see it.
    await finishLog(log, rules.now);
  }
  return results;
}

/** Whether what waits was made after the newest manifest, and not before. */
function follows(waiting: PublishedManifest, current: PublishedManifest | null): boolean {
  const { previous } = parseManifest(parseEnvelope(waiting.envelope).payload);
  return (previous?.sha256 ?? null) === (current?.digest ?? null);
}

function resultOf(
  { host, built }: Prepared,
  change: Change,
  current: PublishedManifest | null,
  manifest: PublishedManifest | null,
  waits = false,
): HostResult {
  const before = current?.toplevel ?? null;
  return { host, change, toplevel: built.toplevel, before, manifest, waits, error: null };
}
