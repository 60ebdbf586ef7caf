// A flake → published manifests: evaluate, build, root, ingest, store the closure file; then publish
// (publish-built.ts). One host that fails stops no other. What is built is rooted before it is ingested, so that
// the build box's own garbage collection harms nothing, and publication waits for the lease with everything else
// done.
import { hostname } from 'node:os';
import { storeBuildLogs } from '../cache/build-logs.ts';
import { type Ingested, type IngestProgress, ingestClosure } from '../cache/ingest.ts';
import { askUpstreams } from '../cache/upstream.ts';
import { FleetError, isFleetError, messageOf } from '../errors.ts';
import { type HostSettings, parseHostSettings } from '../manifest/activation.ts';
import { type BuiltHost, storeClosure } from '../manifest/publish.ts';
import { buildDerivation } from '../nix/build.ts';
import type { BuildEvent } from '../nix/build-log.ts';
import type { PathInfo } from '../nix/closure.ts';
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
import type { LeaseHolder } from '../storage/state.ts';
import { chooseHosts, type Gone } from './choose-hosts.ts';
import { openGcRoots } from './gcroots.ts';
import { openLogWriter } from './log-writer.ts';
import {
  compareBuilt,
  type FailedHost,
  type HostResult,
  type PreparedHost,
  publishBuilt,
} from './publish-built.ts';
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
  /** Hosts are to wait neither for windows nor for people. */
  readonly emergency: boolean;
  /** Nobody at a machine is to go back behind what is published now. */
  readonly minimum: boolean;
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

  const attempt = async (host: string): Promise<PreparedHost | FailedHost> => {
    try {
      onEvent?.({ kind: 'evaluating', host });
      const evaluated = await evaluateHost(flake, host, passed);
      const settings = parseHostSettings(evaluated.settings);
      const built = describe(evaluated, settings, flake, builder);
      if (request.dryRun) return { host, built, stored: null };
      await gcroots.building(host, async (outLink) => {
        await buildDerivation(evaluated.drvPath, {
          outLink,
          settings: new Map([['keep-going', String(request.keepGoing)]]),
          ...passed,
          onEvent: (event) => onEvent?.({ kind: 'building', host, event }),
        });
      });
      const closure = await store(dir, host, built.toplevel, new Set(hosts), request);
      return {
        host,
        built,
        stored: await storeClosure(built, closure, dir.blobs, dir.root.limits),
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
  const prepared: (PreparedHost | FailedHost)[] = [];
  for (const host of hosts) prepared.push(await attempt(host));
  if (request.dryRun) return await compareBuilt(dir, prepared, request);
  return await publishBuilt(dir, prepared, gcroots, {
    noPublish: request.noPublish,
    emergency: request.emergency,
    minimum: request.minimum,
    named: request.hosts.length > 0,
    onWait: (holder) => onEvent?.({ kind: 'waiting', holder }),
    onFailed: ({ host, error }) => onEvent?.({ kind: 'failed', host, error }),
    ...passed,
  });
}

function describe(
  evaluated: EvaluatedHost,
  settings: HostSettings,
  flake: FlakeSource,
  builder: BuiltHost['provenance']['builder'],
): BuiltHost {
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
): Promise<readonly PathInfo[]> {
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
