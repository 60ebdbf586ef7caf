// An offer, under a trusted root → the manifest that a host may act upon, or the one reason why not (SPEC
// §5.1). Two halves, because what the first one finds must be kept before the second one looks: the
// log's checkpoint, then what it says of this host. Pure: no network, no clock, no files.
import { FleetError } from '../errors.ts';
import { parseCheckpoint } from '../tlog/checkpoint.ts';
import type { TreeHead } from '../tlog/merkle.ts';
import { parseNote } from '../tlog/note.ts';
import type { ApprovalProof } from './approval.ts';
import { parseEnvelope } from './dsse.ts';
import {
  anchorOf,
  requireEntry,
  requireFresh,
  requireGrowth,
  requireLogged,
  requireSnapshotRoot,
  type VerifiedCheckpoint,
  verifyCheckpoint,
  verifySnapshot,
} from './log-view.ts';
import { manifestDigest } from './manifest.ts';
import { type Offer, parseProof } from './offer.ts';
import { type Root, requireCurrentRoot } from './root.ts';
import { rootDigest, type SnapshotEntry } from './snapshot.ts';
import { type Expectation, type VerifiedManifest, verifyManifest } from './verify.ts';

/** The newest root that is trusted, and its envelope's text. */
export type TrustedRoot = { readonly root: Root; readonly envelope: string };

/**
 * Steps 2 to 5 of SPEC §5.1: the checkpoint is this log's, fresh at `now`, and goes on from what was seen.
 * `seen` is the text of the checkpoint that this host accepted last; one of another log is no measure.
 * @throws FleetError with the code of the first step that refuses.
 */
export function verifyOfferedLog(
  offer: Pick<Offer, 'checkpoint' | 'growth' | 'anchor'>,
  { root }: TrustedRoot,
  seen: string | null,
  now: number,
  /** Whether it may be older than the root's maxAge. */
  anyAge = false,
): VerifiedCheckpoint {
  requireCurrentRoot(root, now);
  const verified = verifyCheckpoint(offer.checkpoint, root);
  requireFresh(verified, root, now, anyAge);
  const before = seen === null ? null : headOf(seen);
  if (before !== null && before.origin === root.log.origin) {
    requireGrowth(before, verified, parseProof(offer.growth), 'was seen before');
  }
  requireGrowth(anchorOf(root), verified, parseProof(offer.anchor), 'is the root’s anchor');
  return verified;
}

/**
 * What steps 3 and 5 can say without a past and a present: an auditor's. How fresh it is, is for them to judge.
 * @throws FleetError with the code of the first step that refuses.
 */
export function verifyLogOffline(
  offer: Pick<Offer, 'checkpoint' | 'anchor'>,
  root: Root,
): VerifiedCheckpoint {
  const verified = verifyCheckpoint(offer.checkpoint, root);
  requireGrowth(anchorOf(root), verified, parseProof(offer.anchor), 'is the root’s anchor');
  return verified;
}

/**
 * Steps 6 to 8 of SPEC §5.1, and then those of the manifest.
 * @throws FleetError with the code of the first step that refuses.
 */
export function verifyOfferedManifest(
  offer: Pick<Offer, 'snapshot' | 'entry' | 'manifest' | 'logged' | 'approval'>,
  { root, envelope }: TrustedRoot,
  { checkpoint }: Pick<VerifiedCheckpoint, 'checkpoint'>,
  /** The host alone, for an auditor. */
  expect: Expectation | Pick<Expectation, 'host'>,
  now: number,
): VerifiedManifest {
  const { text } = offer.snapshot;
  const snapshot = verifySnapshot(checkpoint, { text, proof: parseProof(offer.snapshot.proof) });
  const sha256 = rootDigest(parseEnvelope(envelope).payload);
  requireSnapshotRoot(snapshot, { version: root.version, sha256 });
  const { index, proof, ...numbers } = offer.entry;
  const entry = { host: expect.host, ...numbers };
  requireEntry(snapshot, entry, { index, proof: parseProof(proof) });
  requireNamed(entry, manifestDigest(parseEnvelope(offer.manifest).payload));
  const logged = { index: offer.logged.index, proof: parseProof(offer.logged.proof) };
  requireLogged(checkpoint, offer.manifest, logged, 'the manifest');
  const approval = offer.approval === null ? null : approvalOf(checkpoint, offer.approval);
  const whole = 'system' in expect ? { expect } : {};
  const verified = verifyManifest({ envelope: offer.manifest, root, now, approval, ...whole });
  const { epoch, sequence } = verified.manifest;
  if (epoch === entry.epoch && sequence === entry.sequence) return verified;
  const named = `${entry.epoch}.${entry.sequence} and is ${epoch}.${sequence}`;
  throw new FleetError('E_SNAPSHOT_ENTRY', `the log's snapshot calls the manifest ${named}`);
}

/** Step 8 for the approval, which is an entry of its own. */
function approvalOf(
  checkpoint: VerifiedCheckpoint['checkpoint'],
  { envelope, index, proof, logged }: NonNullable<Offer['approval']>,
): ApprovalProof {
  const place = { index: logged.index, proof: parseProof(logged.proof) };
  requireLogged(checkpoint, envelope, place, 'its approval');
  return { envelope, index, proof: parseProof(proof) };
}

function requireNamed(entry: SnapshotEntry, digest: string): void {
  if (digest === entry.sha256) return;
  const newest = `the newest manifest of ${entry.host} is ${entry.epoch}.${entry.sequence}`;
  throw new FleetError('E_MANIFEST_WITHHELD', `${newest}, and the server shows another`);
}

/** The tree of a checkpoint's text that was verified before. */
export function headOf(text: string): TreeHead & { readonly origin: string } {
  return parseCheckpoint(parseNote(text).text);
}
