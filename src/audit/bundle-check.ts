// A bundle of a log → the short verdict: it is whole, its roots follow from the auditor's own, and its entries are just
// those that its log signed. What they say is not looked at: that is what an audit is for (audit.ts).
import { FleetError } from '../errors.ts';
import { requireSnapshotRoot, verifyCheckpoint } from '../manifest/log-view.ts';
import type { Root } from '../manifest/root.ts';
import { parseSnapshot } from '../manifest/snapshot.ts';
import { type Checkpoint, parseCheckpoint } from '../tlog/checkpoint.ts';
import { GrowingTree } from '../tlog/growing-tree.ts';
import { equalHashes, hashLeaf } from '../tlog/merkle.ts';
import { parseNote } from '../tlog/note.ts';
import { parseBundle, TILE_WIDTH, widthOfTile } from '../tlog/tile.ts';
import type { LogSource } from './audit.ts';
import { mayBeRoot } from './facts.ts';
import { RootChain } from './root-chain.ts';

export type CheckedBundle = {
  readonly checkpoint: Checkpoint;
  readonly freshAt: number | null;
  readonly root: Root;
  readonly receipts: number;
};

/** @throws FleetError with the code of the first thing that is wrong. */
export async function checkBundle(source: LogSource, root: string): Promise<CheckedBundle> {
  const { size } = parseCheckpoint(parseNote(source.checkpoint).text);
  const chain = new RootChain(root);
  const tree = new GrowingTree();
  let last = new Uint8Array();
  for (let index = 0; index * TILE_WIDTH < size; index++) {
    const width = widthOfTile('entries', index, size);
    const bytes = await source.bundle(index, width);
    if (bytes === null) {
      throw new FleetError('E_AUDIT_LOG', `entries from ${index * TILE_WIDTH} on are missing`);
    }
    for (const data of parseBundle(bytes, width)) {
      if (tree.size === 0 || mayBeRoot(data)) chain.add(Buffer.from(data).toString('utf8'));
      tree.add(hashLeaf(data));
      last = Uint8Array.from(data);
    }
  }
  const { checkpoint, freshAt } = verifyCheckpoint(source.checkpoint, chain.root);
  if (!equalHashes(checkpoint.root, tree.root())) {
    const says = 'its checkpoint is not of the entries that are here';
    throw new FleetError('E_AUDIT_LOG', says);
  }
  const names = { version: chain.root.version, sha256: chain.digest };
  requireSnapshotRoot(parseSnapshot(Buffer.from(last).toString('utf8')), names);
  let receipts = 0;
  for await (const { envelopes, contradict } of source.receipts()) {
    if (contradict) continue;
    for await (const _ of envelopes) receipts += 1;
  }
  return { checkpoint, freshAt, root: chain.root, receipts };
}
