// A transparency log in memory that does what it is told: honest by default, but any entry can be appended,
// any tree be signed, and the past be changed.
import { formatProof } from '../../src/manifest/offer.ts';
import type { Root } from '../../src/manifest/root.ts';
import {
  compareHosts,
  formatSnapshot,
  hashEntry,
  type SnapshotEntry,
} from '../../src/manifest/snapshot.ts';
import { formatCheckpoint } from '../../src/tlog/checkpoint.ts';
import { consistencyRanges, hashLeaf, MemoryTree, rootOf } from '../../src/tlog/merkle.ts';
import { cosignNote, formatNote, signNote } from '../../src/tlog/note.ts';
import { NOTE_COSIGNATURE, NOTE_ED25519, parseVerifierKey } from '../../src/tlog/vkey.ts';

/** The secret keys of a log. */
export type LogKeys = { readonly log: Uint8Array; readonly freshness: Uint8Array };

export class TestLog {
  readonly leaves: Buffer[] = [];
  readonly hosts = new Map<string, SnapshotEntry>();
  #snapshots = 0;

  /** A log with the same entries, which goes its own way from here. */
  fork(): TestLog {
    const other = new TestLog();
    other.leaves.push(...this.leaves);
    for (const [host, entry] of this.hosts) other.hosts.set(host, entry);
    other.#snapshots = this.#snapshots;
    return other;
  }

  get size(): number {
    return this.leaves.length;
  }

  /** Appends entries, and the snapshot that follows from them. */
  publish(entries: readonly string[], root: { version: number; sha256: string }): void {
    for (const entry of entries) this.leaves.push(Buffer.from(entry));
    this.leaves.push(Buffer.from(this.snapshot(root)));
  }

  /** The text of the next snapshot. */
  snapshot(root: { version: number; sha256: string }): string {
    this.#snapshots += 1;
    return formatSnapshot({
      sequence: this.#snapshots,
      rootVersion: root.version,
      rootSha256: root.sha256,
      hosts: this.hosts.size,
      root: rootOf(this.entries().map(hashEntry)),
    });
  }

  entries(): SnapshotEntry[] {
    return [...this.hosts.values()].sort(compareHosts);
  }

  /** The signed checkpoint of the first `size` entries. */
  checkpoint(root: Root, keys: LogKeys, time: number | null, size = this.size): string {
    const hash = rootOf(this.leaves.slice(0, size).map(hashLeaf));
    const text = formatCheckpoint({ origin: root.log.origin, size, root: hash });
    const signatures = [signNote(text, parseVerifierKey(root.log.vkey, NOTE_ED25519), keys.log)];
    if (time !== null) {
      const key = parseVerifierKey(root.freshness.keys[0] ?? '', NOTE_COSIGNATURE);
      signatures.push(cosignNote(text, time, key, keys.freshness));
    }
    return formatNote({ text, signatures });
  }

  /** The index of an entry, the last one of these bytes; the proof that it is in the log. */
  logged(entry: string): { index: number; proof: string[] } {
    const index = this.leaves.findLastIndex((leaf) => leaf.equals(Buffer.from(entry)));
    return { index: Math.max(index, 0), proof: this.inclusion(Math.max(index, 0)) };
  }

  inclusion(index: number): string[] {
    return formatProof(new MemoryTree(this.leaves.map(hashLeaf)).inclusion(index));
  }

  consistency(from: number): string[] {
    if (from === 0 || from >= this.size) return [];
    const hashes = this.leaves.map(hashLeaf);
    const ranges = consistencyRanges(from, this.size);
    return formatProof(ranges.map(({ start, end }) => rootOf(hashes.slice(start, end))));
  }

  /** What the snapshot of now says of `host`, with its proof. */
  entry(host: string) {
    const all = this.entries();
    const index = Math.max(
      all.findIndex((one) => one.host === host),
      0,
    );
    const { epoch = 1, sequence = 1, sha256 = '0'.repeat(64) } = all[index] ?? {};
    const proof = all.length === 0 ? [] : new MemoryTree(all.map(hashEntry)).inclusion(index);
    return { index, epoch, sequence, sha256, proof: formatProof(proof) };
  }
}
