import assert from 'node:assert/strict';
import { test } from 'node:test';
import { diffClosures } from '../../src/manifest/closure-diff.ts';
import { splitName } from '../../src/nix/drv-name.ts';
import type { NarHash } from '../../src/nix/hash.ts';
import { parseStorePath, type StorePath } from '../../src/nix/storepath.ts';

test('names and versions are taken apart as Nix does', () => {
  for (const [text, name, version] of [
    ['glibc-2.39-52', 'glibc', '2.39-52'],
    ['nixos-system-lantern-24.05', 'nixos-system-lantern', '24.05'],
    ['gtk+-3.0', 'gtk+', '3.0'],
    ['etc', 'etc', ''],
    ['python3.11-pip', 'python3.11-pip', ''],
    ['source', 'source', ''],
  ] as const) {
    assert.deepEqual(splitName(text), { name, version }, text);
  }
});

const path = (name: string, hash = 'a'): StorePath =>
  parseStorePath(`/nix/store/${hash.repeat(32)}-${name}`);
const closure = (sizes: readonly (readonly [StorePath, number])[]) => ({
  toplevel: path('system'),
  paths: new Map(
    sizes.map(([one, narSize]) => [
      one,
      { path: one, narSize, narHash: `sha256:${'0'.repeat(52)}` as NarHash, references: [] },
    ]),
  ),
  narBytes: 0,
});

test('packages that change, by name: versions before and after, and bytes', () => {
  const before = closure([
    [path('glibc-2.39'), 100],
    [path('system'), 10],
    [path('vim-9.0'), 50],
    [path('kept-1'), 7],
  ]);
  const after = closure([
    [path('glibc-2.40'), 130],
    [path('system', 'b'), 10],
    [path('gimp-2.10'), 500],
    [path('gimp-2.10', 'b'), 20],
    [path('kept-1'), 7],
  ]);
  const diff = diffClosures(before, after);
  assert.deepEqual(diff.packages, [
    { name: 'gimp', before: [], after: ['2.10'], bytes: 520 },
    { name: 'glibc', before: ['2.39'], after: ['2.40'], bytes: 30 },
    { name: 'system', before: [''], after: [''], bytes: 0 },
    { name: 'vim', before: ['9.0'], after: [], bytes: -50 },
  ]);
  assert.deepEqual([diff.added.length, diff.removed.length], [4, 3]);
  assert.equal(diffClosures(null, after).added.length, 5);
  assert.deepEqual(diffClosures(after, after).packages, []);
});
