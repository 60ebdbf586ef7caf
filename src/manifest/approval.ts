// An approval ↔ what release keys said (SPEC §10.1): an in-toto Statement about a batch, which is the list of
// the digests of the manifests' payloads that were looked at. The log and each host get the Statement, which
// holds the hash of a tree over the batch, so that a host needs a proof for its own manifest and not the list.
// Nothing else that a release key signs counts. Refuses a batch that is not sorted, or that says a digest twice.
import { createHash } from 'node:crypto';
import type { Static } from 'typebox';
import * as Type from 'typebox';
import { FleetError, isFleetError } from '../errors.ts';
import type { PublicKey } from '../keyfile.ts';
import { hashLeaf, MemoryTree, verifyInclusion } from '../tlog/merkle.ts';
import { type Envelope, parseEnvelope, requireSignatures } from './dsse.ts';
import { Exact, FleetName, Ordinal, Sha256, Time } from './fields.ts';
import type { Root } from './root.ts';
import { requireShape } from './shape.ts';
import {
  formatStatement,
  parseStatement,
  requireSubjects,
  STATEMENT_PAYLOAD_TYPE,
  type Subject,
} from './statement.ts';
import { formatTime, parseTime } from './time.ts';

export const APPROVAL_PREDICATE_TYPE = 'urn:fleet:approval:v1';
/** Digests in one batch: a fleet has fewer hosts. */
export const MAX_BATCH = 100_000;

export const ApprovalSchema = Exact({
  fleet: FleetName,
  epoch: Ordinal,
  /** How many digests the batch has, and the hash of the tree over them (SPEC §9.1). */
  count: Type.Integer({ minimum: 1, maximum: MAX_BATCH }),
  root: Sha256,
  issuedAt: Time,
  expiresAt: Time,
});

type Payload = Static<typeof ApprovalSchema>;

/** What an approval says. Times are POSIX seconds. */
export type Approval = Readonly<Omit<Payload, 'issuedAt' | 'expiresAt'>> & {
  readonly issuedAt: number;
  readonly expiresAt: number;
  /** SHA-256 of the batch's text, lowercase hex. */
  readonly batch: string;
};

/** An approval as it is carried about: its envelope, and the batch, which is not in it. */
export type ApprovalFile = { readonly envelope: string; readonly batch: readonly string[] };

/** An approval as a host gets it: its envelope, and its manifest's place in the batch. */
export type ApprovalProof = {
  readonly envelope: string;
  readonly index: number;
  readonly proof: readonly Uint8Array[];
};

/** The batch's text: its digests sorted, one a line. @throws FleetError E_APPROVAL_FORM. */
export function formatBatch(digests: readonly string[]): string {
  return digests.map((digest) => `${digest}\n`).join('');
}

/** @throws FleetError E_APPROVAL_FORM. */
function requireBatch(digests: readonly string[]): void {
  if (digests.length < 1 || digests.length > MAX_BATCH) {
    refuse(`a batch has 1 to ${MAX_BATCH} digests`);
  }
  for (const [i, digest] of digests.entries()) {
    if (!/^[0-9a-f]{64}$/.test(digest)) refuse('its batch has a line that is no SHA-256');
    const before = digests[i - 1];
    if (before !== undefined && before >= digest) refuse('its batch is not sorted');
  }
}

function treeOf(batch: readonly string[]): MemoryTree {
  return new MemoryTree(batch.map((digest) => hashLeaf(Buffer.from(digest, 'hex'))));
}

/** The payload of an approval of manifests with these digests, in any order. */
export function makeApproval(
  digests: readonly string[],
  times: Pick<Approval, 'issuedAt' | 'expiresAt'>,
  root: Pick<Root, 'fleet' | 'epoch'>,
): { readonly payload: Uint8Array; readonly batch: readonly string[] } {
  const batch = [...new Set(digests)].sort();
  requireBatch(batch);
  const predicate = {
    fleet: root.fleet,
    epoch: root.epoch,
    count: batch.length,
    root: Buffer.from(treeOf(batch).root()).toString('hex'),
    issuedAt: formatTime(times.issuedAt),
    expiresAt: formatTime(times.expiresAt),
  };
  const subjects = subjectsOf(sha256(formatBatch(batch)));
  const payload = formatStatement(APPROVAL_PREDICATE_TYPE, { subjects, predicate });
  parseApproval({ payloadType: STATEMENT_PAYLOAD_TYPE, payload, signatures: [] });
  return { payload, batch };
}

