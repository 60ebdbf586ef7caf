// Listings of NARs: places are those of the bytes, for any tree; debug files by their build id. That the
// text is Nix's own is shown in test/e2e/nar-listing.test.ts.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { type DebugFile, NarListing } from '../../src/nix/nar-listing.ts';
import { NarParser } from '../../src/nix/nar-read.ts';
import { writeNar } from '../../src/nix/nar-write.ts';
import {
  bytesOf,
  directory,
  entry,
  eventsOfTree,
  file,
  symlink as link,
  nar,
  type Tree,
  treeArbitrary,
} from '../helpers/nar.ts';

type Node = {
  readonly type: string;
  readonly size?: number;
  readonly executable?: boolean;
  readonly narOffset?: number;
  readonly target?: string;
  readonly entries?: Record<string, Node>;
};

function listed(bytes: Buffer): { json: string | null; debugFiles: readonly DebugFile[] } {
  const [parser, listing] = [new NarParser(), new NarListing()];
  for (const event of parser.push(bytes)) listing.add(event);
  parser.finish();
  return { json: listing.finish(), debugFiles: listing.debugFiles };
}

/** Compares a tree with its listing, and the listing's places with the bytes. */
function compare(tree: Tree, node: Node, bytes: Buffer): void {
  if (tree.kind === 'symlink') {
    assert.deepEqual(node, { type: 'symlink', target: utf8(tree.target) });
  } else if (tree.kind === 'file') {
    const { narOffset = 0, ...rest } = node;
    const size = tree.contents.length;
    const executable = tree.executable ? { executable: true } : {};
    assert.deepEqual(rest, { type: 'regular', size, ...executable });
    assert.deepEqual(bytes.subarray(narOffset, narOffset + size), Buffer.from(tree.contents));
    assert.equal(bytes.readBigUInt64LE(narOffset - 8), BigInt(size));
  } else {
    assert.deepEqual(Object.keys(node), ['type', 'entries']);
    assert.equal(node.type, 'directory');
    const entries = new Map(Object.entries(node.entries ?? {}));
    assert.equal(entries.size, tree.entries.size);
    for (const [name, child] of tree.entries) {
      compare(child, entries.get(utf8(name)) ?? assert.fail(utf8(name)), bytes);
    }
  }
}

const utf8 = (bytes: string) => Buffer.from(bytes, 'latin1').toString();

/** The same tree with names and targets that are UTF-8. */
function asUtf8(tree: Tree): Tree {
  const again = (text: string) => Buffer.from(text).toString('latin1');
  if (tree.kind === 'symlink') return { ...tree, target: again(tree.target) };
  if (tree.kind === 'file') return tree;
  const entries = [...tree.entries].map(([name, node]) => [again(name), asUtf8(node)] as const);
  return { ...tree, entries: new Map(entries) };
}

describe('NarListing', () => {
  it('says of any tree what there is, and where', async () => {
    await fc.assert(
      fc.asyncProperty(treeArbitrary.map(asUtf8), async (tree) => {
        const bytes = await bytesOf(writeNar(eventsOfTree(tree)));
        const { version, root } = JSON.parse(listed(bytes).json ?? '');
        assert.equal(version, 1);
        compare(tree, root, bytes);
      }),
      { numRuns: 300 },
    );
  });
  it('there is none where a name or a target is no UTF-8', () => {
    assert.notEqual(listed(nar(directory(entry('\xc3\xa9', file(''))))).json, null);
    assert.equal(listed(nar(directory(entry('\xe9', file(''))))).json, null);
    assert.equal(listed(nar(link('\xff'))).json, null);
    // Halves of a surrogate pair, each by itself.
    assert.equal(listed(nar(link('\xed\xa0\xbd\xed\xb8\x80'))).json, null);
  });
  it('there is none beyond 16 MiB, and no memory is taken for it', () => {
    const listing = new NarListing();
    listing.add({ type: 'directory', name: null });
    const target = 't'.repeat(4000);
    const add = (name: number) => listing.add({ type: 'symlink', name: `${name}`, target });
    for (let i = 0; i < 4000; i++) add(i);
    assert.notEqual(listing.finish(), null);
    for (let i = 4000; i < 5000; i++) add(i);
    assert.equal(listing.finish(), null);
  });

  const id = 'c'.repeat(38);
  const below = (names: readonly string[], leaf: Buffer) =>
    nar(names.reduceRight((node, name) => directory(entry(name, node)), leaf));
  it('names debug files by their build id', () => {
    const place = ['lib', 'debug', '.build-id', 'ab', `${id}.debug`];
    assert.deepEqual(listed(below(place, file('symbols'))).debugFiles, [
      { buildId: `ab${id}`, member: `lib/debug/.build-id/ab/${id}.debug` },
    ]);
  });
  it('takes nothing else for a debug file', () => {
    for (const place of [
      ['lib', 'debug', '.build-id', 'ab', `${id}.debuglink`],
      ['lib', 'debug', '.build-id', 'ab', `${id.toUpperCase()}.debug`],
      ['lib', 'debug', '.build-id', 'ab', `${id}c.debug`],
      ['lib', 'debug', '.build-id', 'abc', `${id}.debug`],
      ['lib', 'debug', '.build-id', 'ab', 'x', `${id}.debug`],
      ['lib', 'debug', '.build-id', `${id}.debug`],
      ['usr', 'lib', 'debug', '.build-id', 'ab', `${id}.debug`],
      ['lib', 'Debug', '.build-id', 'ab', `${id}.debug`],
      [`${id}.debug`],
      [],
    ]) {
      assert.deepEqual(listed(below(place, file('x'))).debugFiles, [], place.join('/'));
    }
    const place = ['lib', 'debug', '.build-id', 'ab', `${id}.debug`];
    assert.deepEqual(listed(below(place, link('x'))).debugFiles, []);
    assert.deepEqual(listed(below(place, directory())).debugFiles, []);
  });
});
