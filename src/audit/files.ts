// Files that an auditor has → what each of them is worth under the auditor's own root: verified together, because one
// is the proof of another (SPEC §11.4). Roots first, then what proves (checkpoints, log proofs, approvals, enrolments),
// then what is proved. Pure: the caller reads "now" once. A file that is refused takes no other with it, but what
// stood on it.
import { createHash } from 'node:crypto';
import { FleetError } from '../errors.ts';
import type { PublicKey } from '../keyfile.ts';
import {
  type ApprovalFile,
  isBatchOf,
  parseApproval,
  proveApproval,
} from '../manifest/approval.ts';
import { parseApprovalFile } from '../manifest/approval-file.ts';
import { parseEnvelope, requireSignatures } from '../manifest/dsse.ts';
import { parseEnrolment } from '../manifest/enrolment.ts';
import { verifyCheckpoint } from '../manifest/log-view.ts';
import { parseManifest } from '../manifest/manifest.ts';
import { parseOffer } from '../manifest/offer.ts';
import { requireCurrentRoot } from '../manifest/root.ts';
import { formatTime } from '../manifest/time.ts';
import { type VerifiedManifest, verifyClosure, verifyManifest } from '../manifest/verify.ts';
import {
  type TrustedRoot,
  verifyLogOffline,
  verifyOfferedManifest,
} from '../manifest/verify-offer.ts';
import { judgeHostKey, judgeReceipt, judgeReceipts } from './file-receipts.ts';
import { judgeRoots } from './file-roots.ts';
import {
  type Input,
  type JudgedManifest,
  known,
  type Says,
  type Verdict,
} from './file-verdicts.ts';
import { kindOf } from './kinds.ts';
import { LogProofs } from './log-proofs.ts';

export type Judged = { readonly trusted: TrustedRoot; readonly verdicts: readonly Verdict[] };

/** `host`: manifests of others are refused. @throws FleetError E_ROOT_EXPIRED, when the newest root has. */
export function judgeFiles(
  given: readonly { readonly file: string; readonly bytes: Buffer }[],
  trusted: TrustedRoot,
  now: number,
  host: string | undefined,
): Judged {
  const inputs: Input[] = given.map((one) => ({ ...one, kind: kindOf(one.bytes) }));
  const verdicts = new Map<Input, Verdict>();
  const judge = (input: Input, says: () => Says): void => {
    const { file, kind } = input;
    try {
      verdicts.set(input, { file, kind, says: says() });
    } catch (error) {
      verdicts.set(input, { file, kind, error: known(error) });
    }
  };
  const all = (kind: Input['kind']) => inputs.filter((input) => input.kind === kind);

  const newest = judgeRoots(all('root'), trusted, judge);
  const { root } = newest;
  requireCurrentRoot(root, now);
  for (const input of all('checkpoint')) {
    judge(input, () => {
      const { checkpoint, freshAt } = verifyCheckpoint(input.bytes.toString('utf8'), root);
      return { kind: 'checkpoint', log: { ...checkpoint, freshAt } };
    });
  }
  const proofs = new LogProofs(all('proof'), newest);

  const batches = all('batch').map((input) => ({ input, digests: linesOf(input.bytes) }));
  const approvals: ApprovalFile[] = [];
  for (const input of all('approval')) {
    judge(input, () => {
      const file = approvalOf(input.bytes);
      const envelope = parseEnvelope(file.envelope);
      const { keys, threshold } = root.roles.release;
      const signers = requireSignatures(envelope, keys, 1, 'release');
      const approval = parseApproval(envelope);
      requireFleet(approval.fleet, root.fleet, 'the approval');
      const log = proofs.take(input, file.envelope);
      if (!(now < approval.expiresAt)) {
        const at = formatTime(approval.expiresAt);
        throw new FleetError('E_APPROVAL_EXPIRED', `the approval was good until ${at}`);
      }
      const batch =
        file.batch ?? batches.find(({ digests }) => isBatchOf(approval, digests))?.digests ?? null;
      if (batch !== null) approvals.push({ envelope: file.envelope, batch });
      const signed = { signers, of: keys.length, needed: threshold };
      return { kind: 'approval', approval, signed, hasBatch: batch !== null, log };
    });
  }
  for (const { input, digests } of batches) {
    judge(input, () => {
      const sha256 = createHash('sha256').update(input.bytes).digest('hex');
      const isApproved = approvals.some(
        ({ envelope }) => parseApproval(parseEnvelope(envelope)).batch === sha256,
      );
      if (isApproved) return { kind: 'batch', count: digests.length };
      throw new FleetError('E_APPROVAL_FORM', 'no verified approval here is about this batch', {
        hint: 'give the approval of this batch in the same command',
      });
    });
  }
  const keysOf = new Map<string, PublicKey[]>();
  for (const input of all('enrolment')) {
    judge(input, () => {
      const envelope = parseEnvelope(input.bytes);
      const { keys } = root.roles.director;
      const signers = requireSignatures(envelope, keys, 1, 'director');
      const enrolment = parseEnrolment(envelope.payload);
      requireFleet(enrolment.fleet, root.fleet, 'the enrolment');
      const log = proofs.take(input, input.bytes);
      keysOf.set(enrolment.host, [...(keysOf.get(enrolment.host) ?? []), enrolment.publicKey]);
      return {
        kind: 'enrolment',
        enrolment,
        signed: { signers, of: keys.length, needed: 1 },
        log,
      };
    });
  }

  const of = root.roles.director.keys.length;
  const verified: JudgedManifest[] = [];
  const keep = (one: JudgedManifest): JudgedManifest => {
    requireHost(one, host);
    requireSingle(one, verified);
    verified.push(one);
    return one;
  };
  for (const input of all('manifest')) {
    judge(input, () => {
      const approval = approvalFor(input.bytes, approvals);
      const one = verifyManifest({ envelope: input.bytes, root, now, approval });
      const log = proofs.take(input, input.bytes, one);
      return { kind: 'manifest', manifest: keep({ ...one, of, log }) };
    });
  }
  for (const input of all('offer')) {
    judge(input, () => ({
      kind: 'manifest',
      manifest: keep(offered(input.bytes, newest, now)),
    }));
  }
  for (const input of all('closure')) {
    judge(input, () => {
      const manifest = ownerOf(input.bytes, verified);
      return { kind: 'closure', manifest };
    });
  }
  for (const input of all('receipt')) {
    judge(input, () => judgeReceipt(input.bytes, keysOf, root.fleet, verified));
  }
  for (const input of all('receipts')) {
    judge(input, () => judgeReceipts(input.bytes, keysOf, root.fleet));
  }
  for (const input of all('host-key')) judge(input, () => judgeHostKey(input.bytes, keysOf));
  proofs.judge(judge);
  return {
    trusted: newest,
    verdicts: inputs.flatMap((input) => verdicts.get(input) ?? []),
  };
}

