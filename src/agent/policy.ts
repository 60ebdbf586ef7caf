// May an update be fetched, switched to, or booted into now (SPEC §5.6)? The host's rules, how things stand at the
// machine, what people there wish, and the time → go (null), or what is told meanwhile and when to look again. Pure.
// What cannot be found out is not taken for well: where a rule asks for it, the update waits. A reboot always asks
// whether somebody is logged in or blocks it. An emergency overrides all of this but `reboot: never`.
// Refuses windows that it does not know (E_WINDOW), rather than to wait for ever, or not at all.
import type { Activation } from '../manifest/activation.ts';
import { makeReason, type ReportedPhase } from '../manifest/receipt.ts';
import { formatTime } from '../manifest/time.ts';
import { isOpen, nextOpen, parseWindow } from '../manifest/windows.ts';
import type { Attempt } from './outcome.ts';

export type Action = 'fetch' | 'switch' | 'reboot';

export type Rules = Pick<
  Activation,
  'mode' | 'reboot' | 'windows' | 'deferral' | 'ask' | 'waitWhile'
>;

/** What people at the machine want. */
export type Wishes = {
  /** Not before then, POSIX seconds; never later than the rules let it be put off. */
  readonly deferredUntil: number | null;
  /** Somebody said so of this manifest. */
  readonly applyNow: boolean;
};

export const NO_WISHES: Wishes = { deferredUntil: null, applyNow: false };

/** Nobody could find it out, and why. */
export type Unknown = { readonly unknown: string };

/** How things stand; what was not asked is not there. */
export type Situation = {
  /** Percent, while the machine is on battery; null: it is not. */
  readonly battery?: number | null | Unknown;
  readonly metered?: boolean | Unknown;
  /** Who blocks shutdown or sleep. */
  readonly inhibitors?: readonly string[] | Unknown;
  /** Who is logged in. Names go no further than this. */
  readonly sessions?: readonly string[] | Unknown;
};

export type Question = keyof Situation;

export type Plea = {
  readonly action: Action;
  readonly rules: Rules;
  readonly wishes: Wishes;
  readonly emergency: boolean;
  /** Since when it could be done (for a switch: since it was fetched), POSIX seconds. */
  readonly readySince: number;
  /** POSIX seconds. */
  readonly now: number;
};

export type Wait = {
  readonly attempt: Attempt;
  /** When that is over, POSIX seconds; null: nobody knows. */
  readonly next: number | null;
};

/** Why an update waits: the code of its reason, and the phase of a switch that waits for that. */
export const WAITS = {
  asked: 'awaiting-user',
  deferred: 'awaiting-user',
  inhibited: 'awaiting-user',
  'logged-in': 'awaiting-user',
  'window-closed': 'awaiting-window',
  'battery-low': 'staged',
  'battery-unknown': 'staged',
  'inhibitors-unknown': 'staged',
  'sessions-unknown': 'staged',
  // Of what is fetched, or of a reboot, alone.
  metered: 'manifest-pending',
  'metered-unknown': 'manifest-pending',
  'reboot-never': 'reboot-pending',
} as const satisfies Readonly<Record<string, ReportedPhase>>;
type WaitCode = keyof typeof WAITS;

/** Those that say until when: another time is news. */
export const TIMED: ReadonlySet<string> = new Set<WaitCode>(['asked', 'deferred', 'window-closed']);

/** How long a person is asked where the rules do not say for how long they may put it off. */
const ASK_HOURS = 24;
const HOUR = 3600;

