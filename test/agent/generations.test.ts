// Which generations go, and that what is needed never does. (With the real Nix: test/e2e/generations.test.ts.)
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type Generation, unwanted } from '../../src/agent/generations.ts';
import type { StorePath } from '../../src/nix/storepath.ts';

const NOW = 1_800_000_000;
const path = (name: string) => `/nix/store/${name.repeat(32)}-system` as StorePath;
const all = (...days: number[]): Generation[] =>
  days.map((old, i) => ({ number: i + 1, path: path(String(i)), at: NOW - old * 86_400 }));
const numbers = (given: readonly Generation[]) => given.map(({ number }) => number);

test('the newest stay, and the young, and what is held; the rest goes, oldest first', () => {
  const five = all(50, 40, 30, 20, 10);
  const keep = (count: number, days: number, ...held: StorePath[]) =>
    numbers(unwanted(five, { count, days }, new Set(held), NOW));
  assert.deepEqual(keep(2, 0), [1, 2, 3]);
  assert.deepEqual(keep(1, 35), [1, 2]);
  assert.deepEqual(keep(1, 30), [1, 2]);
  assert.deepEqual(keep(1, 0, path('1')), [1, 3, 4]);
  assert.deepEqual(keep(9, 0), []);
  assert.deepEqual(numbers(unwanted([], { count: 1, days: 0 }, new Set(), NOW)), []);
});
