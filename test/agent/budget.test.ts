import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setImmediate as turn } from 'node:timers/promises';
import { Budget } from '../../src/agent/budget.ts';

test('there is never more out than there is, and who came first is first', async () => {
  const budget = new Budget(10);
  const log: string[] = [];
  const a = await budget.take(6);
  const b = budget.take(6).then((held) => {
    log.push('b');
    return held;
  });
  // Would fit, but came later.
  const c = budget.take(2).then((held) => {
    log.push('c');
    return held;
  });
  await turn();
  assert.deepEqual(log, []);
  a[Symbol.dispose]();
  await Promise.all([b, c]);
  assert.deepEqual(log, ['b', 'c']);
  const d = budget.take(3);
  let isThere = false;
  void d.then(() => {
    isThere = true;
  });
  await turn();
  assert.equal(isThere, false);
  (await b)[Symbol.dispose]();
  await d;
});

test('what is larger than all of it gets all of it', async () => {
  const budget = new Budget(10);
  using _ = await budget.take(1000);
  let isThere = false;
  void budget.take(1).then(() => {
    isThere = true;
  });
  await turn();
  assert.equal(isThere, false);
});
