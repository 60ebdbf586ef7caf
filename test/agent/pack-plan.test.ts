// Which parts of a pack are used.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { MAX_GROUP, type PlanLimits, planPack } from '../../src/agent/pack-plan.ts';
import type { PackedPath, PackIndex } from '../../src/delta/pack-index.ts';
import type { PathInfo } from '../../src/nix/closure.ts';
import { storePath } from '../helpers/paths.ts';

const MIB = 2 ** 20;
const SIGS = [`good-1:${Buffer.alloc(64).toString('base64')}`];
const infoOf = (name: string, narSize = 1000): PathInfo => ({
  path: storePath(name, name),
  narHash: `sha256:${'0'.repeat(52)}` as PathInfo['narHash'],
  narSize,
  references: [],
});
const limits = (changes: Partial<PlanLimits> = {}): PlanLimits => ({
  memory: 64 * MIB,
  signers: new Set(['good-1']),
  notOfBase: async () => [],
  ...changes,
});
const indexOf = (
  paths: PackedPath[],
  segments: { bytes: number; memory: number }[],
): PackIndex => ({
  closure: 'a'.repeat(64),
  base: null,
  segments: segments.map((one) => ({ ...one, sha256: 'b'.repeat(64) })),
  paths,
});
const whole = (info: PathInfo, segment: number): PackedPath => ({
  kind: 'whole',
  info,
  sigs: SIGS,
  segment,
});
const copy = (info: PathInfo, old: string): PackedPath => ({
  kind: 'copy',
  info,
  sigs: SIGS,
  old: storePath(old, old),
  renames: new Map(),
});

async function used(
  index: PackIndex,
  missing: readonly PathInfo[],
  changes: Partial<PlanLimits> = {},
) {
  const plan = await planPack(index, missing, limits(changes));
  return { paths: [...plan.paths.keys()], segments: plan.segments };
}

const [a, b, c] = [infoOf('a'), infoOf('b'), infoOf('c')];

test('what is missing, and nothing else', async () => {
  const index = indexOf(
    [whole(a, 0), copy(b, 'old'), whole(c, 1)],
    [
      { bytes: 10, memory: MIB },
      { bytes: 10, memory: MIB },
    ],
  );
  assert.deepEqual(await used(index, [b, c]), { paths: [b.path, c.path], segments: [1] });
  assert.deepEqual(await used(index, [infoOf('other')]), { paths: [], segments: [] });
});

test('nothing that takes more memory than there is', async () => {
  const index = indexOf(
    [whole(a, 0), whole(b, 1)],
    [
      { bytes: 10, memory: 64 * MIB },
      { bytes: 10, memory: 64 * MIB + 1 },
    ],
  );
  assert.deepEqual((await used(index, [a, b])).segments, [0]);
});

test('no segment of more bytes than its NARs', async () => {
  const [old, renames] = [storePath('old', 'old'), new Map()];
  const patch: PackedPath = { kind: 'patch', info: a, sigs: SIGS, old, renames, segment: 0 };
  for (const [bytes, segments] of [
    [2000, [0, 1]],
    [10 ** 12, []],
  ] as const) {
    const index = indexOf(
      [patch, whole(b, 1), whole(c, 1)],
      [
        { bytes, memory: MIB },
        { bytes, memory: MIB },
      ],
    );
    assert.deepEqual((await used(index, [a, b, c])).segments, segments);
  }
});

test('nothing without a signature that counts, or whose old path is not of the base', async () => {
  const index = indexOf([copy(a, 'old'), copy(b, 'gone')], []);
  const gone = async () => [storePath('gone', 'gone')];
  assert.deepEqual((await used(index, [a, b], { notOfBase: gone })).paths, [a.path]);
  assert.deepEqual((await used(index, [a, b], { signers: new Set(['other-1']) })).paths, []);
});

test('a group of which little is needed is not worth its bytes', async () => {
  const large = infoOf('large', 50 * MIB);
  const index = indexOf([whole(a, 0), whole(large, 0)], [{ bytes: 20 * MIB, memory: MIB }]);
  assert.deepEqual((await used(index, [a])).paths, []);
  assert.deepEqual((await used(index, [large])).paths, [large.path]);
  assert.deepEqual((await used(index, [a, large])).paths, [a.path, large.path]);
});

test('a group that is too large to be kept is used for one path at most', async () => {
  const [one, two] = [infoOf('one', MAX_GROUP), infoOf('two', MAX_GROUP)];
  const index = indexOf([whole(one, 0), whole(two, 0)], [{ bytes: 1000, memory: MIB }]);
  assert.deepEqual((await used(index, [one, two])).paths, []);
  assert.deepEqual((await used(index, [two])).paths, [two.path]);
});
