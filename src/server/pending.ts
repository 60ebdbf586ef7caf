// What was signed and waits (fleet build --no-publish, or a group that wants approvals) → a proposal for those
// who hold release keys, and with their approvals a publication. Each host by itself: one whose approval is
// missing, or that was overtaken by another publication, stops no other.
import { buffer } from 'node:stream/consumers';
import { FleetError, isFleetError } from '../errors.ts';
import { appendEntries, type NewApproval, type NewEntry } from '../manifest/append.ts';
import {
  type ApprovalFile,
  type ApprovalProof,
  approvalProver,
  openApproval,
  requireApproved,
} from '../manifest/approval.ts';
import { parseEnvelope } from '../manifest/dsse.ts';
import { parseManifest } from '../manifest/manifest.ts';
import { type ProposalPart, proposalFiles } from '../manifest/proposal.ts';
import { approvalThreshold, type Root } from '../manifest/root.ts';
import { Servable } from '../manifest/servable.ts';
import { formatTime } from '../manifest/time.ts';
import { type Blobs, parseBlobId } from '../storage/blobs.ts';
import type { LeaseHolder, PublishedManifest } from '../storage/state.ts';
import { beginPublication } from './publication.ts';
import type { StateDir } from './statedir.ts';

export type PublishRequest = {
  readonly approvals: readonly ApprovalFile[];
  /** POSIX seconds. */
  readonly now: number;
  readonly onWait?: (holder: LeaseHolder | null) => void;
};

/** What became of a manifest that waited. */
export type Published = {
  readonly manifest: PublishedManifest;
  /** Why it still waits; null: it is published. */
  readonly error: FleetError | null;
};

/** Publishes what may be, in one publication. @throws FleetError for what concerns all of it. */
export async function publishPending(dir: StateDir, request: PublishRequest): Promise<Published[]> {
  const { approvals, now } = request;
  const provers = approvals.map((file) => {
    openApproval(file);
    return { file, prove: approvalProver(file) };
  });
  await using begun = await beginPublication(dir, request);
  const { log, fence } = begun;
  const servable = new Servable(dir);
  const used = new Map<ApprovalFile, NewApproval>();
  const results: Published[] = [];
  const entries: NewEntry[] = [];
  const held = new Set(await dir.state.heldHosts());
  for (const manifest of await dir.state.pendingManifests()) {
    try {
      if (held.has(manifest.host)) {
        throw new FleetError('E_HOST_HELD', `${manifest.host} is held by the admin`);
      }
      const file = await requirePublishable(dir, manifest, provers, servable, now);
      if (file === null) entries.push({ manifest });
      else {
        const approval = used.get(file) ?? approvalEntry(file);
        used.set(file, approval);
        entries.push({ manifest, approval });
      }
      results.push({ manifest, error: null });
    } catch (error) {
      if (!isFleetError(error)) throw error;
      results.push({ manifest, error });
    }
  }
  if (entries.length > 0) {
    const dropped = await servable.dropped();
    const publication = { fence, now, dropped };
    await appendEntries(log, [...used.values(), ...entries], publication);
  }
  return results;
}

/** An approval, and the place in it of each manifest that it is about. */
type ProvenApproval = {
  readonly file: ApprovalFile;
  readonly prove: (digest: string) => ApprovalProof | null;
};

function approvalEntry({ envelope, batch }: ApprovalFile): NewApproval {
  return { kind: 'approval', data: Buffer.from(envelope), batch };
}

/** The approval that it needs, or null where it needs none. @throws FleetError saying why it must wait. */
async function requirePublishable(
  dir: StateDir,
  pending: PublishedManifest,
  approvals: readonly ProvenApproval[],
  servable: Servable,
  now: number,
): Promise<ApprovalFile | null> {
  const current = await dir.state.currentManifest(pending.host);
  const stale = staleness(pending, current, dir.root, now);
  if (stale !== null) {
    throw new FleetError('E_PROPOSAL_STALE', `what waits for ${pending.host} ${stale}`);
  }
  const approval = chooseApproval(pending, approvals, dir.root, now);
  const { closure, closureBytes } = pending;
  // One that ends the host has none.
  if (closure !== null) await servable.require(pending.host, { id: closure, size: closureBytes });
  return approval;
}

/**
 * What happened since `pending` was signed that hosts, or the log's readers, would stumble over; null: nothing.
 * `current`: the newest manifest of its host.
 */
export function staleness(
  pending: PublishedManifest,
  current: PublishedManifest | null,
  root: Pick<Root, 'version'>,
  now: number,
): string | null {
  const { previous, fleet } = parseManifest(parseEnvelope(pending.envelope).payload);
  if ((previous?.sha256 ?? null) !== (current?.digest ?? null)) {
    return 'follows another manifest than the newest';
  }
  if (fleet.rootVersion !== root.version) {
    return `was signed under root version ${fleet.rootVersion}`;
  }
  return now < pending.expiresAt ? null : `expired at ${formatTime(pending.expiresAt)}`;
}

function chooseApproval(
  { host, digest }: PublishedManifest,
  approvals: readonly ProvenApproval[],
  root: Root,
  now: number,
): ApprovalFile | null {
  const needed = approvalThreshold(root, host);
  if (needed === 0) return null;
  let refusal: unknown = null;
  for (const { file, prove } of approvals) {
    const proof = prove(digest);
    if (proof === null) continue;
    try {
      requireApproved(digest, proof, needed, root, now);
      return file;
    } catch (error) {
      refusal = error;
    }
  }
  if (refusal !== null) throw refusal;
  requireApproved(digest, null, needed, root, now);
  return null;
}

/** What `fleet publish --proposal` writes. @throws FleetError E_PROPOSAL_FORM when nothing waits. */
export async function proposalOf(dir: StateDir) {
  const { state, blobs, roots } = dir;
  const parts: ProposalPart[] = [];
  for (const { host, envelope } of await state.pendingManifests()) {
    const current = await state.currentManifest(host);
    parts.push({ host, manifest: envelope, before: current?.envelope ?? null });
  }
  if (parts.length === 0) {
    throw new FleetError('E_PROPOSAL_FORM', 'nothing waits to be published', {
      hint: 'fleet build --no-publish leaves what it builds waiting',
    });
  }
  const files = proposalFiles(
    roots.map(({ envelope }) => envelope),
    parts,
    (sha256) => closureBytes(blobs, sha256),
  );
  return { hosts: parts.map(({ host }) => host), files };
}

async function closureBytes(blobs: Blobs, sha256: string): Promise<Uint8Array | null> {
  const id = parseBlobId(sha256);
  const stream = id === null ? null : await blobs.get(id);
  return stream === null ? null : await buffer(stream);
}
