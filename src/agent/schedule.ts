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
};

/** At most one question in this time follows from hints. */
export const HINT_GAP = 10_000;
/** After the first run that failed; it doubles with each one more, up to the usual pace. */
const FIRST_RETRY = 30_000;
/** A fleet that is told of something together does not ask together; an update is still seen within the second. */
const HINT_SPREAD = 500;

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
  return Math.min(LONGEST, Math.max(0, Math.round(past.endedAt + wait - now)));
}

/** How long to wait from `now` on, once a hint came. */
export function afterHint(past: Past, now: number, random: number): number {
  const free = past.hintedAt === null ? now : past.hintedAt + HINT_GAP;
  return Math.max(HINT_SPREAD * random, free - now);
}
