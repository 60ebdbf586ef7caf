// A root's signed bytes → the keys and rules that a fleet trusts (SPEC §3; TUF's root role, §5.3 of
// its specification). Version N+1 counts when thresholds of both N and N+1 signed it, one step at a
// time. Refuses a chain with a gap, another fleet's root, an epoch that falls or grows by more than 1.
// Expiry counts only for the newest root, so it is a question of its own: `requireCurrentRoot`.
import { createHash } from 'node:crypto';
import { FleetError, messageOf } from '../errors.ts';
import { keyId, type PublicKey } from '../keyfile.ts';
import { formatVerifierKey, NOTE_COSIGNATURE, NOTE_ED25519 } from '../tlog/vkey.ts';
import { type Envelope, requireSignatures } from './dsse.ts';
import { canonicalBytes, parseCanonical } from './jcs.ts';
import { checkRootMeaning, keyUses, type RootPayload, RootSchema } from './root-form.ts';
import { requireShape } from './shape.ts';
import { formatTime, parseTime } from './time.ts';

export const ROOT_PAYLOAD_TYPE = 'application/vnd.fleet.root+json';

/** A root as its payload says it, with times in POSIX seconds. */
export type Root = Omit<RootPayload, 'issuedAt' | 'expiresAt'> & {
  readonly issuedAt: number;
  readonly expiresAt: number;
};

/** @throws FleetError E_PAYLOAD_FORM, E_ROOT_FORM, E_KEY_ROLE. */
export function parseRoot(payload: Uint8Array): Root {
  const wire = requireShape(RootSchema, parseCanonical(payload), 'E_ROOT_FORM', 'root');
  checkRootMeaning(wire);
  return { ...wire, issuedAt: parseTime(wire.issuedAt), expiresAt: parseTime(wire.expiresAt) };
}

/** The payload's bytes, canonical. @throws as parseRoot for what parseRoot would not accept. */
export function formatRoot(root: Root): Uint8Array {
  const payload = canonicalBytes({
    ...root,
    issuedAt: formatTime(root.issuedAt),
    expiresAt: formatTime(root.expiresAt),
  });
  parseRoot(payload);
  return payload;
}

/** The public keys of a new fleet, one purpose each. */
export type RootKeys = {
  readonly root: readonly PublicKey[];
  readonly release: readonly PublicKey[];
  readonly director: readonly PublicKey[];
  readonly log: PublicKey;
  readonly freshness: PublicKey;
  readonly nonce: PublicKey;
  /** As Nix writes them: `name:base64`. */
  readonly cache: readonly string[];
};

export type InitialRoot = {
  readonly fleet: string;
  /** POSIX seconds; the root is valid for `days` from then. */
  readonly now: number;
  readonly keys: RootKeys;
  readonly days?: number;
  /** 1 where nothing else is said. */
  readonly thresholds?: { readonly root?: number; readonly release?: number };
  /** One group of all hosts that needs no approval, where nothing else is said. */
  readonly groups?: Root['groups'];
  /** Seconds. */
  readonly maxAge?: number;
};

const DAY = 86_400;

/** Version 1 of a fleet's root. @throws FleetError E_ROOT_FORM, E_KEY_ROLE, E_TIME. */
export function makeInitialRoot({ fleet, now, keys, ...options }: InitialRoot): Root {
  const { root, release, director } = keys;
  const origin = `${fleet}/log/1`;
  const made: Root = {
    version: 1,
    issuedAt: now,
    expiresAt: now + (options.days ?? 365) * DAY,
    fleet,
    epoch: 1,
    roles: {
      root: { keys: root, threshold: options.thresholds?.root ?? 1 },
      release: { keys: release, threshold: options.thresholds?.release ?? 1 },
      director: { keys: director, threshold: 1 },
    },
    log: {
      origin,
      vkey: formatVerifierKey({ name: origin, type: NOTE_ED25519, publicKey: keys.log }),
      // RFC 6962 §2.1: the hash of an empty tree is that of the empty string.
      anchor: { size: 0, sha256: createHash('sha256').digest('hex') },
    },
    freshness: {
      keys: [
        formatVerifierKey({
          name: `${fleet}/freshness`,
          type: NOTE_COSIGNATURE,
          publicKey: keys.freshness,
        }),
      ],
    },
    nonce: { keys: [keys.nonce] },
    cache: { keys: keys.cache },
    groups: options.groups ?? [{ name: 'all', hosts: ['*'], approvals: 0 }],
    limits: { closureBytes: 64 * 2 ** 20, closurePaths: 200_000, narBytes: 2 ** 40 },
    maxAge: options.maxAge ?? 7 * DAY,
    witnesses: [],
    revoked: [],
  };
  return parseRoot(formatRoot(made));
}

