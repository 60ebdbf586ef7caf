// The auditor's door, and the agent's: an envelope and a trusted root → a manifest that may be
// believed, or the one reason why not (SPEC §5). A flat list of steps in the order of SPEC §5.1, each
// with a code of its own. Pure: no network, no clock, no files; the caller reads "now" once and passes
// it in.
import { createHash } from 'node:crypto';
import { FleetError, isFleetError } from '../errors.ts';
import type { PublicKey } from '../keyfile.ts';
import { type Closure, parseClosure } from '../nix/closure.ts';
import { type ApprovalProof, requireApproved } from './approval.ts';
import { parseEnvelope, requireSignatures } from './dsse.ts';
import { type Deployment, type Manifest, manifestDigest, parseManifest } from './manifest.ts';
import { approvalThreshold, type Root, requireCurrentRoot } from './root.ts';
import { STATEMENT_PAYLOAD_TYPE } from './statement.ts';
import { formatTime } from './time.ts';

/** The newest manifest that a host ever accepted: what it is shown must not be older. */
export type Floor = {
  readonly epoch: number;
  readonly sequence: number;
  /** SHA-256 of that manifest's payload, lowercase hex. */
  readonly digest: string;
};

/** What a host knows of itself, from its own configuration and memory. */
export type Expectation = {
  readonly host: string;
  readonly system: string;
  /** null: this host has accepted none yet. */
  readonly floor: Floor | null;
};

export type VerifyInput = {
  /** The envelope's text as it was served. */
  readonly envelope: Uint8Array | string;
  /** The newest root, verified. */
  readonly root: Root;
  /** POSIX seconds. */
  readonly now: number;
  /** Left out by an auditor, who asks for no particular host. */
  readonly expect?: Expectation;
  /** Left out, or null, where none came with it. */
  readonly approval?: ApprovalProof | null;
  /** The bytes of closure.fp; left out when they are to be checked later, by `verifyClosure`. */
  readonly closure?: Uint8Array;
};

type Approvers = {
  /** The release keys that approved it, where the host's group wants any. */
  readonly approvers: readonly PublicKey[];
  /** How many of them had to. */
  readonly approvals: number;
};

export type VerifiedManifest = Approvers & {
  readonly manifest: Manifest;
  /** SHA-256 of the payload, lowercase hex. */
  readonly digest: string;
  /** The director keys that signed. */
  readonly signers: readonly PublicKey[];
  /** How many of them had to. */
  readonly threshold: number;
  readonly rootVersion: number;
  /** null when no closure was given, and for a decommission, which has none. */
  readonly closure: Closure | null;
};

/** @throws FleetError with the code of the first step that refuses. SPEC §5.1 */
export function verifyManifest(input: VerifyInput): VerifiedManifest {
  const { root, now, expect } = input;
  requireCurrentRoot(root, now); // 2
  const opened = openManifest(input.envelope, root); // 9, 10
  const { manifest, digest } = opened;
  const approved = approversOf(opened, input); // 11
  requireThisFleet(manifest, root); // 12, 13
  if (expect !== undefined) {
    requireThisHost(manifest, expect); // 14
    requireNotOlder(manifest, digest, expect.floor); // 15
  }
  requireValidAt(manifest, now); // 16
  requireWithinLimits(manifest, root); // 17
  const closure =
    input.closure === undefined || manifest.intent === 'decommission'
      ? null
      : verifyClosure(manifest, input.closure); // 18 to 20
  return { ...opened, ...approved, rootVersion: root.version, closure };
}

/**
 * What a manifest that waits for approval must be, as far as approvers can tell: steps 2, 9, 10, 12, 13, 16 and
 * 17. SPEC §10.2
 * @throws FleetError with the code of the first step that refuses.
 */
