// A host's weekly windows (SPEC §4.4), such as `Mon..Fri 22:00-05:00 Europe/Berlin` → whether one is open now, and when
// one opens next. What counts is the clock on the wall of the window's zone: an hour that the clock skips has no
// window in it, one that comes twice has it twice. Pure: "now" is passed in; zones are those of Node's own ICU.
// Refuses any other form, days and times that do not exist, an end that is its own beginning, and unknown zones.
import { FleetError, messageOf } from '../errors.ts';

/** A window that begins on some days of the week at `start` and ends at `end`, on the next day where that is not later. */
export type Window = {
  /** Seven, Monday first: whether it begins on that day. */
  readonly days: readonly boolean[];
  /** Minutes after midnight: 0 to 1439, and 1 to 1440. */
  readonly start: number;
  readonly end: number;
  /** IANA name; null: the zone of the machine that reads it. */
  readonly zone: string | null;
};

const DAYS = ['Mon', 'Tue', 'Wed', 'Thu', 'Fri', 'Sat', 'Sun'];
const DAY = 24 * 60;
const WEEK = 7 * DAY;
const FORM =
  /^(?:(?<days>\S+) )?(?<start>[0-2]\d:[0-5]\d)-(?<end>[0-2]\d:[0-5]\d)(?: (?<zone>[A-Za-z][A-Za-z0-9_+/-]*))?$/;
/** Every window comes again within this, whatever clocks skip: a week, and one more. */
const HORIZON = 4 * WEEK;

/** @throws FleetError E_WINDOW that says what is wrong. */
export function parseWindow(text: string): Window {
  try {
    const { days, start = '', end = '', zone } = FORM.exec(text)?.groups ?? {};
    if (start === '') throw new TypeError('is none such as "Mon..Fri 22:00-05:00 Europe/Berlin"');
    const window: Window = {
      days: parseDays(days),
      start: parseTime(start, DAY - 1),
      end: parseTime(end, DAY),
      zone: zone ?? null,
    };
    if (window.start === window.end) {
      throw new TypeError('ends when it begins; a whole day is 00:00-24:00');
    }
    // Throws for a zone that it does not know.
    if (window.zone !== null) wallOf(window.zone);
    return window;
  } catch (cause) {
    const shown = JSON.stringify(text.slice(0, 128));
    throw new FleetError('E_WINDOW', `the window ${shown} ${messageOf(cause)}`, { cause });
  }
}

/** The text that parseWindow reads. */
export function formatWindow({ days, start, end, zone }: Window): string {
  const named = DAYS.filter((_, day) => days[day]);
  const first = named.length === DAYS.length ? [] : [named.join(',')];
  const time = (minutes: number): string =>
    [Math.trunc(minutes / 60), minutes % 60].map((n) => String(n).padStart(2, '0')).join(':');
  return [...first, `${time(start)}-${time(end)}`, ...(zone === null ? [] : [zone])].join(' ');
}

/** Whether one of them is open at `now`, POSIX seconds. */
export function isOpen(windows: readonly Window[], now: number): boolean {
  const minute = Math.floor(now / 60);
  return windows.some((window) => untilOpen(window, wallOf(window.zone)(minute)) === 0);
}

/** When one of them is open, from `now` on: POSIX seconds. null: there is none. */
export function nextOpen(windows: readonly Window[], now: number): number | null {
  const times = windows.flatMap((window) => nextOf(window, now) ?? []);
  return times.length === 0 ? null : Math.min(...times);
}

function nextOf(window: Window, now: number): number | null {
  const wall = wallOf(window.zone);
  const first = Math.floor(now / 60);
  let minute = first;
  while (minute - first < HORIZON) {
    const wait = untilOpen(window, wall(minute));
    if (wait === 0) return Math.max(now, minute * 60);
    // A day at most: further on, the zone may have changed its clocks twice.
    const next = minute + Math.min(wait, DAY);
    minute = changeBetween(wall, minute, next) ?? next;
  }
  return null;
}

/** The first minute after `from`, up to `to`, at which the clock on the wall is not where it would be; null: none. */
function changeBetween(wall: Wall, from: number, to: number): number | null {
  const offset = (minute: number): number => modulo(wall(minute) - minute, WEEK);
  const before = offset(from);
  if (offset(to) === before) return null;
  let [same, other] = [from, to];
  while (other - same > 1) {
    const middle = Math.floor((same + other) / 2);
    if (offset(middle) === before) same = middle;
    else other = middle;
  }
  return other;
}

/** Minutes on the wall until it is open; 0: it is. `at` is the minute of the week. */
function untilOpen({ days, start, end }: Window, at: number): number {
  const length = modulo(end - start - 1, DAY) + 1;
  const waits = days.flatMap((begins, day) => {
    if (!begins) return [];
    const since = modulo(at - (day * DAY + start), WEEK);
    return [since < length ? 0 : WEEK - since];
  });
  return Math.min(...waits);
}

/** Minutes since 1970 → the minute of the week (Monday 00:00 is 0) on a wall of that zone. */
type Wall = (minute: number) => number;

function wallOf(zone: string | null): Wall {
  const format = new Intl.DateTimeFormat('en-US', {
    ...(zone === null ? {} : { timeZone: zone }),
    weekday: 'short',
    hour: '2-digit',
    minute: '2-digit',
    hourCycle: 'h23',
  });
  return (minute) => {
    const parts = new Map(
      format.formatToParts(minute * 60_000).map(({ type, value }) => [type, value]),
    );
    const day = DAYS.indexOf(parts.get('weekday') ?? '');
    return day * DAY + Number(parts.get('hour')) * 60 + Number(parts.get('minute'));
  };
}

function parseDays(text: string | undefined): boolean[] {
  if (text === undefined || text === 'daily') return DAYS.map(() => true);
  const days = DAYS.map(() => false);
  for (const range of text.split(',')) {
    const [first = '', last = first, ...more] = range.split('..');
    const [from, to] = [DAYS.indexOf(first), DAYS.indexOf(last)];
    if (from < 0 || to < 0 || more.length > 0) {
      throw new TypeError(`has no days such as Mon..Fri or Sat,Sun before its times, but ${text}`);
    }
    for (let day = from; ; day = (day + 1) % DAYS.length) {
      days[day] = true;
      if (day === to) break;
    }
  }
  return days;
}

function parseTime(text: string, most: number): number {
  const [hours = 0, minutes = 0] = text.split(':').map(Number);
  const time = hours * 60 + minutes;
  if (time > most) throw new TypeError(`has a time that no day has: ${text}`);
  return time;
}

function modulo(a: number, b: number): number {
  return ((a % b) + b) % b;
}
