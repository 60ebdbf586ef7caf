// When the agent asks next.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  afterHint,
  DUE_SPREAD,
  dueAt,
  HINT_GAP,
  type Past,
  untilNext,
} from '../../src/agent/schedule.ts';

const PACE = { poll: 900_000, isPrivate: false };
const NEVER: Past = { endedAt: null, hintedAt: null, failures: 0, due: null };
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

test('what a run waits for until a moment is looked at then, not only at the pace; a private host keeps to its own', () => {
  const due = 61_000;
  for (const random of [0, 0.5, 1]) {
    assert.equal(untilNext(PACE, past({ due }), 1000, random), 60_000 + DUE_SPREAD * random);
    const later = past({ due: 10_000_000 });
    assert.equal(untilNext(PACE, later, 1000, random), untilNext(PACE, past({}), 1000, random));
    const pace = { ...PACE, isPrivate: true };
    const usual = untilNext(pace, past({}), 1000, random);
    assert.equal(untilNext(pace, past({ due }), 1000, random), usual);
  }
  assert.equal(untilNext(PACE, past({ due }), 500_000, 0.5), 0);
  // Never one run on the heels of another.
  assert.equal(untilNext(PACE, past({ due: 1000 }), 1000, 0), 10_000);
  // After a failure it comes no later either.
  assert.equal(untilNext(PACE, past({ due, failures: 6 }), 1000, 0), 60_000);
});

test('a time of the machine’s clock becomes one of the clock that never jumps', () => {
  assert.equal(dueAt(null, 1_800_000_000_000, 5000), null);
  assert.equal(dueAt(1_800_000_060, 1_800_000_000_000, 5000), 65_000);
  // It came while the run ended.
  assert.equal(dueAt(1_800_000_000, 1_800_000_060_000, 5000), 5000);
  // The run counted by a time that was proved to it; this machine's clock is ahead.
  assert.equal(dueAt(1_800_000_000, 1_800_000_060_001, 5000), null);
});
