// Built hosts → signed manifests → one publication (SPEC §4). The last step of a build, and atomic:
// every byte of a closure can be served before the manifest that names it is visible, and all
// manifests of a publication become the newest ones of their hosts in one transaction.
// A host whose newest manifest says the same already, and will be valid for long enough, is left out; one that was
// ended gets no further one.
import { isDeepStrictEqual } from 'node:util';
import { FleetError } from '../errors.ts';
import { formatClosure, type PathInfo, parseClosure } from '../nix/closure.ts';
import type { NarHash } from '../nix/hash.ts';
import type { StorePath } from '../nix/storepath.ts';
import type { BlobId, BlobRef, Blobs } from '../storage/blobs.ts';
import { LEAVE_SECONDS } from '../storage/host-life.ts';
import type { PublishedManifest } from '../storage/state.ts';
import type { Activation } from './activation.ts';
import { parseEnvelope, signEnvelope } from './dsse.ts';
import {
  type Decommission,
  type Deployment,
  formatManifest,
  type Manifest,
  manifestDigest,
  type Provenance,
  parseManifest,
} from './manifest.ts';
import type { Root } from './root.ts';
import { STATEMENT_PAYLOAD_TYPE } from './statement.ts';

/** A host's system, built. */
export type BuiltHost = {
  readonly host: string;
  readonly system: string;
  readonly toplevel: StorePath;
  readonly activation: Activation;
  readonly provenance: Provenance;
};

/** Why a host gets a new manifest, or none. */
export type Change =
  /** It never had one. */
  | 'new'
  /** It is to run another system. */
  | 'system'
  /** The same system under other rules. */
  | 'settings'
  /** The same system, of which some path has other bytes than those that were published. */
  | 'closure'
  /** The same system, which hosts are not to wait with any more. */
  | 'emergency'
  /** The same system, behind which nobody at a machine is to go back any more. */
  | 'minimum'
  /** Nothing but the root it names, or its time, which runs out. */
  | 'renewal'
  | 'none';

export type Rules = {
  readonly root: Root;
  /** POSIX seconds. */
  readonly now: number;
  /** How long a manifest is valid. */
  readonly validSeconds: number;
  /** Hosts are to wait for nothing (SPEC §5.6). What was one stays one while its system does. */
  readonly emergency?: boolean;
  /** Nobody at a machine is to go back behind what is signed now (SPEC §5.8). */
  readonly minimum?: boolean;
};

// A machine whose clock is a little behind the server's must not find a manifest "not yet valid".
const CLOCK_SKEW_SECONDS = 300;

/** Compares a host with its newest manifest. `closure` is its closure file; null before it is built. */
export function changeOf(
  built: BuiltHost,
  closure: BlobId | null,
  current: PublishedManifest | null,
  { root, now, validSeconds, emergency = false, minimum = false }: Rules,
): Change {
  if (current === null) return 'new';
  const manifest = parseManifest(parseEnvelope(current.envelope).payload);
  if (manifest.intent === 'decommission') {
    throw new FleetError('E_DECOMMISSIONED', `${built.host} was removed from the fleet`);
  }
  if (manifest.toplevel !== built.toplevel || manifest.host.system !== built.system) {
    return 'system';
  }
  if (!isDeepStrictEqual(manifest.activation, built.activation)) return 'settings';
  if (closure !== null && manifest.closure.sha256 !== closure) return 'closure';
  if (emergency && !manifest.emergency) return 'emergency';
  if (minimum && manifest.minSequence < manifest.sequence) return 'minimum';
  const fresh =
    manifest.fleet.rootVersion === root.version &&
    manifest.epoch === root.epoch &&
    // Signed when this box's clock was ahead: no host takes it yet.
    manifest.notBefore <= now &&
    manifest.expiresAt - now > validSeconds / 3;
  return fresh ? 'none' : 'renewal';
}

/** What an agent would refuse is never signed. @throws FleetError E_CLOSURE_LIMIT. */
function requireWithin(
  host: string,
  { bytes, paths, narBytes }: Omit<Deployment['closure'], 'sha256'>,
  limits: Root['limits'],
): void {
  if (bytes <= limits.closureBytes && paths <= limits.closurePaths && narBytes <= limits.narBytes)
    return;
  throw new FleetError('E_CLOSURE_LIMIT', `the closure of ${host} exceeds the root's limits`);
}

/** Where a closure file lies, and what a manifest says of it: a fleet's closures would not fit in memory. */
export type StoredClosure = {
  readonly blob: BlobRef;
  readonly paths: number;
  readonly narBytes: number;
  readonly toplevelNarHash: NarHash;
};

/**
 * Stores a host's closure, ingested, as its closure file.
 * @throws FleetError E_CLOSURE_LIMIT, E_CLOSURE_MISSING for what no agent would accept.
 */
export async function storeClosure(
  { host, toplevel }: Pick<BuiltHost, 'host' | 'toplevel'>,
  infos: readonly PathInfo[],
  blobs: Pick<Blobs, 'put'>,
  limits: Root['limits'],
): Promise<StoredClosure> {
  const bytes = formatClosure(infos);
  // What an agent would refuse is never published.
  const { paths, narBytes } = parseClosure(bytes, toplevel);
  requireWithin(host, { bytes: bytes.length, paths: paths.size, narBytes }, limits);
  const toplevelNarHash = paths.get(toplevel)?.narHash;
  if (toplevelNarHash === undefined) {
    throw new FleetError('E_CLOSURE_MISSING', 'no line for the toplevel');
  }
  // Also where it is there: one that nothing names yet, of a build that failed, may be collected now.
  return { blob: await blobs.put([bytes]), paths: paths.size, narBytes, toplevelNarHash };
}

