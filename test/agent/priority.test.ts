import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { getPriority } from 'node:os';
import { test } from 'node:test';
import { atLowPriority } from '../../src/agent/priority.ts';

const niceOf = (through: readonly string[]): number => {
  const [program = 'nice', ...args] = [...through, 'nice'];
  return Number(execFileSync(program, args));
};

test('children leave processor and disk to others meanwhile, and not afterwards', async () => {
  const before = getPriority();
  await atLowPriority(async (through) => {
    assert.equal(niceOf(through), Math.max(before, 10));
    if (through.includes('ionice')) {
      const [program = '', ...args] = [...through, 'ionice'];
      assert.match(String(execFileSync(program, args)), /^best-effort: prio 7/);
    }
  });
  assert.equal(getPriority(), before);
  assert.equal(niceOf([]), before);
});

test('also where it fails', async () => {
  const before = getPriority();
  await assert.rejects(
    atLowPriority(async () => {
      throw new Error('no');
    }),
  );
  assert.equal(getPriority(), before);
});
