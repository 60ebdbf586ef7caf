import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { test } from 'node:test';
import fc from 'fast-check';
import {
  consistencyRanges,
  emptyRoot,
  equalHashes,
  hashLeaf,
  hashNode,
  hashRange,
  inclusionRanges,
  MemoryTree,
  type Range,
  rootOf,
  subtreesOf,
  verifyConsistency,
  verifyInclusion,
} from '../../src/tlog/merkle.ts';

const VECTORS = new URL('../../../shared/vectors/merkle/', import.meta.url);
const skip = existsSync(VECTORS) ? false : 'no ../shared/vectors/merkle beside this checkout';
const read = <Case>(name: string): Case[] =>
  JSON.parse(readFileSync(new URL(name, VECTORS), 'utf8')) as Case[];
const bytes = (base64: string): Uint8Array => Buffer.from(base64, 'base64');
const list = (proof: string[] | null): Uint8Array[] => (proof ?? []).map(bytes);

test('the published RFC 6962 inclusion cases: every verdict is the one that is expected', {
  skip,
}, () => {
  type Case = Record<'root' | 'leafHash' | 'desc', string> &
    Record<'leafIdx' | 'treeSize', number> & { proof: string[] | null; wantErr: boolean };
  const cases = read<Case>('inclusion.json');
  assert.equal(cases.length, 98);
  for (const { leafIdx, treeSize, leafHash, root, proof, wantErr, desc } of cases) {
    const size = { index: leafIdx, size: treeSize };
    const held = verifyInclusion({
      ...size,
      leafHash: bytes(leafHash),
      root: bytes(root),
      proof: list(proof),
    });
    assert.equal(held, !wantErr, `${desc} (${leafIdx} of ${treeSize})`);
  }
});

test('the published RFC 6962 consistency cases: every verdict is the one that is expected', {
  skip,
}, () => {
  type Case = Record<'root1' | 'root2' | 'desc', string> &
    Record<'size1' | 'size2', number> & { proof: string[] | null; wantErr: boolean };
  const cases = read<Case>('consistency.json');
  assert.equal(cases.length, 98);
  for (const { size1, size2, root1, root2, proof, wantErr, desc } of cases) {
    const held = verifyConsistency({
      older: { size: size1, root: bytes(root1) },
      newer: { size: size2, root: bytes(root2) },
      proof: list(proof),
    });
    assert.equal(held, !wantErr, `${desc} (${size1} to ${size2})`);
  }
});

/** RFC 6962 §2.1, word for word. */
function mth(leaves: readonly Uint8Array[]): Uint8Array {
  if (leaves.length === 0) return emptyRoot();
  if (leaves.length === 1) return leaves[0] as Uint8Array;
  let k = 1;
  while (k * 2 < leaves.length) k *= 2;
  return hashNode(mth(leaves.slice(0, k)), mth(leaves.slice(k)));
}

const leavesOf = (size: number): Uint8Array[] =>
  Array.from({ length: size }, (_, i) => hashLeaf(Buffer.from(`leaf ${i}`)));

const MOST = 70;
const LEAVES = leavesOf(MOST);

test('trees of every size up to 70: root, each inclusion proof, and each consistency proof', () => {
  const whole = new MemoryTree(LEAVES);
  assert.equal(whole.size, MOST);
  const hashOf = ({ start, end }: Range): Uint8Array => mth(LEAVES.slice(start, end));
  for (let size = 0; size <= MOST; size++) {
    const leaves = LEAVES.slice(0, size);
    const root = rootOf(leaves);
    assert.deepEqual(root, mth(leaves), `root of ${size}`);
    const tree = new MemoryTree(leaves);
    for (let index = 0; index < size; index++) {
      const proof = tree.inclusion(index);
      assert.deepEqual(proof, inclusionRanges(index, size).map(hashOf));
      const leafHash = leaves[index] as Uint8Array;
      assert.ok(verifyInclusion({ index, size, leafHash, root, proof }));
      const other = leaves[(index + 1) % size] as Uint8Array;
      if (size > 1) assert.ok(!verifyInclusion({ index, size, leafHash: other, root, proof }));
      const nextIndex = { index: index + 1, size, leafHash, root, proof };
      assert.ok(!verifyInclusion(nextIndex));
    }
    for (let older = 1; older <= size; older++) {
      const proof = consistencyRanges(older, size).map(hashOf);
      const from = { size: older, root: mth(LEAVES.slice(0, older)) };
      assert.ok(
        verifyConsistency({ older: from, newer: { size, root }, proof }),
        `${older} ${size}`,
      );
      const wrong = { size: older, root: mth(LEAVES.slice(1, older + 1)) };
      assert.ok(!verifyConsistency({ older: wrong, newer: { size, root }, proof }));
    }
  }
});

