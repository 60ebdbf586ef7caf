// RFC 3339 in the one spelling `2026-01-31T23:59:59Z` ↔ POSIX seconds (SPEC §1.3): UTC, whole
// seconds, real calendar dates from 1970 to 9999. Refuses everything else with E_TIME: an
// unparsable date is an error, never "not expired".
import { FleetError } from '../errors.ts';

const FORM = /^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z$/;
const LAST_SECOND = 253_402_300_799;

/** POSIX seconds of a time's text. @throws FleetError E_TIME. */
export function parseTime(text: string): number {
  const seconds = FORM.test(text) ? Date.parse(text) / 1000 : Number.NaN;
  // Date.parse takes 24:00:00 for the next day: only what is written back the same is a time.
  if (!isTime(seconds) || formatTime(seconds) !== text) {
    throw new FleetError('E_TIME', `${JSON.stringify(text.slice(0, 40))} is not a time in UTC`);
  }
  return seconds;
}

/** The text of a time in POSIX seconds. @throws FleetError E_TIME outside 1970 to 9999. */
export function formatTime(seconds: number): string {
  if (!isTime(seconds)) throw new FleetError('E_TIME', `${seconds} is not a time in whole seconds`);
  return new Date(seconds * 1000).toISOString().replace('.000Z', 'Z');
}

function isTime(seconds: number): boolean {
  return Number.isSafeInteger(seconds) && seconds >= 0 && seconds <= LAST_SECOND;
}