/** What an envelope says, whoever signed it. @throws FleetError E_PAYLOAD_FORM, E_APPROVAL_FORM. */
export function parseApproval({ payloadType, payload }: Envelope): Approval {
  if (payloadType !== STATEMENT_PAYLOAD_TYPE) {
    refuse('the envelope holds something else than an approval');
  }
  const what = 'approval';
  const { subjects, predicate } = parseStatement(
    payload,
    APPROVAL_PREDICATE_TYPE,
    'E_APPROVAL_FORM',
    what,
  );
  const wire = requireShape(ApprovalSchema, predicate, 'E_APPROVAL_FORM', what);
  const [subject] = subjects;
  const batch = subject?.sha256 ?? '';
  requireSubjects(subjects, subjectsOf(batch), 'E_APPROVAL_FORM', what);
  const times = { issuedAt: parseTime(wire.issuedAt), expiresAt: parseTime(wire.expiresAt) };
  if (times.expiresAt <= times.issuedAt) refuse('it expires before it is issued');
  return { ...wire, ...times, batch };
}

/**
 * An approval and its batch, which must be the one that it is about; whoever signed it.
 * @throws FleetError E_ENVELOPE, E_PAYLOAD_FORM, E_APPROVAL_FORM.
 */
export function openApproval({ envelope, batch }: ApprovalFile): Approval {
  const approval = parseApproval(parseEnvelope(envelope));
  requireBatch(batch);
  if (!isBatchOf(approval, batch)) refuse('its batch is another one');
  return approval;
}

/** Whether an approval is about just these digests. */
export function isBatchOf(approval: Approval, batch: readonly string[]): boolean {
  return (
    batch.length === approval.count &&
    sha256(formatBatch(batch)) === approval.batch &&
    Buffer.from(treeOf(batch).root()).toString('hex') === approval.root
  );
}

/** The place of a manifest in a batch, or null when it is not in it. */
export function proveApproval(file: ApprovalFile, digest: string): ApprovalProof | null {
  return approvalProver(file)(digest);
}

/** `proveApproval` for many manifests of one batch, whose tree is made once. */
export function approvalProver({
  envelope,
  batch,
}: ApprovalFile): (digest: string) => ApprovalProof | null {
  const tree = treeOf(batch);
  const places = new Map(batch.map((digest, index) => [digest, index]));
  return (digest) => {
    const index = places.get(digest);
    return index === undefined ? null : { envelope, index, proof: tree.inclusion(index) };
  };
}

/**
 * `needed` release keys of `root` approved the manifest with this digest, and that is still good at `now`;
 * returns them. SPEC §10.1
 * @throws FleetError E_APPROVAL_MISSING, E_APPROVAL_FORM, E_APPROVAL_SIGNATURE, E_APPROVAL_THRESHOLD,
 *   E_FLEET_MISMATCH, E_EPOCH, E_APPROVAL_EXPIRED, E_APPROVAL_PROOF.
 */
export function requireApproved(
  digest: string,
  proof: ApprovalProof | null,
  needed: number,
  root: Root,
  now: number,
): readonly PublicKey[] {
  if (proof === null) {
    const count = `${needed} release ${needed === 1 ? 'key' : 'keys'}`;
    throw new FleetError('E_APPROVAL_MISSING', `it wants the approval of ${count}, and has none`);
  }
  const envelope = parseEnvelope(proof.envelope);
  const signers = signersOf(envelope, needed, root);
  const approval = parseApproval(envelope);
  if (approval.fleet !== root.fleet) {
    throw new FleetError('E_FLEET_MISMATCH', `its approval is of fleet ${approval.fleet}`);
  }
  if (approval.epoch !== root.epoch) {
    throw new FleetError('E_EPOCH', `its approval is of epoch ${approval.epoch}`);
  }
  // Written so that a "now" that is no number is refused.
  if (!(now < approval.expiresAt)) {
    const at = formatTime(approval.expiresAt);
    throw new FleetError('E_APPROVAL_EXPIRED', `its approval was good until ${at}`);
  }
  const tree = { size: approval.count, root: Buffer.from(approval.root, 'hex') };
  const leafHash = hashLeaf(Buffer.from(digest, 'hex'));
  if (verifyInclusion({ index: proof.index, leafHash, ...tree, proof: proof.proof }))
    return signers;
  throw new FleetError('E_APPROVAL_PROOF', 'the approval that came with it is of other manifests');
}

function signersOf(envelope: Envelope, needed: number, root: Root): readonly PublicKey[] {
  const { keys } = root.roles.release;
  try {
    return requireSignatures(envelope, keys, needed, 'release');
  } catch (cause) {
    if (!isFleetError(cause)) throw cause;
    const few = cause.code === 'E_SIGNATURE_THRESHOLD' && envelope.signatures.length > 0;
    const code = few ? 'E_APPROVAL_THRESHOLD' : 'E_APPROVAL_SIGNATURE';
    throw new FleetError(code, `its approval is ${cause.message}`, { cause });
  }
}

function subjectsOf(batch: string): Subject[] {
  return [{ name: 'batch', sha256: batch }];
}

function sha256(text: string): string {
  return createHash('sha256').update(text).digest('hex');
}

function refuse(what: string): never {
  throw new FleetError('E_APPROVAL_FORM', `approval: ${what}`);
}
