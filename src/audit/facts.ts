// Entries of a log → what each one says and which of the fleet's keys signed it. The costly half of an audit, and
// the half that needs no memory of what came before: it runs in threads (facts-pool.ts). Whether it should
// have been said there, replay.ts decides. Nothing here is refused: what cannot be read is a fact too.
import { type Verifier, verifierOf } from '../ed25519.ts';
import { type ErrorCode, isFleetError, messageOf } from '../errors.ts';
import { type PublicKey, publicKeyBytes } from '../keyfile.ts';
import { APPROVAL_PREDICATE_TYPE, type Approval, parseApproval } from '../manifest/approval.ts';
import { parseEnvelope, verifiedBy } from '../manifest/dsse.ts';
import { ENROLMENT_PREDICATE_TYPE, type Enrolment, parseEnrolment } from '../manifest/enrolment.ts';
import { type Manifest, manifestDigest, parseManifest } from '../manifest/manifest.ts';
import { ROOT_PAYLOAD_TYPE } from '../manifest/root.ts';
import { isSnapshotLeaf } from '../manifest/snapshot.ts';
import { HASH_BYTES, hashLeaf } from '../tlog/merkle.ts';

/** What a manifest says, as far as an audit asks. Times are POSIX seconds. */
export type ManifestFact = Pick<
  Manifest,
  'host' | 'fleet' | 'epoch' | 'sequence' | 'previous' | 'intent' | 'emergency'
> & {
  readonly digest: string;
  readonly toplevel: string | null;
  readonly issuedAt: number;
  readonly expiresAt: number;
};

export type Fact =
  | { readonly kind: 'root'; readonly text: string }
  | { readonly kind: 'snapshot'; readonly text: string }
  | { readonly kind: 'manifest'; readonly says: ManifestFact; readonly signers: PublicKey[] }
  | { readonly kind: 'approval'; readonly says: Approval; readonly signers: PublicKey[] }
  | { readonly kind: 'enrolment'; readonly says: Enrolment; readonly signers: PublicKey[] }
  | { readonly kind: 'unknown'; readonly code: ErrorCode; readonly message: string };

/** What entries say, and the hashes of their leaves, one after another: they are many, and packed cost least. */
export type Facts = { readonly facts: readonly Fact[]; readonly leafHashes: Uint8Array };

/** The keys of the root that was in force. */
export type KeysInForce = {
  readonly director: readonly PublicKey[];
  readonly release: readonly PublicKey[];
};

/** True for an entry that may be a root; cheap, and never false for one. */
export function mayBeRoot(data: Uint8Array): boolean {
  return Buffer.from(data.buffer, data.byteOffset, data.length).includes(ROOT_PAYLOAD_TYPE);
}

/** How many keys are kept prepared: a fleet's roots name few, and each takes 3 MB. */
const PREPARED = 16;
const prepared = new Map<PublicKey, Verifier>();

function verifier(key: PublicKey): Verifier {
  const known = prepared.get(key);
  if (known !== undefined) return known;
  if (prepared.size >= PREPARED) prepared.clear();
  const made = verifierOf(publicKeyBytes(key));
  prepared.set(key, made);
  return made;
}

export function factsOf(entries: readonly Uint8Array[], keys: KeysInForce): Facts {
  const leafHashes = new Uint8Array(entries.length * HASH_BYTES);
  const facts = entries.map((data, i) => {
    leafHashes.set(hashLeaf(data), i * HASH_BYTES);
    return factOf(data, keys);
  });
  return { facts, leafHashes };
}

function factOf(data: Uint8Array, keys: KeysInForce): Fact {
  try {
    const text = new TextDecoder('utf-8', { fatal: true }).decode(data);
    if (isSnapshotLeaf(data)) return { kind: 'snapshot', text };
    const envelope = parseEnvelope(text);
    const { payloadType, payload } = envelope;
    if (payloadType === ROOT_PAYLOAD_TYPE) return { kind: 'root', text };
    const by = (role: readonly PublicKey[]) => verifiedBy(envelope, role, verifier);
    const name = Buffer.from(payload.buffer, payload.byteOffset, payload.length);
    if (name.includes(`"predicateType":"${APPROVAL_PREDICATE_TYPE}"`)) {
      return { kind: 'approval', says: parseApproval(envelope), signers: by(keys.release) };
    }
    if (name.includes(`"predicateType":"${ENROLMENT_PREDICATE_TYPE}"`)) {
      return { kind: 'enrolment', says: parseEnrolment(payload), signers: by(keys.director) };
    }
    const manifest = parseManifest(payload);
    const { host, fleet, epoch, sequence, previous, intent, emergency } = manifest;
    const { issuedAt, expiresAt } = manifest;
    const says: ManifestFact = {
      ...{ host, fleet, epoch, sequence, previous, intent, emergency, issuedAt, expiresAt },
      digest: manifestDigest(payload),
      toplevel: manifest.intent === 'decommission' ? null : manifest.toplevel,
    };
    return { kind: 'manifest', says, signers: by(keys.director) };
  } catch (error) {
    const code = isFleetError(error) ? error.code : 'E_ENVELOPE';
    return { kind: 'unknown', code, message: messageOf(error) };
  }
}
