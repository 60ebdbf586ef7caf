// When the agent that is there all day asks next. Pure: times are milliseconds of a clock that never jumps.

export type Pace = {
  /** Between two questions, without a hint and without trouble. */
  readonly poll: number;
  /** Nobody on the line is to learn a rhythm, nor when something was published: hints are not listened to. */
  readonly isPrivate: boolean;
};

export type Past = {
  /** When the last run ended; null: none did yet. */
  readonly endedAt: number | null;
  /** When the last run began that followed from a hint; null: none did yet. */
  readonly hintedAt: number | null;
  /** Runs in a row that did not come to a good end. */
  readonly failures: number;
  /** When what the last run waited for is over; null: it waited for nothing, or nobody knows. */
  readonly due: number | null;
};

/** At most one question in this time follows from hints. */
export const HINT_GAP = 10_000;
/** After the first run that failed; it doubles with each one more, up to the usual pace. */
const FIRST_RETRY = 30_000;
/** A fleet that is told of something together does not ask together; an update is still seen within the second. */
const HINT_SPREAD = 500;

/** Hosts whose window opens at one moment do not ask at one moment. */
export const DUE_SPREAD = 10_000;
/** A run that said of a moment that it is to come, and was told otherwise by the clock, is left alone for so long. */
const DUE_GAP = 10_000;
/** As much later than it was meant is still because of what came between. */
const DUE_LATE = 60_000;

/** The longest that a timer can wait. */
const LONGEST = 2 ** 31 - 1;

/** How long to wait from `now` on, when no hint came. `random`: 0 to 1. */
export function untilNext(pace: Pace, past: Past, now: number, random: number): number {
  if (past.endedAt === null) return 0;
  const retry = FIRST_RETRY * 2 ** Math.min(past.failures - 1, 20);
  const usual = past.failures > 0 ? Math.min(retry, pace.poll) : pace.poll;
  // Ten percent either way; a private host's times say nothing, from half to one and a half of the pace.
  const spread = pace.isPrivate ? 1 : 0.2;
  const wait = usual * (1 + spread * (random - 0.5));
  const at = Math.min(past.endedAt + wait, dueOf(pace, past, random));
  return Math.min(LONGEST, Math.max(0, Math.round(at - now)));
}

/** A private host's times are to say nothing: not either that an update waits there. */
function dueOf({ isPrivate }: Pace, { endedAt, due }: Past, random: number): number {
  if (due === null || isPrivate) return Number.POSITIVE_INFINITY;
  return Math.max(due, (endedAt ?? 0) + DUE_GAP) + DUE_SPREAD * random;
}

/**
 * What a run said (`next`, POSIX seconds) as a time of the clock that never jumps, whose time is `now` while the machine's
 * clock says `wall`, in milliseconds. null: it said none, or one that has long passed here: it counted by another clock.
 */
export function dueAt(next: number | null, wall: number, now: number): number | null {
  if (next === null) return null;
  const wait = next * 1000 - wall;
  return wait < -DUE_LATE ? null : now + Math.max(0, wait);
}

/** How long to wait from `now` on, once a hint came. */
export function afterHint(past: Past, now: number, random: number): number {
  const free = past.hintedAt === null ? now : past.hintedAt + HINT_GAP;
  return Math.max(HINT_SPREAD * random, free - now);
}
