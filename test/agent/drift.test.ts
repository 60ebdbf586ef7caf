import assert from 'node:assert/strict';
import { test } from 'node:test';
import { driftOf } from '../../src/agent/drift.ts';
import type { StorePath } from '../../src/nix/storepath.ts';

const [ours, target, other] = ['a', 'b', 'c'].map(
  (c) => `/nix/store/${c.repeat(32)}-system` as StorePath,
) as [StorePath, StorePath, StorePath];

test('a machine that is as its agent left it, or as it is to be, has not drifted', () => {
  for (const current of [ours, target, null]) {
    for (const profile of [ours, target, null]) {
      assert.equal(driftOf({ current, profile }, [ours], target), null);
    }
  }
  assert.equal(driftOf({ current: other, profile: other }, [], target), null);
});

test('what somebody else switched to, or set for the next boot, is told by its name', () => {
  const told = (current: StorePath, profile: StorePath) => {
    const { phase, reason } = driftOf({ current, profile }, [ours], target) ?? {};
    assert.deepEqual([phase, reason?.code], ['drifted', 'local-switch']);
    return reason?.text ?? '';
  };
  assert.match(told(other, ours), /switched to .*c-system;/);
  assert.match(told(other, other), /switched to .*c-system;/);
  assert.match(told(ours, other), /set to boot .*c-system;/);
});
