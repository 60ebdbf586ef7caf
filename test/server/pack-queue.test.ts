// Steps that wait for their packs: each once, those of many in turns, and no more than there is room for.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { PackQueue } from '../../src/server/pack-queue.ts';
import type { BlobId } from '../../src/storage/blobs.ts';
import type { PackStep } from '../../src/storage/packs.ts';
import { hex } from '../helpers/rows.ts';

const step = (seed: string, base: string | null = null): PackStep => ({
  closure: hex(seed) as BlobId,
  base: base === null ? null : (hex(base) as BlobId),
});

function drained(queue: PackQueue): PackStep[] {
  const steps: PackStep[] = [];
  for (let next = queue.next(); next !== null; next = queue.next()) steps.push(next);
  return steps;
}

test('steps come in turns of those who asked, each once', () => {
  const queue = new PackQueue();
  for (const seed of ['p1', 'p2', 'p3']) assert.ok(queue.add(step(seed), null));
  for (const seed of ['a1', 'a2']) assert.ok(queue.add(step(seed), 'a'));
  assert.ok(queue.add(step('b1'), 'b'));
  assert.ok(queue.add(step('a1'), 'b'));
  assert.equal(queue.size, 6);
  assert.deepEqual(
    drained(queue),
    ['p1', 'a1', 'b1', 'p2', 'a2', 'p3'].map((seed) => step(seed)),
  );
  assert.equal(queue.size, 0);
  assert.equal(queue.next(), null);
});

test('what a host asks for does not wait for all of a publication', () => {
  const queue = new PackQueue();
  for (let i = 0; i < 100; i++) queue.add(step(`p${i}`), null);
  assert.ok(queue.add(step('p99'), 'a'));
  assert.equal(queue.size, 100);
  assert.deepEqual([queue.next(), queue.next()], [step('p0'), step('p99')]);
  assert.ok(!queue.has(step('p99')));
  // A publication changes nothing of what somebody asked for.
  queue.add(step('x'), 'a');
  queue.add(step('x'), null);
  assert.equal(queue.size, 99);
});

test('steps with another base are others', () => {
  const queue = new PackQueue();
  queue.add(step('p', 'a'), null);
  queue.add(step('p', 'b'), null);
  queue.add(step('p'), null);
  assert.equal(queue.size, 3);
});

test('one who asks has room for a few, and all together for no more than some hundred', () => {
  const queue = new PackQueue();
  const asked = (who: string) =>
    [1, 2, 3, 4, 5].map((i) => queue.add(step(`${who} ${i}`), who)).filter((added) => added).length;
  assert.equal(asked('a'), 4);
  for (let i = 0; i < 63; i++) assert.equal(asked(`h${i}`), 4);
  assert.equal(queue.size, 256);
  assert.equal(queue.add(step('one more'), 'z'), false);
  // A publication has as many steps as hosts make.
  for (let i = 0; i < 1000; i++) assert.ok(queue.add(step(`p${i}`), null));
  assert.equal(queue.size, 1256);
  // Those are coming anyway.
  assert.equal(queue.add(step('p5'), 'z'), true);
  queue.next();
  queue.next();
  assert.equal(queue.add(step('one more'), 'z'), true);
});