/** An approval's file, or its envelope alone. */
function approvalOf(bytes: Buffer): {
  readonly envelope: string;
  readonly batch: readonly string[] | null;
} {
  const text = bytes.toString('utf8');
  const isEnvelope = bytes.includes('"payloadType":');
  return isEnvelope ? { envelope: text, batch: null } : parseApprovalFile(text);
}

/** The place of a manifest in one of the approvals that are here; what is no envelope has none. */
function approvalFor(bytes: Buffer, approvals: readonly ApprovalFile[]) {
  try {
    const { payload } = parseEnvelope(bytes);
    const digest = createHash('sha256').update(payload).digest('hex');
    const found = approvals.map((one) => proveApproval(one, digest));
    return found.find((one) => one !== null) ?? null;
  } catch {
    return null;
  }
}

/** An offer brings the proof that it was the newest. */
function offered(bytes: Buffer, trusted: TrustedRoot, now: number): JudgedManifest {
  const offer = parseOffer(bytes);
  const { checkpoint, freshAt } = verifyLogOffline(offer, trusted.root);
  const { host } = parseManifest(parseEnvelope(offer.manifest).payload);
  const one = verifyOfferedManifest(offer, trusted, { checkpoint }, { host: host.id }, now);
  const { origin, size } = checkpoint;
  const log = { origin, size, index: offer.logged.index, freshAt, isNewest: true };
  return { ...one, of: trusted.root.roles.director.keys.length, log };
}

function requireFleet(fleet: string, own: string, what: string): void {
  if (fleet !== own) throw new FleetError('E_FLEET_MISMATCH', `${what} is of fleet ${fleet}`);
}

function requireHost({ manifest }: VerifiedManifest, host: string | undefined): void {
  const { id } = manifest.host;
  if (host === undefined || id === host) return;
  throw new FleetError('E_HOST_MISMATCH', `the manifest is for ${id}, not for ${host}`);
}

/** Two manifests of one number, both signed, are the proof of a director that cheats. */
function requireSingle(
  { manifest, digest }: VerifiedManifest,
  found: readonly JudgedManifest[],
): void {
  const nameOf = ({ host, epoch, sequence }: VerifiedManifest['manifest']) =>
    `${host.id}, epoch ${epoch}, sequence ${sequence}`;
  const name = nameOf(manifest);
  const other = found.find((one) => nameOf(one.manifest) === name);
  if (other === undefined || other.digest === digest) return;
  const says = `another manifest here is ${name} as well, ${other.digest}`;
  throw new FleetError('E_SEQUENCE_CONFLICT', says);
}

/** The verified manifest that signs this closure file, which must also be well formed and whole. */
function ownerOf(bytes: Buffer, manifests: readonly JudgedManifest[]): JudgedManifest {
  const sha256 = createHash('sha256').update(bytes).digest('hex');
  for (const verified of manifests) {
    const { manifest } = verified;
    if (manifest.intent === 'decommission' || manifest.closure.sha256 !== sha256) continue;
    return { ...verified, closure: verifyClosure(manifest, bytes) };
  }
  throw new FleetError('E_CLOSURE_HASH', `no verified manifest here names a closure ${sha256}`, {
    hint: 'give the manifest of this closure in the same command',
  });
}

function linesOf(bytes: Buffer): string[] {
  return bytes.toString('utf8').split('\n').slice(0, -1);
}