/**
 * The root in an envelope that its own keys signed: how a root that came by hand is read. It proves
 * nothing about who made it. With `now`, it must not have expired. SPEC §3.4
 */
export function verifyInitialRoot(envelope: Envelope, now?: number): Root {
  const root = openRoot(envelope);
  requireRootSignatures(envelope, root, 'E_ROOT_OWN_SIGNATURE');
  if (now !== undefined) requireCurrentRoot(root, now);
  return root;
}

/**
 * The root that follows `trusted`, in an envelope that thresholds of both signed. SPEC §3.4
 * @throws FleetError E_ROOT_SIGNATURE, E_PAYLOAD_FORM, E_ROOT_FORM, E_KEY_ROLE, E_ROOT_OWN_SIGNATURE,
 *   E_FLEET_MISMATCH, E_ROOT_CHAIN, E_ROOT_EPOCH.
 */
export function verifyRootUpdate(trusted: Root, envelope: Envelope): Root {
  requireRootSignatures(envelope, trusted, 'E_ROOT_SIGNATURE');
  const root = openRoot(envelope);
  requireRootSignatures(envelope, root, 'E_ROOT_OWN_SIGNATURE');
  if (root.fleet !== trusted.fleet) {
    throw new FleetError('E_FLEET_MISMATCH', `the new root is of fleet ${root.fleet}`);
  }
  if (root.version !== trusted.version + 1) {
    const step = `version ${root.version} does not follow version ${trusted.version}`;
    throw new FleetError('E_ROOT_CHAIN', `root ${step}`);
  }
  if (root.epoch < trusted.epoch || root.epoch > trusted.epoch + 1) {
    const step = `epoch ${root.epoch} does not follow epoch ${trusted.epoch}`;
    throw new FleetError('E_ROOT_EPOCH', `root version ${root.version}: ${step}`);
  }
  return root;
}

/** @throws FleetError E_ROOT_EXPIRED when the newest root is no longer valid at `now`. SPEC §3.4 */
export function requireCurrentRoot(root: Root, now: number): void {
  if (now < root.expiresAt) return;
  const since = formatTime(root.expiresAt);
  throw new FleetError('E_ROOT_EXPIRED', `root version ${root.version} expired at ${since}`);
}

/**
 * How many release keys must have approved what `host` runs: 0, or the highest number among its
 * groups, and then never less than the release role's threshold. SPEC §3.5
 * @throws FleetError E_HOST_UNGROUPED when no group holds the host.
 */
export function approvalThreshold(root: Root, host: string): number {
  const approvals = root.groups
    .filter((group) => group.hosts.some((pattern) => matches(pattern, host)))
    .map((group) => group.approvals);
  if (approvals.length === 0) {
    throw new FleetError(
      'E_HOST_UNGROUPED',
      `no group of root version ${root.version} has ${host}`,
    );
  }
  const highest = Math.max(...approvals);
  return highest === 0 ? 0 : Math.max(highest, root.roles.release.threshold);
}

/** The role that `key` holds in the root, or null. A host's key holds none. SPEC §3.2 */
export function roleOfKey(root: Root, key: PublicKey): string | null {
  return keyUses(root).find((use) => use.key === key)?.role ?? null;
}

/** @throws FleetError E_KEY_ROLE when `key`, which is to be a host's, holds a role already. */
export function requireHostKey(root: Root, key: PublicKey): void {
  const role = roleOfKey(root, key);
  if (role === null) return;
  throw new FleetError('E_KEY_ROLE', `host key ${keyId(key)} is the ${role} key of this fleet`);
}

function openRoot(envelope: Envelope): Root {
  if (envelope.payloadType !== ROOT_PAYLOAD_TYPE) {
    throw new FleetError('E_ROOT_FORM', 'the envelope holds something else than a root');
  }
  return parseRoot(envelope.payload);
}

/** The threshold of the root keys of `by` signed; `code` tells the keys before from the root's own. */
function requireRootSignatures(
  envelope: Envelope,
  by: Root,
  code: 'E_ROOT_SIGNATURE' | 'E_ROOT_OWN_SIGNATURE',
): void {
  const { keys, threshold } = by.roles.root;
  try {
    requireSignatures(envelope, keys, threshold, `root (of version ${by.version})`);
  } catch (cause) {
    throw new FleetError(code, messageOf(cause), { cause });
  }
}

function matches(pattern: string, host: string): boolean {
  return pattern.endsWith('*') ? host.startsWith(pattern.slice(0, -1)) : host === pattern;
}
