// When the agent asks next.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { afterHint, HINT_GAP, type Past, untilNext } from '../../src/agent/schedule.ts';

const PACE = { poll: 900_000, isPrivate: false };
const NEVER: Past = { endedAt: null, hintedAt: null, failures: 0 };
const past = (changes: Partial<Past>): Past => ({ ...NEVER, endedAt: 1000, ...changes });

test('the first question comes at once, the next at the pace, ten percent either way', () => {
  assert.equal(untilNext(PACE, NEVER, 5000, 0.5), 0);
  assert.equal(untilNext(PACE, past({}), 1000, 0.5), 900_000);
  assert.equal(untilNext(PACE, past({}), 1000, 0), 810_000);
  assert.equal(untilNext(PACE, past({}), 1000, 1), 990_000);
  assert.equal(untilNext(PACE, past({}), 601_000, 0.5), 300_000);
  assert.equal(untilNext(PACE, past({}), 5_000_000, 0.5), 0);
});

test('a private host asks at any time from half of its pace to one and a half', () => {
  const pace = { ...PACE, isPrivate: true };
  assert.equal(untilNext(pace, past({}), 1000, 0), 450_000);
  assert.equal(untilNext(pace, past({}), 1000, 1), 1_350_000);
});

test('what failed is tried again sooner, and ever later, never later than usual', () => {
  const waits = [1, 2, 3, 4, 5, 6, 7, 50].map((failures) =>
    untilNext(PACE, past({ failures }), 1000, 0.5),
  );
  assert.deepEqual(
    waits,
    [30, 60, 120, 240, 480, 900, 900, 900].map((s) => s * 1000),
  );
  assert.equal(untilNext({ ...PACE, poll: 10_000 }, past({ failures: 3 }), 1000, 0.5), 10_000);
});

test('one question in ten seconds follows from hints, within half a second of the first', () => {
  for (const random of [0, 0.5, 1]) {
    assert.ok(afterHint(past({}), 2000, random) <= 500);
    assert.equal(afterHint(past({ hintedAt: 2000 }), 3000, random), HINT_GAP - 1000);
    assert.ok(afterHint(past({ hintedAt: 2000 }), 60_000, random) <= 500);
  }
});