/** What rules, wishes and time alone say. null: the situation decides. @throws FleetError E_WINDOW */
export function waitByClock(plea: Plea): Wait | null {
  const { action, rules, wishes, emergency, now } = plea;
  if (action === 'reboot' && rules.reboot === 'never') {
    return wait(plea, 'reboot-never', 'somebody at the machine has to reboot it', null);
  }
  if (emergency || wishes.applyNow) return null;
  const windows = rules.windows.map(parseWindow);
  // What could not be switched to need not be fetched; else that waits for none of this.
  if (action === 'fetch') return null;
  const { deferral, ask = false } = rules;
  const latest = plea.readySince + (deferral?.maxHours ?? ASK_HOURS) * HOUR;
  const until = deferral === null ? 0 : Math.min(wishes.deferredUntil ?? 0, latest);
  if (now < until) {
    return wait(plea, 'deferred', `put off at the machine until ${formatTime(until)}`, until);
  }
  if (ask && now < latest) {
    const text = `somebody at the machine is asked, until ${formatTime(latest)} at most`;
    return wait(plea, 'asked', text, latest);
  }
  if (windows.length === 0 || isOpen(windows, now)) return null;
  const next = nextOpen(windows, now);
  const when = next === null ? 'and none comes' : `until ${formatTime(next)}`;
  return wait(plea, 'window-closed', `no window is open, ${when}`, next);
}

/** What the situation has to be asked for, in this order; mostly nothing. */
export function questionsOf({ action, rules, wishes, emergency }: Plea): Question[] {
  if (emergency) return [];
  const { batteryBelow, metered, inhibitors, sessions } = rules.waitWhile ?? {};
  if (action === 'fetch') return metered === true && !wishes.applyNow ? ['metered'] : [];
  const battery: Question[] = batteryBelow === undefined ? [] : ['battery'];
  if (action === 'reboot') return [...battery, 'inhibitors', 'sessions'];
  // Nothing that runs is changed.
  if (rules.mode === 'boot' || rules.reboot === 'required') return battery;
  return [
    ...battery,
    ...(inhibitors === true ? (['inhibitors'] as const) : []),
    ...(sessions === true && !wishes.applyNow ? (['sessions'] as const) : []),
  ];
}

/** What the situation says, as far as it matters. null: go. */
export function waitBySituation(plea: Plea, situation: Situation): Wait | null {
  for (const question of questionsOf(plea)) {
    const found = situation[question];
    const isKnown = found !== undefined && !isUnknown(found);
    if (!isKnown) {
      const why = found === undefined ? 'nobody asked' : found.unknown;
      return wait(plea, `${question}-unknown`, `${WORDS[question]} is not known: ${why}`, null);
    }
    const cause = causeOf(plea, question, found);
    if (cause !== null) return wait(plea, cause[0], cause[1], null);
  }
  return null;
}

const WORDS: Readonly<Record<Question, string>> = {
  battery: 'how full the battery is',
  metered: 'whether the line is metered',
  inhibitors: 'whether somebody blocks shutdown or sleep',
  sessions: 'whether somebody is logged in',
};

// Texts hold nothing that differs from run to run while the cause stays.
function causeOf(
  { rules }: Plea,
  question: Question,
  found: Exclude<Situation[Question], Unknown | undefined>,
): [WaitCode, string] | null {
  if (Array.isArray(found)) {
    if (found.length === 0) return null;
    return question === 'inhibitors'
      ? ['inhibited', `shutdown or sleep is blocked by ${found.join(', ')}`]
      : ['logged-in', 'somebody is logged in'];
  }
  if (question === 'metered') {
    return found === true ? ['metered', 'the line is metered'] : null;
  }
  const least = rules.waitWhile?.batteryBelow ?? 0;
  const isLow = typeof found === 'number' && found < least;
  return isLow ? ['battery-low', `on battery, which is below ${least} %`] : null;
}

function isUnknown(found: NonNullable<Situation[Question]> | null): found is Unknown {
  return typeof found === 'object' && found !== null && 'unknown' in found;
}

function wait({ action }: Plea, code: WaitCode, text: string, next: number | null): Wait {
  const phase = action === 'reboot' ? 'reboot-pending' : WAITS[code];
  return { attempt: { phase, reason: makeReason(code, text), exitCode: null }, next };
}
