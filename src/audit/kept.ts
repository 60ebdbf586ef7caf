// What an auditor keeps of an audit ↔ a file, so that the next one reads only what is new (SPEC §11.3). Bound to the
// checkpoint it ends with as far as that says anything: the roots follow from the auditor's own, the newest one's log
// signed the checkpoint, the edge is its tree, the snapshot its last entry, and the hosts are the snapshot's. The rest
// is the auditor's own word, guarded against damage by a hash. Refuses what does not fit together: E_AUDIT_STATE.
import { createHash } from 'node:crypto';
import type { Static } from 'typebox';
import * as Type from 'typebox';
import { decodeBase64, encodeBase64 } from '../base64.ts';
import { FleetError, messageOf } from '../errors.ts';
import {
  Count,
  Exact,
  HostId,
  Nullable,
  Ordinal,
  PublicKeyText,
  Sha256,
  StorePathText,
} from '../manifest/fields.ts';
import { canonicalize, parseCanonical } from '../manifest/jcs.ts';
import { requireSnapshotRoot, verifyCheckpoint, verifySnapshot } from '../manifest/log-view.ts';
import { requireShape } from '../manifest/shape.ts';
import { equalHashes, hashRange, subtreesOf } from '../tlog/merkle.ts';
import { Hosts } from './hosts.ts';
import type { Before } from './replay.ts';
import { RootChain } from './root-chain.ts';

export type Kept = {
  /** The signed note that the audit ended with. */
  readonly checkpoint: string;
  /** SHA-256 of the payload of the auditor's own root, and the envelopes of those that followed it. */
  readonly trusted: string;
  readonly roots: readonly string[];
  readonly before: Before;
};

const HEADER = 'fleet-audit/v1';
const Hashes = Type.Array(Type.String({ pattern: '^[A-Za-z0-9+/]{43}=$' }), { maxItems: 53 });
const Place = { index: Count };
const Intent = Type.Enum(['deploy', 'rollback', 'decommission']);

const KeptSchema = Exact({
  trusted: Sha256,
  roots: Type.Array(Type.String()),
  checkpoint: Type.String(),
  edge: Hashes,
  snapshot: Exact({ text: Type.String(), proof: Hashes }),
  hosts: Type.Array(
    Exact({
      host: HostId,
      last: Nullable(
        Exact({
          ...Place,
          epoch: Ordinal,
          sequence: Ordinal,
          digest: Sha256,
          intent: Intent,
          toplevel: Nullable(StorePathText),
          issuedAt: Count,
          approvals: Count,
          emergency: Type.Boolean(),
        }),
      ),
      lastKey: Nullable(Exact({ ...Place, key: PublicKeyText })),
    }),
  ),
  approvals: Type.Array(
    Exact({
      signers: Type.Array(PublicKeyText),
      expiresAt: Count,
      epoch: Ordinal,
      digests: Type.Array(Sha256),
    }),
  ),
  signers: Type.Array(Exact({ key: PublicKeyText, last: Count })),
  floors: Type.Array(
    Exact({ host: HostId, epoch: Ordinal, sequence: Ordinal, digest: Sha256, intent: Intent }),
  ),
});

/** What an audit ended with. `checkpoint`: as it was read. */
export function keptOf(checkpoint: string, chain: RootChain, before: Before): Kept {
  return { checkpoint, trusted: chain.trustedDigest, roots: chain.later, before };
}

/** The file's text. */
export function formatKept({ checkpoint, trusted, roots, before }: Kept): string {
  const { edge, snapshot, hosts, approvals, signers, floors } = before;
  const wire: Static<typeof KeptSchema> = {
    ...{ trusted, checkpoint, roots: [...roots] },
    edge: edge.hashes.map(encodeBase64),
    snapshot: {
      text: snapshot?.text ?? '',
      proof: (snapshot?.proof ?? []).map(encodeBase64),
    },
    hosts: hosts.map((one) => ({ ...one })) as Static<typeof KeptSchema>['hosts'],
    approvals: approvals.map(({ signers: by, digests, ...rest }) => {
      return { ...rest, signers: [...by], digests: [...digests] };
    }),
    signers: signers.map((one) => ({ ...one })),
    floors: floors.map((one) => ({ ...one })),
  };
  const body = `${canonicalize(wire)}\n`;
  return `${HEADER}\n${sha256(body)}\n${body}`;
}

/** True for a text that says it is one; a checkpoint does not. */
export function isKept(text: string): boolean {
  return text.startsWith(`${HEADER}\n`);
}

/** `root`: the text of the root that the auditor trusts. @throws FleetError E_AUDIT_STATE. */
export function parseKept(text: string, root: string): Kept {
  try {
    return open(text, root);
  } catch (cause) {
    throw new FleetError('E_AUDIT_STATE', `what was kept of an audit: ${messageOf(cause)}`, {
      cause,
    });
  }
}

function open(text: string, root: string): Kept {
  const [header, hash, ...rest] = text.split('\n');
  const body = rest.join('\n');
  if (header !== HEADER || hash !== sha256(body) || !body.endsWith('\n')) {
    throw new Error('it is damaged, or not of this version');
  }
  const bytes = Buffer.from(body.slice(0, -1));
  const wire = requireShape(KeptSchema, parseCanonical(bytes), 'E_AUDIT_STATE', 'it');
  const chain = new RootChain(root);
  if (wire.trusted !== chain.trustedDigest) throw new Error('it is of another root than --root');
  chain.resume(wire.roots);
  const { checkpoint } = verifyCheckpoint(wire.checkpoint, chain.root);
  const edge = { size: checkpoint.size, hashes: wire.edge.map(hashOf) };
  const isWhole = edge.hashes.length === subtreesOf(0, edge.size).length;
  if (!isWhole || !equalHashes(hashRange(edge.hashes), checkpoint.root)) {
    throw new Error('its tree is not that of its checkpoint');
  }
  const proof = { text: wire.snapshot.text, proof: wire.snapshot.proof.map(hashOf) };
  const snapshot = verifySnapshot(checkpoint, proof);
  requireSnapshotRoot(snapshot, { version: chain.root.version, sha256: chain.digest });
  const told = new Hosts(wire.hosts).snapshot();
  if (told.hosts !== snapshot.hosts || !equalHashes(told.root, snapshot.root)) {
    throw new Error('its hosts are not those of its snapshot');
  }
  const { hosts, approvals, signers, floors, roots, trusted } = wire;
  const before = { edge, snapshot: proof, hosts, approvals, signers, floors };
  return { checkpoint: wire.checkpoint, trusted, roots, before };
}

function hashOf(text: string): Uint8Array {
  return decodeBase64(text) ?? new Uint8Array();
}

function sha256(text: string): string {
  return createHash('sha256').update(text).digest('hex');
}
