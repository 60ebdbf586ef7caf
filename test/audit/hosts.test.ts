// The tree over each host's newest manifest is the same however hosts came to it, and an entry is made once.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Hosts, type Told } from '../../src/audit/hosts.ts';
import { compareHosts, hashEntry, type SnapshotEntry } from '../../src/manifest/snapshot.ts';
import { rootOf } from '../../src/tlog/merkle.ts';

/** A manifest that counts how often an entry is made of it. */
function counted(sequence: number, count: () => void): Told {
  return {
    ...{ index: 0, epoch: 1, sequence, intent: 'deploy', toplevel: null, issuedAt: 0 },
    ...{ approvals: 0, emergency: false },
    get digest() {
      count();
      return 'ab'.repeat(32);
    },
  };
}

test('hosts that come one by one, many at once, in any order: the tree is that of their entries', () => {
  for (const [step, many] of [
    [1, 1],
    [7, 1],
    [96, 1],
    [41, 5],
    [13, 40],
  ] as const) {
    const hosts = new Hosts();
    const entries = new Map<string, SnapshotEntry>();
    let [made, told] = [0, 0];
    const tell = (host: string, sequence: number) => {
      hosts.tell(
        host,
        counted(sequence, () => made++),
      );
      entries.set(host, { host, epoch: 1, sequence, sha256: 'ab'.repeat(32) });
      told += 1;
    };
    for (let i = 0; i < 97; ) {
      for (const end = Math.min(97, i + many); i < end; i++) tell(`web-${(i * step) % 97}`, 1);
      if (i % 3 === 0) tell(`web-${((i - 1) * step) % 97}-b`, 2);
      const [first] = entries.keys();
      if (i % 5 === 1 && entries.size > many + 1) tell(first ?? '', i + 2);
      const sorted = [...entries.values()].sort(compareHosts);
      const { hosts: size, root } = hosts.snapshot();
      assert.equal(size, sorted.length);
      assert.deepEqual(
        Buffer.from(root),
        Buffer.from(rootOf(sorted.map(hashEntry))),
        `${step} ${i}`,
      );
    }
    assert.equal(made, told, 'entries that did not change are not made again');
  }
});
