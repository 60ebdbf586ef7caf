// An old NAR read at any place, from memory or from a file without a name; and what is refused.
import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { zstdCompressSync } from 'node:zlib';
import { openOldNar } from '../../src/cache/pack-old-nar.ts';
import type { NarFile } from '../../src/cache/pack-tasks.ts';
import { formatNarHash } from '../../src/nix/hash.ts';
import { narOfFile } from '../helpers/state.ts';
import { temporaryDir } from '../helpers/temporary.ts';

test('an old NAR is read at any place, in memory or not, and leaves no file', async (t) => {
  const dir = await temporaryDir(t);
  const nar = narOfFile(randomBytes(3_000_000));
  const file = join(dir, 'nar');
  await writeFile(file, zstdCompressSync(nar));
  const narHash = formatNarHash(createHash('sha256').update(nar).digest());
  const stored: NarFile = { file, narSize: nar.length, narHash };
  for (const inMemory of [nar.length, nar.length - 1]) {
    using old = await openOldNar(stored, dir, inMemory);
    assert.equal(old.size, nar.length);
    for (const [from, to] of [
      [0, 10],
      [1_234_567, 2_345_678],
      [nar.length - 5, nar.length],
      [nar.length, nar.length],
    ] as const) {
      const bytes = Buffer.alloc(to - from);
      old.read(from, bytes);
      assert.deepEqual(bytes, nar.subarray(from, to));
    }
    assert.throws(() => old.read(nar.length - 5, Buffer.alloc(6)), { code: 'E_PATCH_BAD' });
    assert.deepEqual(await readdir(dir), ['nar']);
  }
});

test('a damaged or missing one is refused, and leaves no file', async (t) => {
  const dir = await temporaryDir(t);
  const nar = narOfFile(randomBytes(100_000));
  const file = join(dir, 'nar');
  const stored = zstdCompressSync(nar);
  const other = formatNarHash(createHash('sha256').update('other').digest());
  await writeFile(file, stored);
  for (const inMemory of [0, 1_000_000]) {
    const expect = { file, narSize: nar.length, narHash: other };
    await assert.rejects(openOldNar(expect, dir, inMemory), { code: 'E_NAR_MISMATCH' });
    await assert.rejects(openOldNar({ ...expect, narSize: 5 }, dir, inMemory), {
      code: 'E_NAR_LIMIT',
    });
    await assert.rejects(openOldNar({ ...expect, narSize: nar.length + 8 }, dir, inMemory), {
      code: 'E_NAR_TRUNCATED',
    });
    await assert.rejects(openOldNar({ ...expect, file: join(dir, 'none') }, dir, inMemory), {
      code: 'ENOENT',
    });
  }
  assert.deepEqual(await readdir(dir), ['nar']);
});
