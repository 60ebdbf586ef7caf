// The order of a pack's paths, and the keys of what it is made of.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { patchKey, wholeKey } from '../../src/cache/pack-keys.ts';
import { inPackOrder } from '../../src/cache/pack-order.ts';
import type { PathInfo } from '../../src/nix/closure.ts';
import type { NarHash } from '../../src/nix/hash.ts';
import type { StorePath } from '../../src/nix/storepath.ts';
import { closureOf } from '../helpers/packs.ts';
import { pathInfo, storePath } from '../helpers/paths.ts';

const at = (seed: string): StorePath => storePath(seed, seed);
const info = (seed: string, ...references: string[]): PathInfo =>
  pathInfo(at(seed), references.map(at).sort());

const CLOSURE = [
  info('top', 'b', 'a', 'tool'),
  info('b', 'base', 'b'),
  info('a', 'base'),
  info('tool', 'b'),
  info('base'),
  info('alone'),
];

const order = (infos: readonly PathInfo[], isGiven = (_: StorePath) => true): string[] =>
  inPackOrder(closureOf(infos), isGiven).map(({ path }) => path.slice(44));

test('each path comes after those that it refers to, then by name', () => {
  const expected = ['alone', 'base', 'a', 'b', 'tool', 'top'];
  assert.deepEqual(order(CLOSURE), expected);
  assert.deepEqual(order([...CLOSURE].reverse()), expected);
  assert.deepEqual(
    order(CLOSURE, (path) => path !== at('base') && path !== at('a')),
    expected.filter((name) => name !== 'base' && name !== 'a'),
  );
});

test('another path somewhere changes the place of no other', () => {
  const without = order(CLOSURE);
  const other = [
    ...CLOSURE.filter(({ path }) => path !== at('top')),
    info('own', 'base'),
    info('top', 'b', 'a', 'tool', 'own'),
  ];
  assert.deepEqual(
    order(other).filter((name) => name !== 'own'),
    without,
  );
});

test('a chain of many thousands is put in order', () => {
  const chain = Array.from({ length: 20_000 }, (_, i) =>
    i === 0 ? info('p0') : info(`p${i}`, `p${i - 1}`),
  );
  assert.equal(order(chain).at(-1), 'p19999');
});

test('keys differ in whatever counts, and in nothing else', () => {
  const [x, y, z] = ['x', 'y', 'z'] as unknown as [NarHash, NarHash, NarHash];
  const renames = new Map([
    [at('a'), at('b')],
    [at('c'), at('d')],
  ]);
  const key = patchKey(x, y, renames);
  assert.match(key, /^[0-9a-f]{64}$/);
  assert.equal(patchKey(x, y, new Map([...renames].reverse())), key);
  const others = [
    patchKey(y, x, renames),
    patchKey(x, z, renames),
    patchKey(x, y, new Map([[at('a'), at('b')]])),
    patchKey(x, y, new Map([...renames].map(([from, to]) => [to, from]))),
    wholeKey([x, y]),
    wholeKey([y, x]),
    wholeKey([x]),
  ];
  assert.equal(new Set([key, ...others]).size, others.length + 1);
});