/** @throws FleetError E_CLOSURE_LIMIT where another root has come into force since it was stored. */
export function requireWithinLimits(host: string, stored: StoredClosure, limits: Root['limits']) {
  requireWithin(host, { ...stored, bytes: stored.blob.size }, limits);
}

/**
 * Signs the manifest that follows `current`. `director` is the 32-byte secret key.
 * @throws FleetError E_MANIFEST_FORM for what no agent would accept.
 */
export function signManifest(
  built: BuiltHost,
  { blob, paths, narBytes, toplevelNarHash }: StoredClosure,
  current: PublishedManifest | null,
  director: Uint8Array,
  { root, now, validSeconds, emergency = false, minimum = false }: Rules,
): PublishedManifest {
  const follow = followOf(current, root);
  const manifest: Deployment = {
    intent: 'deploy',
    fleet: { name: root.fleet, rootVersion: root.version },
    host: { id: built.host, system: built.system },
    ...follow,
    minSequence: minimum ? follow.sequence : minSequenceOf(current, root),
    emergency: emergency || (current?.toplevel === built.toplevel && isEmergency(current)),
    issuedAt: now,
    notBefore: now - CLOCK_SKEW_SECONDS,
    expiresAt: now + validSeconds,
    toplevel: built.toplevel,
    toplevelNarHash,
    closure: { sha256: blob.id, bytes: blob.size, paths, narBytes },
    activation: built.activation,
    provenance: built.provenance,
  };
  return {
    host: built.host,
    ...signedForm(manifest, director),
    toplevel: built.toplevel,
    closure: blob.id,
    closureBytes: blob.size,
  };
}

/**
 * Signs the manifest that ends a host, whose newest one is `current`. It is valid for as long at least as the host
 * may still ask.
 */
export function signDecommission(
  current: PublishedManifest,
  director: Uint8Array,
  { root, now, validSeconds }: Rules,
): PublishedManifest {
  const { host } = parseManifest(parseEnvelope(current.envelope).payload);
  const manifest: Decommission = {
    intent: 'decommission',
    fleet: { name: root.fleet, rootVersion: root.version },
    host,
    ...followOf(current, root),
    minSequence: 0,
    emergency: false,
    issuedAt: now,
    notBefore: now - CLOCK_SKEW_SECONDS,
    expiresAt: now + Math.max(validSeconds, LEAVE_SECONDS),
  };
  const signed = signedForm(manifest, director);
  return { host: host.id, ...signed, toplevel: null, closure: null, closureBytes: null };
}

/**
 * The same for a host that has one already, under a newer root; null where it says nothing else. One that ends its
 * host is issued again until its time is over, which stays what it was: hosts that were away see it all the same.
 * @throws FleetError E_CLOSURE_LIMIT where the newer root no longer allows its closure.
 */
export function reissue(
  current: PublishedManifest,
  director: Uint8Array,
  rules: Rules,
): PublishedManifest | null {
  const { fleet } = parseManifest(parseEnvelope(current.envelope).payload);
  return fleet.rootVersion === rules.root.version ? null : issueAgain(current, director, rules);
}

/** As reissue, also under the same root: something newer, for hosts that would not try the same again. */
export function issueAgain(
  current: PublishedManifest,
  director: Uint8Array,
  { root, now, validSeconds }: Rules,
): PublishedManifest | null {
  const manifest = parseManifest(parseEnvelope(current.envelope).payload);
  const anew = {
    fleet: { name: root.fleet, rootVersion: root.version },
    ...followOf(current, root),
    minSequence: minSequenceOf(current, root),
    issuedAt: now,
    notBefore: now - CLOCK_SKEW_SECONDS,
  };
  if (manifest.intent === 'decommission') {
    if (manifest.expiresAt <= now) return null;
    return { ...current, ...signedForm({ ...manifest, ...anew }, director) };
  }
  requireWithin(current.host, manifest.closure, root.limits);
  const next: Deployment = { ...manifest, ...anew, expiresAt: now + validSeconds };
  return { ...current, ...signedForm(next, director) };
}

/** Whether its host is to wait for nothing. */
/** What nobody at a machine goes back behind stays; in another epoch numbers begin anew, and none of before counts. */
function minSequenceOf(current: PublishedManifest | null, root: Root): number {
  if (current === null) return 0;
  const { epoch, minSequence } = parseManifest(parseEnvelope(current.envelope).payload);
  return epoch === root.epoch ? minSequence : 0;
}

export function isEmergency({ envelope }: Pick<PublishedManifest, 'envelope'>): boolean {
  return parseManifest(parseEnvelope(envelope).payload).emergency;
}

/** The number that follows, and what it follows. */
function followOf(current: PublishedManifest | null, root: Root) {
  const previous =
    current === null
      ? null
      : { epoch: current.epoch, sequence: current.sequence, sha256: current.digest };
  const sequence = current?.epoch === root.epoch ? current.sequence + 1 : 1;
  return { epoch: root.epoch, sequence, previous };
}

function signedForm(manifest: Manifest, director: Uint8Array) {
  const payload = formatManifest(manifest);
  const { epoch, sequence, issuedAt, expiresAt } = manifest;
  return {
    ...{ epoch, sequence, issuedAt, expiresAt },
    digest: manifestDigest(payload),
    envelope: signEnvelope(STATEMENT_PAYLOAD_TYPE, payload, [director]),
  };
}
