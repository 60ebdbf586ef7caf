// A tree that grows says at every size what a whole tree of that size says, also when it begins with the edge of another.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { GrowingTree } from '../../src/tlog/growing-tree.ts';
import { hashLeaf, rootOf as rootOfLeaves, verifyInclusion } from '../../src/tlog/merkle.ts';

const rootOf = (leaves: readonly Uint8Array[]) => Uint8Array.from(rootOfLeaves(leaves));
const LEAVES = Array.from({ length: 140 }, (_, i) => hashLeaf(Buffer.from(String(i))));

test('the root at every size, however many leaves came after it', () => {
  const tree = new GrowingTree();
  assert.deepEqual(Uint8Array.from(tree.root()), rootOf([]));
  for (const [i, leaf] of LEAVES.entries()) {
    tree.add(leaf);
    assert.deepEqual(Uint8Array.from(tree.root()), rootOf(LEAVES.slice(0, i + 1)));
  }
  for (let size = 0; size <= LEAVES.length; size++) {
    assert.deepEqual(Uint8Array.from(tree.rootAt(size)), rootOf(LEAVES.slice(0, size)));
  }
  assert.throws(() => tree.rootAt(LEAVES.length + 1), RangeError);
});

test('a tree that begins with an edge goes on as if it had all the leaves before', () => {
  const whole = new GrowingTree();
  for (let from = 0; from <= LEAVES.length; from++) {
    const tree = new GrowingTree(whole.edge());
    assert.deepEqual([tree.from, tree.size], [from, from]);
    const until = Math.min(from + 20, LEAVES.length);
    for (let size = from; size <= until; size++) {
      assert.deepEqual(
        Uint8Array.from(tree.root()),
        rootOf(LEAVES.slice(0, size)),
        `${from} to ${size}`,
      );
      if (size > from) {
        const leafHash = LEAVES[size - 1] ?? new Uint8Array();
        const [root, proof] = [tree.root(), tree.inclusionOfLast()];
        assert.ok(verifyInclusion({ index: size - 1, size, leafHash, root, proof }));
      }
      if (size < until) tree.add(LEAVES[size] ?? new Uint8Array());
    }
    assert.deepEqual(Uint8Array.from(tree.rootAt(from)), rootOf(LEAVES.slice(0, from)));
    const next = LEAVES[from];
    if (next !== undefined) whole.add(next);
  }
  // Of what came before, only the edge is known.
  assert.throws(() => new GrowingTree(whole.edge()).rootAt(139), RangeError);
  assert.throws(() => new GrowingTree({ size: 3, hashes: [hashLeaf(Buffer.of())] }), RangeError);
});
