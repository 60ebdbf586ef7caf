// One publisher at a time, with real processes: the lease ends with its process, however it ends.
import assert from 'node:assert/strict';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { acquireLease } from '../../src/storage/lease.ts';
import type { LeaseHolder } from '../../src/storage/state.ts';
import { refused } from '../helpers/nix-scratch.ts';
import { startProgram } from '../helpers/programs.ts';
import { commitManifests, emptyState, manifest } from '../helpers/rows.ts';

test('a lease is recorded with a growing fence, and ends when disposed of', async () => {
  await using made = await emptyState();
  const { state } = made;
  const file = join(made.dir, 'publish.lock');
  const take = () => acquireLease({ file, state, now: () => 1234 });
  let fence = 0;
  for (let turn = 0; turn < 3; turn++) {
    await using lease = await take();
    assert.deepEqual(lease.holder, { pid: process.pid, since: 1234, fence: fence + 1 });
    assert.deepEqual(await state.leaseHolder(), lease.holder);
    fence = lease.holder.fence;
  }
});

test('the second of one process waits for the first', async () => {
  await using made = await emptyState();
  const { state } = made;
  const file = join(made.dir, 'publish.lock');
  const first = await acquireLease({ file, state });
  let taken = false;
  const second = acquireLease({ file, state }).then((lease) => {
    taken = true;
    return lease;
  });
  await sleep(350);
  assert.equal(taken, false);
  await first[Symbol.asyncDispose]();
  await using lease = await second;
  assert.equal(lease.holder.fence, first.holder.fence + 1);
});

test('a killed holder frees it; whom it waits for is told once', async () => {
  await using made = await emptyState();
  const { state } = made;
  await using other = startProgram('hold-lease.ts', made.dir);
  const theirs = Number(await other.line());

  const told: (LeaseHolder | null)[] = [];
  let taken = false;
  const waiting = acquireLease({
    file: join(made.dir, 'publish.lock'),
    state,
    onWait: (holder) => told.push(holder),
  }).then((lease) => {
    taken = true;
    return lease;
  });
  while (told.length === 0) await sleep(20);
  // It polls: by then it would have been told again.
  await sleep(500);
  assert.equal(taken, false);
  assert.deepEqual(
    told.map((holder) => [holder?.pid, holder?.fence]),
    [[other.pid, theirs]],
  );
  await other.kill('SIGKILL');
  await using lease = await waiting;
  assert.equal(told.length, 1);
  assert.equal(lease.holder.fence, theirs + 1);
  // What the killed one might still have wanted to publish is refused.
  await assert.rejects(
    commitManifests(state, [manifest('a', 1, 1)], theirs, 1000),
    refused('E_LEASE_LOST', /this process lost/),
  );
});

test('waiting can be called off', async () => {
  await using made = await emptyState();
  const { state } = made;
  const file = join(made.dir, 'publish.lock');
  await using held = await acquireLease({ file, state });
  const off = new AbortController();
  const waiting = acquireLease({ file, state, signal: off.signal });
  setTimeout(() => off.abort(new Error('called off')), 150);
  await assert.rejects(waiting, /called off/);
  await assert.rejects(acquireLease({ file, state, signal: off.signal }), /called off/);
  assert.deepEqual(await state.leaseHolder(), held.holder);
});

test('a lock file that cannot be opened is named', async () => {
  await using made = await emptyState();
  const file = join(made.dir, 'publish.lock');
  await mkdir(file);
  await assert.rejects(
    acquireLease({ file, state: made.state }),
    refused('E_STATE_ACCESS', /publish\.lock/),
  );
});