test('any change of a proof, of a root or of a place is refused', () => {
  const sizes = fc.integer({ min: 2, max: MOST });
  const flip = (hash: Uint8Array, bit: number): Uint8Array => {
    const changed = Uint8Array.from(hash);
    changed[bit >> 3] = (changed[bit >> 3] ?? 0) ^ (1 << (bit & 7));
    return changed;
  };
  const bits = fc.integer({ min: 0, max: 255 });
  fc.assert(
    fc.property(sizes, fc.nat(), bits, fc.nat(), (size, at, bit, which) => {
      const tree = new MemoryTree(LEAVES.slice(0, size));
      const index = at % size;
      const good = {
        ...{ index, size, leafHash: LEAVES[index] as Uint8Array },
        ...{ root: tree.root(), proof: tree.inclusion(index) },
      };
      const { proof } = good;
      const k = which % proof.length;
      const changes = [
        { ...good, proof: proof.with(k, flip(proof[k] as Uint8Array, bit)) },
        { ...good, proof: proof.toSpliced(k, 1) },
        { ...good, proof: proof.toSpliced(k, 0, proof[k] as Uint8Array) },
        { ...good, proof: proof.with(k, (proof[k] as Uint8Array).subarray(1)) },
        { ...good, root: flip(good.root, bit) },
        { ...good, leafHash: flip(good.leafHash, bit) },
        { ...good, index: size + at },
        { ...good, index: index + 0.5 },
        { ...good, index: -1 },
        { ...good, size: Number.NaN },
      ];
      assert.ok(verifyInclusion(good));
      for (const [i, change] of changes.entries()) assert.ok(!verifyInclusion(change), `${i}`);
    }),
  );
  fc.assert(
    fc.property(sizes, fc.nat(), bits, fc.nat(), (size, at, bit, which) => {
      const older = 1 + (at % (size - 1));
      const hashes = consistencyRanges(older, size).map(({ start, end }) =>
        mth(LEAVES.slice(start, end)),
      );
      const good = {
        older: { size: older, root: mth(LEAVES.slice(0, older)) },
        newer: { size, root: mth(LEAVES.slice(0, size)) },
        proof: hashes,
      };
      const k = which % hashes.length;
      const changes = [
        { ...good, proof: hashes.with(k, flip(hashes[k] as Uint8Array, bit)) },
        { ...good, proof: hashes.toSpliced(k, 1) },
        { ...good, proof: [...hashes, hashes[k] as Uint8Array] },
        { ...good, older: { ...good.older, root: flip(good.older.root, bit) } },
        { ...good, newer: { ...good.newer, root: flip(good.newer.root, bit) } },
        { ...good, older: { ...good.older, size: 0 } },
        { ...good, older: good.newer, newer: good.older },
      ];
      assert.ok(verifyConsistency(good));
      for (const [i, change] of changes.entries()) assert.ok(!verifyConsistency(change), `${i}`);
    }),
  );
});

test('sizes up to 2^53: subtrees are exact where logarithms are not', () => {
  for (const size of [2 ** 32 - 1, 2 ** 32, 2 ** 49 - 1, 2 ** 50 - 2, Number.MAX_SAFE_INTEGER]) {
    const subtrees = subtreesOf(0, size);
    const leaves = subtrees.reduce((sum, { level }) => sum + 2 ** level, 0);
    assert.equal(leaves, size);
    for (const { index } of subtrees) assert.ok(Number.isSafeInteger(index));
    assert.equal(subtrees.length, size.toString(2).replaceAll('0', '').length);
    for (const index of [0, 1, Math.floor(size / 3), size - 1]) {
      const ranges = inclusionRanges(index, size);
      const covered = ranges.reduce((sum, { start, end }) => sum + (end - start), 1);
      assert.equal(covered, size);
    }
    const ranges = consistencyRanges(size - 1, size);
    assert.ok(ranges.length <= 54 && ranges.every(({ start, end }) => end > start));
  }
});

test('a tree of one leaf is that leaf, of none the hash of nothing', () => {
  const [leaf] = LEAVES as [Uint8Array];
  assert.ok(equalHashes(rootOf([leaf]), leaf));
  assert.equal(
    Buffer.from(hashRange([])).toString('hex'),
    'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855',
  );
  assert.ok(verifyInclusion({ index: 0, size: 1, leafHash: leaf, root: leaf, proof: [] }));
});
