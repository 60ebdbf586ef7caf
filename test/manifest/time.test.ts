import assert from 'node:assert/strict';
import { test } from 'node:test';
import { formatTime, parseTime } from '../../src/manifest/time.ts';
import { refuses } from '../helpers/trust.ts';

test('times are read and written in one spelling', () => {
  for (const [text, seconds] of [
    ['1970-01-01T00:00:00Z', 0],
    ['2000-02-29T23:59:59Z', 951_868_799],
    ['2026-03-01T12:00:00Z', 1_772_366_400],
    ['9999-12-31T23:59:59Z', 253_402_300_799],
  ] as const) {
    assert.equal(parseTime(text), seconds);
    assert.equal(formatTime(seconds), text);
  }
});

test('a date that no calendar has is an error, never "not expired"', () => {
  for (const text of [
    '2026-02-29T00:00:00Z',
    '2026-04-31T00:00:00Z',
    '2026-13-01T00:00:00Z',
    '2026-00-01T00:00:00Z',
    '2026-01-00T00:00:00Z',
    '2026-01-32T00:00:00Z',
    '1900-02-29T00:00:00Z',
    '2026-01-01T24:00:00Z',
    '2026-01-01T23:60:00Z',
    '2026-12-31T23:59:60Z',
    '1969-12-31T23:59:59Z',
  ]) {
    refuses('E_TIME', () => parseTime(text));
  }
});

test('any other spelling of a time is an error', () => {
  for (const text of [
    '',
    'never',
    '2026-01-01',
    '2026-01-01T00:00:00',
    '2026-01-01T00:00:00z',
    '2026-01-01t00:00:00Z',
    '2026-01-01 00:00:00Z',
    '2026-01-01T00:00:00.000Z',
    '2026-01-01T00:00:00+00:00',
    '2026-1-1T0:0:0Z',
    '+002026-01-01T00:00:00Z',
    '10000-01-01T00:00:00Z',
    '2026-01-01T00:00:00Z\n',
    ' 2026-01-01T00:00:00Z',
    '٢٠٢٦-01-01T00:00:00Z',
    '1767225600',
  ]) {
    refuses('E_TIME', () => parseTime(text));
  }
});

test('seconds outside the years 1970 to 9999 are not written', () => {
  for (const seconds of [-1, 0.5, 253_402_300_800, Number.NaN, Number.POSITIVE_INFINITY]) {
    refuses('E_TIME', () => formatTime(seconds));
  }
});
