// A host's newest manifest and the log it is in → the offer that proves it (SPEC §8). Its ETag leaves out the
// checkpoint's signatures: that time went by is no news.
import { createHash } from 'node:crypto';
import {
  AGENT_VERSION,
  formatOffer,
  formatProof,
  MAX_OFFER_ROOTS,
  OFFER_VERSION,
  type Offer,
} from '../manifest/offer.ts';
import { proveConsistency, proveInclusion } from '../tlog/prove.ts';
import type { PublishedLog } from './published.ts';
import type { StateDir } from './statedir.ts';

/** What the host has: the version of its root, and the size of the log it saw last (0 for none). */
export type Known = { readonly root: number; readonly from: number };

/** null: nothing was published for `host` yet. */
export async function makeOffer(
  { state }: Pick<StateDir, 'state'>,
  published: PublishedLog,
  host: string,
  known: Known,
): Promise<{ readonly text: string; readonly etag: string } | null> {
  const view = await published.view();
  const place = view?.places.get(host);
  if (view === null || place === undefined) return null;
  const { size } = view.checkpoint;
  const manifest = await state.loggedManifest(host, view.log, size);
  if (manifest === null) return null;
  const { log, tile, root, roots } = view;
  const { logIndex, approvedBy, digest } = manifest;
  const offer: Offer = {
    offerVersion: OFFER_VERSION,
    minAgent: AGENT_VERSION,
    roots: roots.slice(known.root, known.root + MAX_OFFER_ROOTS).map(({ envelope }) => envelope),
    checkpoint: view.text,
    growth: formatProof(await proveConsistency(tile, known.from, size)),
    anchor: formatProof(await proveConsistency(tile, root.log.anchor.size, size)),
    snapshot: { text: view.snapshot.text, proof: formatProof(view.snapshot.proof) },
    entry: {
      index: place,
      epoch: manifest.epoch,
      sequence: manifest.sequence,
      sha256: digest,
      proof: formatProof(view.hosts.inclusion(place)),
    },
    manifest: manifest.envelope,
    logged: { index: logIndex, proof: formatProof(await proveInclusion(tile, logIndex, size)) },
    approval: approvedBy === null ? null : await offerApproval(approvedBy, digest),
    closure:
      manifest.closure === null ? null : { sha256: manifest.closure, bytes: manifest.closureBytes },
  };
  async function offerApproval(index: number, digest: string): Promise<Offer['approval']> {
    const proof = await published.approvals.prove(log, index, digest);
    const logged = { index, proof: formatProof(await proveInclusion(tile, index, size)) };
    return {
      envelope: proof.envelope,
      index: proof.index,
      proof: formatProof(proof.proof),
      logged,
    };
  }

  // Nor is the way there, to who is there: who got this answer has seen a log of this size.
  const lasting = JSON.stringify({ ...offer, checkpoint: String(size), growth: [] });
  const etag = `"${createHash('sha256').update(lasting).digest('hex')}"`;
  return { text: formatOffer(offer), etag };
}
