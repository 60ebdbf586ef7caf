// A host's published manifest → its `.tlog-proof` (SPEC §9.6), whose extra data shows that it is the newest of its host;
// and the approval that it needed, with a proof of its own.
import { formatApprovalFile } from '../manifest/approval-file.ts';
import { formatNewest } from '../manifest/newest.ts';
import { formatProof } from '../manifest/offer.ts';
import type { PublishedManifest } from '../storage/state.ts';
import { formatLogProof } from '../tlog/proof.ts';
import { proveInclusion } from '../tlog/prove.ts';
import { PublishedLog } from './published.ts';
import type { StateDir } from './statedir.ts';

type View = NonNullable<Awaited<ReturnType<PublishedLog['view']>>>;

async function proofOf(view: View, index: number, extra: Uint8Array | null): Promise<string> {
  const hashes = await proveInclusion(view.tile, index, view.checkpoint.size);
  return formatLogProof({ extra, index, hashes, checkpoint: view.text });
}

/** What was published last, and the `.tlog-proof` of any of its entries; null where there is no log yet. */
export async function openProver(dir: StateDir) {
  const view = await new PublishedLog(dir).view();
  if (view === null) return null;
  const { log, checkpoint } = view;
  return { log, size: checkpoint.size, prove: (index: number) => proofOf(view, index, null) };
}

export type LogProofs = {
  readonly manifest: string;
  /** As a file, and its proof; null where none was needed. */
  readonly approval: { readonly file: string; readonly proof: string } | null;
};

/** null: this manifest is not in the log that is published now. @throws FleetError E_LOG_DAMAGED, E_TILE. */
export async function proveLogged(
  dir: StateDir,
  { host, digest }: Pick<PublishedManifest, 'host' | 'digest'>,
): Promise<LogProofs | null> {
  const view = await new PublishedLog(dir).view();
  const place = view?.places.get(host);
  if (view === null || place === undefined) return null;
  const { size } = view.checkpoint;
  const logged = await dir.state.loggedManifest(host, view.log, size);
  if (logged?.digest !== digest) return null;
  const newest = formatNewest({
    entry: { index: place, proof: formatProof(view.hosts.inclusion(place)) },
    snapshot: { text: view.snapshot.text, proof: formatProof(view.snapshot.proof) },
  });
  const prove = (index: number, extra: Uint8Array | null) => proofOf(view, index, extra);
  const { approvedBy, logIndex } = logged;
  const [approval = null] =
    approvedBy === null ? [] : await dir.state.approvals(view.log, approvedBy, approvedBy + 1);
  return {
    manifest: await prove(logIndex, newest),
    approval:
      approval === null
        ? null
        : { file: formatApprovalFile(approval), proof: await prove(approval.logIndex, null) },
  };
}
