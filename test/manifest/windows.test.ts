// Weekly windows, held against a reading of the clock minute by minute that shares nothing with them: another way to
// ask for the wall's time, and the rule as SPEC §4.4 says it.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { formatWindow, isOpen, nextOpen, parseWindow } from '../../src/manifest/windows.ts';
import { refuses } from '../helpers/trust.ts';

const NAMES = ['Sun', 'Mon', 'Tue', 'Wed', 'Thu', 'Fri', 'Sat'];
const at = (text: string): number => Date.parse(text) / 1000;
const iso = (seconds: number | null): string =>
  seconds === null ? 'never' : new Date(seconds * 1000).toISOString().slice(0, 16);

type Given = { days: readonly string[]; start: string; end: string; zone: string };

const formats = new Map<string, Intl.DateTimeFormat>();

/** Day and time on the wall, by the words of another language. */
function wallAt(zone: string, seconds: number): { day: string; yesterday: string; time: string } {
  let format = formats.get(zone);
  if (format === undefined) {
    const shown = { dateStyle: 'short', timeStyle: 'short' } as const;
    format = new Intl.DateTimeFormat('sv-SE', { timeZone: zone, ...shown });
    formats.set(zone, format);
  }
  const [date = '', time = ''] = format.format(seconds * 1000).split(' ');
  const weekday = new Date(`${date}T00:00:00Z`).getUTCDay();
  return { day: NAMES[weekday] ?? '', yesterday: NAMES[(weekday + 6) % 7] ?? '', time };
}

/** The rule, word by word. */
function isOpenByRule({ days, start, end, zone }: Given, seconds: number): boolean {
  const { day, yesterday, time } = wallAt(zone, seconds);
  if (end > start) return days.includes(day) && start <= time && time < end;
  return (days.includes(day) && time >= start) || (days.includes(yesterday) && time < end);
}

const textOf = ({ days, start, end, zone }: Given) =>
  `${days.join(',')} ${start}-${end} ${zone}`.trim();

const two = (n: number): string => String(n).padStart(2, '0');
const time = fc.tuple(fc.integer({ min: 0, max: 23 }), fc.integer({ min: 0, max: 59 }));
/** Zones whose clocks change, at other hours, by other amounts, or not at all; and a moment near a change. */
const MOMENTS: [zone: string, near: string][] = [
  ['Europe/Berlin', '2026-03-29T01:00:00Z'],
  ['Europe/Berlin', '2026-10-25T01:00:00Z'],
  ['America/New_York', '2026-03-08T07:00:00Z'],
  ['America/New_York', '2026-11-01T06:00:00Z'],
  ['Australia/Lord_Howe', '2026-04-04T15:00:00Z'],
  ['Australia/Lord_Howe', '2026-10-03T15:30:00Z'],
  ['America/Santiago', '2026-09-06T04:00:00Z'],
  ['Africa/Casablanca', '2026-02-15T02:00:00Z'],
  // A whole day that never was.
  ['Pacific/Apia', '2011-12-30T10:00:00Z'],
  ['Asia/Kathmandu', '2026-06-01T00:00:00Z'],
  ['UTC', '2026-12-31T23:59:00Z'],
];
const given = fc
  .record({
    days: fc.subarray(NAMES, { minLength: 1 }),
    from: time,
    to: time,
    moment: fc.constantFrom(...MOMENTS),
    /** Most windows are near the change, so that it matters to them. */
    minutes: fc.integer({ min: -5 * 24 * 60, max: 2 * 24 * 60 }),
    seconds: fc.integer({ min: 0, max: 59 }),
  })
  .map(({ days, from, to, moment: [zone, near], minutes, seconds }) => ({
    window: {
      days,
      start: from.map(two).join(':'),
      end: to[0] === 0 && to[1] === 0 ? '24:00' : to.map(two).join(':'),
      zone,
    },
    now: at(near) + minutes * 60 + seconds,
  }))
  .filter(({ window }) => window.start !== window.end);

test('open is what the clock on the wall says, and next is the first minute of which that is true', () => {
  fc.assert(
    fc.property(fc.array(given, { minLength: 1, maxLength: 2 }), (all) => {
      const now = all[0]?.now ?? 0;
      const windows = all.map(({ window }) => parseWindow(textOf(window)));
      const isOpenThen = (seconds: number): boolean =>
        all.some(({ window }) => isOpenByRule(window, seconds));
      assert.equal(isOpen(windows, now), isOpenThen(now));
      let expected = now;
      while (!isOpenThen(expected)) expected = (Math.floor(expected / 60) + 1) * 60;
      assert.equal(iso(nextOpen(windows, now)), iso(expected));
      assert.ok((nextOpen(windows, now) ?? 0) >= now);
    }),
    { numRuns: 300 },
  );
});

