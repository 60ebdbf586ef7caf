import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { hashLeaf, MemoryTree, rootOf } from '../../src/tlog/merkle.ts';
import {
  formatBundle,
  formatTilePath,
  hashFromTile,
  MAX_ENTRY_BYTES,
  parseBundle,
  parseTilePath,
  tileOfSubtree,
  widthOfTile,
} from '../../src/tlog/tile.ts';
import { refuses } from '../helpers/trust.ts';

test('paths of tiles, as C2SP tlog-tiles has them', () => {
  for (const [id, path] of [
    [{ level: 0, index: 0, width: 256 }, 'tile/0/000'],
    [{ level: 3, index: 1234067, width: 256 }, 'tile/3/x001/x234/067'],
    [{ level: 'entries', index: 999, width: 112 }, 'tile/entries/999.p/112'],
    [{ level: 63, index: 1000, width: 1 }, 'tile/63/x001/000.p/1'],
  ] as const) {
    assert.equal(formatTilePath(id), path);
    assert.deepEqual(parseTilePath(path), id);
  }
  for (const path of [
    ...['tile/00/000', 'tile/64/000', 'tile/-1/000', 'tile/x/000', 'tile/0/0', 'tile/0/0000'],
    ...['tile/0/001/000', 'tile/0/x001', 'tile/0/x000/001', 'tile/0/000.p/0', 'tile/0/000.p/256'],
    ...['tile/0/000.p/01', 'tile/0/000.p/', 'tile/0/000/', '/tile/0/000', 'tile/0/../000'],
    ...['tile/entries/000.p/300', `tile/0/${'x999/'.repeat(6)}999`, 'tile/0/0٠0', 'tile/0/000\n'],
  ]) {
    assert.equal(parseTilePath(path), null, path);
  }
});

test('the tree of 70,000 entries has the tiles that C2SP tlog-tiles says', () => {
  const widths = (level: number): number[] =>
    Array.from({ length: 275 }, (_, index) => widthOfTile(level, index, 70_000)).filter(Boolean);
  assert.deepEqual(widths(0), [...new Array<number>(273).fill(256), 112]);
  assert.deepEqual(widths(1), [256, 17]);
  assert.deepEqual(widths(2), [1]);
  assert.deepEqual(widths(3), []);
  assert.deepEqual(
    [0, 1].map((level) => widthOfTile(level, 0, 256)),
    [256, 1],
  );
  assert.equal(widthOfTile('entries', 273, 70_000), 112);
});

test('every complete subtree’s hash comes out of one tile', () => {
  const size = 1000;
  const leaves = Array.from({ length: size }, (_, i) => hashLeaf(Buffer.from(`${i}`)));
  const tile = (level: number, index: number): Uint8Array => {
    const span = 256 ** level;
    const hashes: Uint8Array[] = [];
    for (let i = index * 256; i < (index + 1) * 256 && (i + 1) * span <= size; i++) {
      hashes.push(rootOf(leaves.slice(i * span, (i + 1) * span)));
    }
    return Buffer.concat(hashes);
  };
  for (let level = 0; 2 ** level <= size; level++) {
    for (let index = 0; (index + 1) * 2 ** level <= size; index++) {
      const place = tileOfSubtree({ level, index });
      const hash = hashFromTile(tile(place.level, place.index), place);
      const expected = new MemoryTree(leaves.slice(index * 2 ** level, (index + 1) * 2 ** level));
      assert.deepEqual(Buffer.from(hash), Buffer.from(expected.root()), `${level} ${index}`);
    }
  }
  const last = tileOfSubtree({ level: 0, index: 999 });
  refuses('E_TILE', () => hashFromTile(tile(0, 3).subarray(1), last));
});

test('bundles: any entries survive; others than the announced number are refused', () => {
  fc.assert(
    fc.property(fc.array(fc.uint8Array({ maxLength: 300 }), { maxLength: 20 }), (entries) => {
      const bytes = formatBundle(entries);
      const back = parseBundle(bytes, entries.length);
      assert.deepEqual(
        back.map((one) => Uint8Array.from(one)),
        entries,
      );
      refuses('E_TILE', () => parseBundle(bytes, entries.length + 1));
      refuses('E_TILE', () => parseBundle(Buffer.concat([bytes, Buffer.of(0)]), entries.length));
      if (bytes.length > 0) {
        refuses('E_TILE', () => parseBundle(bytes.subarray(0, -1), entries.length));
        refuses('E_TILE', () => parseBundle(bytes, entries.length - 1));
      }
    }),
  );
  const most = new Uint8Array(MAX_ENTRY_BYTES).fill(7);
  assert.deepEqual(parseBundle(formatBundle([most]), 1)[0]?.length, MAX_ENTRY_BYTES);
  refuses('E_TILE', () => formatBundle([new Uint8Array(MAX_ENTRY_BYTES + 1)]));
});
