import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { edgeOf, Growth, type Tile } from '../../src/tlog/growth.ts';
import { hashLeaf, MemoryTree, rootOf, subtreesOf } from '../../src/tlog/merkle.ts';
import { formatTilePath, hashFromTile, tileOfSubtree, widthOfTile } from '../../src/tlog/tile.ts';

const LEAVES = Array.from({ length: 70_000 }, (_, i) => hashLeaf(Buffer.from(`leaf ${i}`)));

/** Appends batches of these sizes, each from what the ones before left, as a server does. */
function grow(batches: readonly number[]): { tiles: Map<string, Uint8Array>; root: Uint8Array } {
  const tiles = new Map<string, Uint8Array>();
  let size = 0;
  let root = rootOf([]);
  for (const batch of batches) {
    const edge = edgeOf(size).map((id): Tile => {
      const bytes = tiles.get(formatTilePath(id));
      assert.ok(bytes, `no ${formatTilePath(id)} for ${size}`);
      return { id, bytes };
    });
    const growth = new Growth(size, edge);
    assert.deepEqual(Buffer.from(growth.root()), Buffer.from(root));
    const made = LEAVES.slice(size, size + batch).flatMap((leaf) => growth.add(leaf));
    for (const { id, bytes } of [...made, ...growth.partial()]) {
      assert.equal(bytes.length, id.width * 32);
      tiles.set(formatTilePath(id), bytes);
    }
    size += batch;
    assert.equal(growth.size, size);
    root = growth.root();
  }
  return { tiles, root };
}

test('the tiles and roots of any history of batches are those of the whole tree', () => {
  fc.assert(
    fc.property(fc.array(fc.integer({ min: 1, max: 700 }), { maxLength: 8 }), (batches) => {
      const { tiles, root } = grow(batches);
      const size = batches.reduce((sum, batch) => sum + batch, 0);
      const tree = new MemoryTree(LEAVES.slice(0, size));
      assert.deepEqual(Buffer.from(root), Buffer.from(tree.root()));
      for (const subtree of subtreesOf(0, size)) {
        const place = tileOfSubtree(subtree);
        const id = { ...place, width: widthOfTile(place.level, place.index, size) };
        const hash = hashFromTile(tiles.get(formatTilePath(id)) ?? Buffer.of(), place);
        const { level, index } = subtree;
        const leaves = LEAVES.slice(index * 2 ** level, (index + 1) * 2 ** level);
        assert.deepEqual(Buffer.from(hash), Buffer.from(rootOf(leaves)));
      }
    }),
    { numRuns: 40 },
  );
});

test('70,000 leaves: three levels of tiles', () => {
  const { tiles, root } = grow([65_535, 1, 4_464]);
  assert.deepEqual(Buffer.from(root), Buffer.from(rootOf(LEAVES)));
  for (const path of ['tile/0/x000/000', 'tile/0/000', 'tile/0/272', 'tile/0/273.p/112']) {
    assert.equal(tiles.has(path), path !== 'tile/0/x000/000', path);
  }
  for (const path of ['tile/1/000', 'tile/1/001.p/17', 'tile/2/000.p/1'])
    assert.ok(tiles.has(path));
});