export function verifyProposal({
  envelope,
  root,
  now,
}: Pick<VerifyInput, 'envelope' | 'root' | 'now'>): Pick<VerifiedManifest, 'manifest' | 'digest'> {
  requireCurrentRoot(root, now);
  const opened = openManifest(envelope, root);
  requireThisFleet(opened.manifest, root);
  requireValidAt(opened.manifest, now);
  requireWithinLimits(opened.manifest, root);
  return opened;
}

/**
 * Steps 9 and 10: the director's signatures over the envelope's bytes, and only then their meaning.
 * @throws FleetError E_ENVELOPE, E_SIGNATURE, E_SIGNATURE_UNKNOWN_KEY, E_SIGNATURE_THRESHOLD,
 *   E_PAYLOAD_FORM, E_MANIFEST_FORM.
 */
function openManifest(
  text: Uint8Array | string,
  root: Root,
): Pick<VerifiedManifest, 'manifest' | 'digest' | 'signers' | 'threshold'> {
  const envelope = parseEnvelope(text);
  const { keys, threshold } = root.roles.director;
  const signers = requireSignatures(envelope, keys, threshold, 'director');
  if (envelope.payloadType !== STATEMENT_PAYLOAD_TYPE) {
    throw new FleetError('E_MANIFEST_FORM', 'the envelope holds something else than a manifest');
  }
  const manifest = parseManifest(envelope.payload);
  return { manifest, digest: manifestDigest(envelope.payload), signers, threshold };
}

/** Step 11. @throws FleetError E_HOST_UNGROUPED, and as requireApproved. SPEC §3.5 */
function approversOf(
  { manifest, digest }: Pick<VerifiedManifest, 'manifest' | 'digest'>,
  { approval, root, now }: VerifyInput,
): Approvers {
  const needed = approvalThreshold(root, manifest.host.id);
  if (needed === 0) return { approvers: [], approvals: 0 };
  try {
    const approvers = requireApproved(digest, approval ?? null, needed, root, now);
    return { approvers, approvals: needed };
  } catch (cause) {
    if (!isFleetError(cause)) throw cause;
    throw new FleetError(cause.code, `${nameOf(manifest)}: ${cause.message}`, { cause });
  }
}

/** Steps 12 and 13. @throws FleetError E_FLEET_MISMATCH, E_ROOT_VERSION, E_EPOCH. */
function requireThisFleet(manifest: Manifest, root: Root): void {
  const { fleet, epoch } = manifest;
  if (fleet.name !== root.fleet) {
    throw new FleetError('E_FLEET_MISMATCH', `${nameOf(manifest)} is of fleet ${fleet.name}`);
  }
  if (fleet.rootVersion !== root.version) {
    const versions = `root version ${fleet.rootVersion}, and the newest is ${root.version}`;
    throw new FleetError('E_ROOT_VERSION', `${nameOf(manifest)} was issued under ${versions}`);
  }
  if (epoch !== root.epoch) {
    throw new FleetError('E_EPOCH', `${nameOf(manifest)}: the root's epoch is ${root.epoch}`);
  }
}

/** Step 14. @throws FleetError E_HOST_MISMATCH, E_SYSTEM_MISMATCH. */
function requireThisHost(manifest: Manifest, expect: Pick<Expectation, 'host' | 'system'>): void {
  const { id, system } = manifest.host;
  if (id !== expect.host) {
    throw new FleetError('E_HOST_MISMATCH', `the manifest is for ${id}; this is ${expect.host}`);
  }
  if (system !== expect.system) {
    throw new FleetError(
      'E_SYSTEM_MISMATCH',
      `the manifest is for ${system}; this is ${expect.system}`,
    );
  }
}

/**
 * Step 15: (epoch, sequence) only grows. The very manifest of the floor passes, as it is verified again
 * just before activation. @throws FleetError E_EPOCH, E_SEQUENCE_OLDER, E_SEQUENCE_CONFLICT.
 */
