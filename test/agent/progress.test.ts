// How long a fetch still goes on, as far as what came tells.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { secondsLeft } from '../../src/agent/progress.ts';

const of = (done: number, total: number) => ({ done, total });

test('without a pack: as NARs come', () => {
  const left = (done: number) => secondsLeft({ bytes: of(done, 100), line: null, elapsed: 10_000 });
  assert.deepEqual([0, 1, 50, 100].map(left), [null, 990, 10, 0]);
});

test('with a pack: as that comes, and once it is there, as NARs go to Nix', () => {
  const left = (line: number, done: number) =>
    secondsLeft({ bytes: of(done, 1000), line: of(line, 40), elapsed: 30_000 });
  assert.equal(left(0, 500), null);
  assert.equal(left(10, 0), 90);
  assert.equal(left(30, 0), 10);
  assert.equal(left(40, 0), null);
  assert.equal(left(40, 750), 10);
  // All of it was here from an earlier run.
  assert.equal(secondsLeft({ bytes: of(1, 2), line: of(0, 0), elapsed: 1000 }), 1);
});
