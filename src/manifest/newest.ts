// What shows that a logged manifest was its host's newest when a checkpoint was made ↔ the `extra` data of its
// `.tlog-proof` (SPEC §9.6): the snapshot that the log ends in, and the host's place in it. Nobody vouches for extra data;
// here every part leads to the checkpoint, or is refused. Other programs' extra data is none of ours: null.
import type { Static } from 'typebox';
import * as Type from 'typebox';
import type { Checkpoint } from '../tlog/checkpoint.ts';
import { Count, Exact } from './fields.ts';
import { canonicalBytes, parseCanonical } from './jcs.ts';
import { requireEntry, requireSnapshotRoot, verifySnapshot } from './log-view.ts';
import { parseProof } from './offer.ts';
import { type Frozen, requireShape } from './shape.ts';
import type { SnapshotEntry } from './snapshot.ts';

const Proof = Type.Array(Type.String({ pattern: '^[A-Za-z0-9+/]{43}=$' }), { maxItems: 53 });
const NewestSchema = Exact({
  entry: Exact({ index: Count, proof: Proof }),
  snapshot: Exact({ text: Type.String({ maxLength: 512 }), proof: Proof }),
});

export type Newest = Frozen<Static<typeof NewestSchema>>;

const BEGINNING = '{"entry":';

export function formatNewest(newest: Newest): Uint8Array {
  return canonicalBytes(newest);
}

/** @throws FleetError E_LOG_PROOF, E_PAYLOAD_FORM. */
export function parseNewest(extra: Uint8Array): Newest | null {
  if (!Buffer.from(extra).toString('latin1').startsWith(BEGINNING)) return null;
  return requireShape(NewestSchema, parseCanonical(extra), 'E_LOG_PROOF', 'its extra data');
}

/**
 * The host's entry in the snapshot that the checkpoint ends in is this one, and the snapshot names this root.
 * @throws FleetError E_SNAPSHOT_FORM, E_SNAPSHOT_PROOF, E_SNAPSHOT_ENTRY, E_ROOT_WITHHELD, E_ROOT_VERSION, E_ROOT_CHAIN.
 */
export function requireNewest(
  { entry, snapshot }: Newest,
  newest: SnapshotEntry,
  checkpoint: Checkpoint,
  root: { readonly version: number; readonly sha256: string },
): void {
  const proof = { text: snapshot.text, proof: parseProof(snapshot.proof) };
  const said = verifySnapshot(checkpoint, proof);
  requireSnapshotRoot(said, root);
  requireEntry(said, newest, { index: entry.index, proof: parseProof(entry.proof) });
}
