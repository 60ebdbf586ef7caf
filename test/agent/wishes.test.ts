// What people at a machine may ask for, and for how long: refusals say what would be possible.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type Local, NO_LOCAL } from '../../src/agent/local.ts';
import {
  applyNow,
  defer,
  forget,
  goBack,
  hold,
  MAX_REQUESTS,
  MAX_WORDS,
  parseDuration,
  parseWords,
  plead,
  ready,
  release,
  wishesFor,
} from '../../src/agent/wishes.ts';
import { parseStorePath } from '../../src/nix/storepath.ts';

const NOW = 1_800_000_000;
const HOUR = 3600;
const COMING = {
  sha256: 'a'.repeat(64),
  epoch: 1,
  sequence: 7,
  toplevel: parseStorePath(`/nix/store/${'0'.repeat(32)}-system`),
  narBytes: 1000,
  deferHours: 8,
};
const OTHER = { ...COMING, sha256: 'b'.repeat(64) };
const WAITS: Local = ready(NO_LOCAL, COMING, NOW);

test('what is coming may be put off until so many hours after it was ready at first', () => {
  const four = defer(WAITS, 4 * HOUR, 'local group', NOW + 2 * HOUR);
  assert.deepEqual(four.deferred, {
    sha256: COMING.sha256,
    until: NOW + 6 * HOUR,
    who: 'local group',
  });
  assert.equal(defer(WAITS, 8 * HOUR, 'root', NOW).deferred?.until, NOW + 8 * HOUR);
  assert.throws(() => defer(WAITS, 8 * HOUR + 1, 'root', NOW), {
    code: 'E_LOCAL_DEFERRAL',
    message: /until 2027-01-15T16:00:00Z at the latest/,
  });
  assert.throws(() => defer(four, 6 * HOUR, 'root', NOW + 3 * HOUR), { code: 'E_LOCAL_DEFERRAL' });
  assert.throws(() => defer(WAITS, 1, 'root', NOW + 9 * HOUR), { message: /which is over/ });
});

test('nothing is put off where nothing waits, or where the host allows none', () => {
  assert.throws(() => defer(NO_LOCAL, HOUR, 'root', NOW), { code: 'E_LOCAL_NOTHING' });
  assert.throws(() => applyNow(NO_LOCAL, 'root'), { code: 'E_LOCAL_NOTHING' });
  const never = ready(NO_LOCAL, { ...COMING, deferHours: null }, NOW);
  assert.throws(() => defer(never, HOUR, 'root', NOW), { code: 'E_LOCAL_DEFERRAL' });
});

test('when it was ready at first stays, until something else comes', () => {
  assert.equal(ready(WAITS, COMING, NOW + HOUR), WAITS);
  const put = defer(WAITS, HOUR, 'root', NOW);
  const other = ready(put, OTHER, NOW + HOUR);
  assert.equal(other.coming?.since, NOW + HOUR);
  assert.equal(other.deferred, null);
});

test('of several wishes about one update the last one counts; none is about another', () => {
  const put = defer(WAITS, HOUR, 'local group', NOW);
  const deferred = { deferredUntil: NOW + HOUR, applyNow: false, who: 'local group' };
  const none = { deferredUntil: null, applyNow: false, who: null };
  assert.deepEqual(wishesFor(put, COMING.sha256), deferred);
  assert.deepEqual(wishesFor(put, OTHER.sha256), none);
  const at = applyNow(put, 'root');
  assert.deepEqual(wishesFor(at, COMING.sha256), { ...none, applyNow: true, who: 'root' });
  assert.deepEqual(wishesFor(defer(at, HOUR, 'local group', NOW), COMING.sha256), deferred);
  assert.deepEqual(wishesFor(forget(at), COMING.sha256), none);
});

test('what is held ends with another manifest, or by force', () => {
  const held = hold(
    { ...WAITS, back: { reason: 'x', who: 'root', at: NOW, begun: null } },
    { sha256: COMING.sha256, reason: 'x', who: 'root', at: NOW },
  );
  assert.equal(held.back, null);
  assert.equal(held.coming, null);
  assert.equal(release(held, COMING.sha256, false), held);
  assert.equal(release(held, COMING.sha256, true).held, null);
  assert.equal(release(held, OTHER.sha256, false).held, null);
});

test('a way back that is under way is not changed by another wish', () => {
  const first = goBack(NO_LOCAL, 'one', 'local group', NOW);
  assert.equal(goBack(first, 'two', 'root', NOW).back?.reason, 'two');
  const begun = { to: COMING.toplevel, manifest: null };
  const begins: Local = { ...first, back: { reason: 'one', who: 'root', at: NOW, begun } };
  assert.equal(goBack(begins, 'two', 'root', NOW), begins);
});

test('requests are bounded in number', () => {
  let local = NO_LOCAL;
  const ask = () => plead(local, { id: '0'.repeat(16), text: ' please ', who: 'local group' }, NOW);
  for (let i = 0; i < MAX_REQUESTS; i++) local = ask();
  assert.equal(local.requests[0]?.text, 'please');
  assert.throws(ask, { code: 'E_RATE_LIMITED' });
});

test('words are one line of printable text, and not too long', () => {
  for (const text of [
    'please install gimp',
    'Grüße, 日本語',
    'a'.repeat(MAX_WORDS),
    '👩\u200d🔬',
  ]) {
    assert.equal(parseWords(text, 'request'), text);
  }
  const refused = [
    '',
    '  ',
    'two\nlines',
    'bell\u0007',
    'esc\u001b[31m',
    'turned \u202e round',
    'a\u2028b',
    '\ud800',
    'a'.repeat(MAX_WORDS + 1),
    'ü'.repeat(MAX_WORDS / 2 + 1),
  ];
  for (const text of refused) {
    assert.throws(() => parseWords(text, 'request'), { code: 'E_LOCAL_WORDS' }, text);
  }
});

test('times are a number and a unit', () => {
  assert.deepEqual(['30m', '4h', '2d'].map(parseDuration), [1800, 14_400, 172_800]);
  for (const text of ['', '4', 'h', '0h', '-1h', '4H', '1.5h', '4h ', '4s', '1000000h']) {
    assert.throws(() => parseDuration(text), { code: 'E_USAGE' }, text);
  }
});
