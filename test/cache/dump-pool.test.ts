// Threads for small store paths: what becomes of a question when its thread ends.
import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { openDumpPool } from '../../src/cache/dump-pool.ts';
import { refused } from '../helpers/nix-scratch.ts';
import { addStorePath } from '../helpers/store.ts';

test('a thread that ends refuses what it was asked, and what it is asked after that', async () => {
  const storeDir = await mkdtemp(join(tmpdir(), 'fleet-test-'));
  try {
    const info = await addStorePath(storeDir, 'a', 'x'.repeat(1_000_000), []);
    const pool = openDumpPool({ storeDir, level: 3 }, 1);
    const asked = [info, info, info].map((each) => pool.dump(each));
    const answers = Promise.allSettled(asked);
    await pool[Symbol.asyncDispose]();
    for (const answer of await answers) {
      if (answer.status === 'rejected') assert.ok(refused('E_INTERNAL', /ended/)(answer.reason));
    }
    assert.equal((await answers).at(-1)?.status, 'rejected');
    await assert.rejects(pool.dump(info), refused('E_INTERNAL', /ended/));
  } finally {
    await rm(storeDir, { recursive: true });
  }
});