function requireNotOlder(manifest: Manifest, digest: string, floor: Floor | null): void {
  if (floor === null || manifest.epoch > floor.epoch) return;
  const accepted = `epoch ${floor.epoch}, sequence ${floor.sequence} was accepted before`;
  if (manifest.epoch < floor.epoch) {
    throw new FleetError('E_EPOCH', `${nameOf(manifest)}: ${accepted}`);
  }
  if (manifest.sequence < floor.sequence) {
    throw new FleetError('E_SEQUENCE_OLDER', `${nameOf(manifest)}: ${accepted}`);
  }
  if (manifest.sequence === floor.sequence && digest !== floor.digest) {
    const other = `another manifest of that number was accepted before, ${floor.digest}`;
    throw new FleetError('E_SEQUENCE_CONFLICT', `${nameOf(manifest)}: ${other}`);
  }
}

/** Step 16. @throws FleetError E_MANIFEST_NOT_YET, E_MANIFEST_EXPIRED. */
export function requireValidAt(manifest: Manifest, now: number): void {
  // Written so that a "now" that is no number is refused.
  if (!(now >= manifest.notBefore)) {
    const from = formatTime(manifest.notBefore);
    throw new FleetError('E_MANIFEST_NOT_YET', `${nameOf(manifest)} is valid from ${from}`);
  }
  if (!(now < manifest.expiresAt)) {
    const since = formatTime(manifest.expiresAt);
    throw new FleetError('E_MANIFEST_EXPIRED', `${nameOf(manifest)} expired at ${since}`);
  }
}

/** Step 17: what it would have us fetch. @throws FleetError E_CLOSURE_SIZE. */
function requireWithinLimits(manifest: Manifest, root: Root): void {
  if (manifest.intent === 'decommission') return;
  const { bytes, paths, narBytes } = manifest.closure;
  const { limits } = root;
  if (bytes > limits.closureBytes || paths > limits.closurePaths || narBytes > limits.narBytes) {
    throw new FleetError(
      'E_CLOSURE_SIZE',
      `the closure of ${nameOf(manifest)} exceeds the root's limits`,
    );
  }
}

/**
 * Steps 18 to 20: closure.fp is the file that the manifest signs, well formed, whole, and says the
 * same as the manifest. @throws FleetError E_CLOSURE_SIZE, E_CLOSURE_HASH, E_CLOSURE_FORM,
 *   E_CLOSURE_MISSING, E_CLOSURE_UNREACHABLE, E_CLOSURE_MISMATCH.
 */
export function verifyClosure(manifest: Deployment, bytes: Uint8Array): Closure {
  const { toplevel } = manifest;
  const signed = manifest.closure;
  if (bytes.length !== signed.bytes) {
    const sizes = `${bytes.length} bytes, and ${signed.bytes} are signed`;
    throw new FleetError('E_CLOSURE_SIZE', `the closure file has ${sizes}`);
  }
  const sha256 = createHash('sha256').update(bytes).digest('hex');
  if (sha256 !== signed.sha256) {
    throw new FleetError(
      'E_CLOSURE_HASH',
      `the closure file has the hash ${sha256}, and ${signed.sha256} is signed`,
    );
  }
  const closure = parseClosure(bytes, toplevel);
  if (closure.paths.size !== signed.paths) {
    mismatch(`${closure.paths.size} paths`, `${signed.paths}`);
  }
  if (closure.narBytes !== signed.narBytes) {
    mismatch(`${closure.narBytes} bytes of NARs`, `${signed.narBytes}`);
  }
  const narHash = closure.paths.get(toplevel)?.narHash;
  if (narHash !== manifest.toplevelNarHash) {
    mismatch(`${narHash} for the toplevel`, manifest.toplevelNarHash);
  }
  return closure;
}

function mismatch(found: string, signed: string): never {
  throw new FleetError(
    'E_CLOSURE_MISMATCH',
    `the closure file has ${found}; the manifest says ${signed}`,
  );
}

function nameOf({ host, epoch, sequence }: Manifest): string {
  return `the manifest of ${host.id} (epoch ${epoch}, sequence ${sequence})`;
}