test('what is parsed is formatted as it was, and one spelling stands for many', () => {
  fc.assert(
    fc.property(given, ({ window }) => {
      const parsed = parseWindow(textOf(window));
      assert.deepEqual(parseWindow(formatWindow(parsed)), parsed);
    }),
  );
  for (const [text, same] of [
    ['daily 02:00-04:00 UTC', '02:00-04:00 UTC'],
    ['Mon..Sun 02:00-04:00', '02:00-04:00'],
    ['Fri..Mon 22:00-05:00 Europe/Berlin', 'Mon,Fri,Sat,Sun 22:00-05:00 Europe/Berlin'],
    ['Tue,Mon,Mon..Tue 00:00-24:00', 'Mon,Tue 00:00-24:00'],
    ['Sat..Sat 23:00-00:00 Etc/GMT+5', 'Sat 23:00-00:00 Etc/GMT+5'],
  ] as const) {
    assert.equal(formatWindow(parseWindow(text)), same);
  }
});

test('a window goes past midnight and the end of the week, and belongs to the day on which it begins', () => {
  const windows = [parseWindow('Sun 22:00-05:00 Europe/Berlin')];
  // 2026-03-01 is a Sunday.
  const open = (text: string) => isOpen(windows, at(text));
  assert.deepEqual(
    [
      '2026-03-01T20:59:59Z',
      '2026-03-01T21:00:00Z',
      '2026-03-02T03:59:59Z',
      '2026-03-02T04:00:00Z',
    ].map(open),
    [false, true, true, false],
  );
  // One that was missed comes again.
  assert.equal(iso(nextOpen(windows, at('2026-03-02T04:00:00Z'))), '2026-03-08T21:00');
});

test('a whole day is open from its first minute to its last', () => {
  const windows = [parseWindow('Sat 00:00-24:00 UTC')];
  const open = (text: string) => isOpen(windows, at(text));
  assert.deepEqual(
    ['2026-03-06T23:59:59Z', '2026-03-07T00:00:00Z', '2026-03-07T12:00:00Z'].map(open),
    [false, true, true],
  );
  assert.deepEqual(['2026-03-07T23:59:59Z', '2026-03-08T00:00:00Z'].map(open), [true, false]);
});

test('an hour that the clock skips has no window; one that comes twice has it twice', () => {
  const windows = [parseWindow('02:15-02:45 Europe/Berlin')];
  assert.equal(iso(nextOpen(windows, at('2026-03-28T12:00:00Z'))), '2026-03-30T00:15');
  assert.equal(iso(nextOpen(windows, at('2026-10-24T12:00:00Z'))), '2026-10-25T00:15');
  assert.equal(iso(nextOpen(windows, at('2026-10-25T00:45:00Z'))), '2026-10-25T01:15');
  assert.equal(iso(nextOpen(windows, at('2026-10-25T01:45:00Z'))), '2026-10-26T01:15');
  // Begun in what is skipped, it is open from the moment after.
  const early = [parseWindow('02:30-04:00 Europe/Berlin')];
  assert.equal(iso(nextOpen(early, at('2026-03-29T00:00:00Z'))), '2026-03-29T01:00');
});

test('without a zone it is the machine’s', () => {
  const before = process.env['TZ'];
  try {
    const windows = [parseWindow('Mon 02:00-03:00')];
    process.env['TZ'] = 'America/New_York';
    assert.equal(iso(nextOpen(windows, at('2026-06-01T00:00:00Z'))), '2026-06-01T06:00');
    process.env['TZ'] = 'Asia/Tokyo';
    assert.equal(iso(nextOpen(windows, at('2026-06-01T00:00:00Z'))), '2026-06-07T17:00');
  } finally {
    if (before === undefined) delete process.env['TZ'];
    else process.env['TZ'] = before;
  }
});

test('of several windows the first that opens counts; of none there is none', () => {
  const windows = ['Sat 01:00-02:00 UTC', 'Thu 03:00-04:00 UTC'].map(parseWindow);
  assert.equal(iso(nextOpen(windows, at('2026-03-03T00:00:00Z'))), '2026-03-05T03:00');
  assert.equal(nextOpen([], 0), null);
  assert.equal(isOpen([], 0), false);
});

test('any other form is refused, and said', () => {
  for (const [text, pattern] of [
    ['', /none such as "Mon\.\.Fri 22:00-05:00 Europe\/Berlin"/],
    ['Mon', /none such as/],
    ['Mon 2:00-04:00', /none such as/],
    ['Mon 02:00 - 04:00', /none such as/],
    ['Mon 02:00-04:00  UTC', /none such as/],
    [' 02:00-04:00', /none such as/],
    ['02:00-04:00 UTC\n', /none such as/],
    ['02:00-04:00 +02:00', /none such as/],
    ['Mon *-*-* 02:00', /none such as/],
    ['02:60-04:00', /none such as/],
    ['24:00-04:00', /time that no day has: 24:00/],
    ['02:00-24:01', /time that no day has: 24:01/],
    ['02:00-25:00', /time that no day has: 25:00/],
    ['02:00-02:00', /ends when it begins; a whole day is 00:00-24:00/],
    ['mon 02:00-04:00', /no days such as .* but mon/],
    ['Monday 02:00-04:00', /no days such as/],
    ['Mon-Fri 02:00-04:00', /no days such as/],
    ['Mon, 02:00-04:00', /no days such as/],
    ['Mon..Tue..Wed 02:00-04:00', /no days such as/],
    ['daily,Mon 02:00-04:00', /no days such as/],
    ['02:00-04:00 Europe/Atlantis', /time zone.*Europe\/Atlantis/i],
  ] as const) {
    refuses('E_WINDOW', () => parseWindow(text), pattern);
  }
});
