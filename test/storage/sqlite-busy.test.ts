// Another process holds the write lock: reads and the event loop go on, writes wait or say so.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Worker } from 'node:worker_threads';
import Sqlite from 'better-sqlite3';
import { openWriter } from '../../src/storage/sqlite-database.ts';
import { refused } from '../helpers/nix-scratch.ts';
import { startProgram } from '../helpers/programs.ts';
import { cachedPath, emptyState } from '../helpers/rows.ts';

for (const writer of ['inline', 'thread'] as const) {
  describe(`a foreign lock, writer ${writer}`, () => {
    test('of 1.5 s stalls neither reads nor timers, and the write comes through', async () => {
      await using made = await emptyState(writer);
      const { state } = made;
      const [before, row] = [cachedPath('before'), cachedPath('during')];
      await state.addCachedPaths([before], 1000);
      await using holder = startProgram('hold-write-lock.ts', made.file, '1500');
      assert.equal(await holder.line(), 'held');

      const start = performance.now();
      let stored = false;
      const write = state.addCachedPaths([row], 1000).then(() => {
        stored = true;
      });
      let longest = 0;
      let reads = 0;
      while (!stored && performance.now() - start < 10_000) {
        const turn = performance.now();
        await sleep(5);
        assert.equal((await state.cachedPaths([before.path])).length, 1);
        longest = Math.max(longest, performance.now() - turn);
        if (!stored) reads++;
      }
      await write;
      assert.ok(performance.now() - start > 1000, 'the write waited for the lock');
      assert.ok(reads > 5, `only ${reads} reads meanwhile`);
      // One that waits within the call stands still for as long as the lock is held, 1.5 s.
      assert.ok(longest < 1000, `the event loop stood still for ${longest} ms`);
      assert.deepEqual(await state.cachedPaths([row.path]), [row]);
    });

    test('that outlasts patience is E_STATE_BUSY, for all that waited', async () => {
      await using made = await emptyState(writer, 200);
      const { state } = made;
      await using holder = startProgram('hold-write-lock.ts', made.file, '60000');
      await holder.line();
      const start = performance.now();
      const writes = [1, 2, 3].map((pid) =>
        assert.rejects(state.recordLease(pid, 1), (error: Error & { hint?: string }) => {
          assert.match(error.hint ?? '', /again/);
          return refused('E_STATE_BUSY', /fleet\.db is locked/)(error);
        }),
      );
      await Promise.all(writes);
      assert.ok(performance.now() - start < 2000, 'they did not wait one after the other');
      await holder.kill('SIGKILL');
      // Its writer is as good as before.
      assert.equal((await state.recordLease(4, 1)).pid, 4);
    });
  });
}

test('two processes that open and write at once never see each other', async () => {
  await using made = await emptyState('inline');
  await using holder = startProgram('hold-write-lock.ts', made.file, '300');
  await holder.line();
  const rows = Array.from({ length: 20 }, (_, i) => cachedPath(`row ${i}`));
  await Promise.all(rows.map((row) => made.state.addCachedPaths([row], 1000)));
  assert.equal((await made.state.cachedPaths(rows.map((row) => row.path))).length, 20);
});

test('a database thread that dies is replaced: what it was asked fails, what comes next does not', async () => {
  const started: Worker[] = [];
  const note = (worker: Worker): void => void started.push(worker);
  process.on('worker', note);
  try {
    await using made = await emptyState('thread');
    const { state } = made;
    await state.recordLease(1, 1);
    await started[0]?.terminate();
    assert.equal((await state.recordLease(2, 1)).pid, 2);
    // Calls at the same time start one thread, not one each.
    await started[1]?.terminate();
    await Promise.all([3, 4, 5].map((pid) => state.recordLease(pid, 1)));
    assert.equal(started.length, 3);
  } finally {
    process.off('worker', note);
  }
});

test('what is written after the database was closed is refused, and starts no thread', async () => {
  const started: Worker[] = [];
  const note = (worker: Worker): void => void started.push(worker);
  process.on('worker', note);
  try {
    const made = await emptyState('thread');
    const { state } = made;
    // One whose thread died just before is not replaced by closing.
    await started[0]?.terminate();
    const late = state.recordLease(1, 1);
    await Promise.all([made[Symbol.asyncDispose](), assert.rejects(late, { code: 'E_INTERNAL' })]);
    await assert.rejects(state.recordLease(2, 1), { code: 'E_INTERNAL', message: /closed/ });
    assert.equal(started.length, 1);
  } finally {
    process.off('worker', note);
  }
  await using made = await emptyState('thread');
  await made.state[Symbol.asyncDispose]();
  await assert.rejects(made.state.recordLease(2, 1), { code: 'E_INTERNAL', message: /closed/ });
});

test('the writing connection waits for the disk at each commit', async () => {
  await using made = await emptyState();
  const db = new Sqlite(made.file);
  assert.equal(db.pragma('journal_mode', { simple: true }), 'wal');
  db.close();
  const writer = await openWriter(made.file, performance.now() + 1000);
  // 2 is FULL: in WAL mode anything less loses commits in a power cut.
  assert.equal(writer.pragma('synchronous', { simple: true }), 2);
  writer.close();
});
