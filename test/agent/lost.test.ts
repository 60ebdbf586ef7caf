import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type Lost, lostAgain, needsServer, waitingAfterLoss } from '../../src/agent/lost.ts';

const MANIFEST = { sha256: 'a'.repeat(64) };
const OTHER = { sha256: 'b'.repeat(64) };
const REASON = { code: 'E_SERVER_LOST', text: 'silence' };

function lost(count: number, at = 1_800_000_000): Lost {
  let all: Lost | null = null;
  for (let i = 0; i < count; i++) all = lostAgain(all, MANIFEST, REASON, at);
  assert.ok(all);
  return all;
}

test('each loss waits four times as long, up to a limit; to the second', () => {
  for (const [count, minutes] of [
    [1, 1],
    [2, 4],
    [3, 16],
    [4, 64],
    [5, 256],
    [6, 256],
    [1000, 256],
  ] as const) {
    const one = lost(count);
    const end = one.at + minutes * 60;
    assert.equal(waitingAfterLoss(one, MANIFEST, end), null);
    for (const now of [one.at, end - 1]) {
      const { phase, reason } = waitingAfterLoss(one, MANIFEST, now) ?? {};
      assert.deepEqual([phase, reason?.code], ['rolled-back', 'E_SERVER_LOST']);
      assert.match(reason?.text ?? '', /^silence; tried again from 2027-/);
    }
  }
});

test('a clock that went back, another manifest, and no loss wait for nothing', () => {
  const one = lost(5);
  assert.equal(waitingAfterLoss(one, MANIFEST, one.at - 1), null);
  assert.equal(waitingAfterLoss(one, OTHER, one.at), null);
  assert.equal(waitingAfterLoss(null, MANIFEST, one.at), null);
});

test('a run that broke off is tried again at once, and then as one that lost the server', () => {
  let broke: Lost | null = null;
  for (const minutes of [0, 1, 4, 16]) {
    broke = lostAgain(broke, MANIFEST, { code: 'E_INTERRUPTED', text: 'cut' }, 1000);
    assert.equal(waitingAfterLoss(broke, MANIFEST, 1000 + minutes * 60), null);
    if (minutes > 0) assert.ok(waitingAfterLoss(broke, MANIFEST, 1000 + minutes * 60 - 1));
    assert.ok(needsServer(broke, MANIFEST, {}));
  }
  assert.equal(lostAgain(broke, MANIFEST, REASON, 5).count, 1);
});

test('another manifest is counted from the beginning', () => {
  assert.equal(lost(3).count, 3);
  const next = lostAgain(lost(3), OTHER, REASON, 5);
  assert.deepEqual(next, { ...OTHER, count: 1, at: 5, reason: REASON });
});

test('after three losses the policy decides; without one, local checks alone', () => {
  const needs = (count: number, policy: object) =>
    needsServer(count === 0 ? null : lost(count), MANIFEST, policy);
  for (const policy of [{}, { serverLost: 'local-checks' }]) {
    assert.deepEqual(
      [0, 1, 2, 3, 4].map((count) => needs(count, policy)),
      [true, true, true, false, false],
    );
  }
  assert.ok([0, 3, 100].every((count) => needs(count, { serverLost: 'rollback' })));
  assert.ok(needsServer(lost(3), OTHER, {}));
});
