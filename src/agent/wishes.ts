// What somebody at the machine asks for, and what was asked for before → what is kept of it, or a refusal that says
// what would be possible (SPEC §5.8). Pure: times are given, nothing is read or written. Loads no library: run.ts.
import { FleetError } from '../errors.ts';
import { formatTime } from '../manifest/time.ts';
import type { Coming, Held, Local, Plea, Who } from './local.ts';
import type { Wishes as PolicyWishes } from './policy.ts';

/** UTF-8 bytes of a request or a reason; a receipt has room for so many characters. */
export const MAX_WORDS = 1024;
/** Requests that wait to become receipts. */
export const MAX_REQUESTS = 16;
/** A way back that no run could begin for so long is no longer what anybody waits for, in seconds. */
export const BACK_SECONDS = 3600;

/** What people at the machine want of one manifest. */
export type Wishes = PolicyWishes & {
  /** Whose wish it was; null: there is none. */
  readonly who: Who | null;
};

/** One line of text that a person typed. @throws FleetError E_LOCAL_WORDS */
export function parseWords(text: string, what: string): string {
  const words = text.trim();
  // Joiners belong to words of some scripts; what turns the direction of text does not.
  const unfit = /(?![\u200c\u200d])\p{C}|\p{Zl}|\p{Zp}/u;
  const isPrintable = words !== '' && words.isWellFormed() && !unfit.test(words);
  if (isPrintable && Buffer.byteLength(words) <= MAX_WORDS) return words;
  const why = isPrintable
    ? `is longer than ${MAX_WORDS} bytes`
    : 'is not one line of printable text';
  throw new FleetError('E_LOCAL_WORDS', `the ${what} ${why}`);
}

/** Seconds of `30m`, `4h`, `2d`. @throws FleetError E_USAGE */
export function parseDuration(text: string): number {
  const [, digits = '', unit = ''] = /^([1-9]\d{0,5})([mhd])$/.exec(text) ?? [];
  const seconds = { m: 60, h: 3600, d: 86_400 }[unit];
  if (seconds !== undefined) return Number(digits) * seconds;
  throw new FleetError('E_USAGE', `"${text}" is no time such as 30m, 4h or 2d`);
}

/** The latest time until which it may be put off; null: it may not. */
export function latestOf({ since, deferHours }: Coming): number | null {
  return deferHours === null ? null : since + deferHours * 3600;
}

/** Puts what is coming off for `seconds` from now on. @throws FleetError E_LOCAL_NOTHING, E_LOCAL_DEFERRAL */
export function defer(local: Local, seconds: number, who: Who, now: number): Local {
  const coming = requireComing(local);
  const latest = latestOf(coming);
  if (latest === null) {
    throw new FleetError('E_LOCAL_DEFERRAL', 'updates of this host may not be put off');
  }
  const until = now + seconds;
  if (until > latest) {
    const over = now >= latest;
    const text = over
      ? `it could be put off until ${formatTime(latest)}, which is over`
      : `it may be put off until ${formatTime(latest)} at the latest`;
    const hint = over ? 'it is applied as soon as the rules of this host allow it' : undefined;
    throw new FleetError('E_LOCAL_DEFERRAL', text, hint === undefined ? {} : { hint });
  }
  return { ...local, deferred: { sha256: coming.sha256, until, who }, now: null };
}

/** @throws FleetError E_LOCAL_NOTHING */
export function applyNow(local: Local, who: Who): Local {
  const { sha256 } = requireComing(local);
  return { ...local, now: { sha256, who }, deferred: null };
}

/** @throws FleetError E_LOCAL_WORDS */
export function goBack(local: Local, reason: string, who: Who, now: number): Local {
  const words = parseWords(reason, 'reason');
  // One that is under way is finished as it began.
  if (local.back?.begun != null) return local;
  return { ...local, back: { reason: words, who, at: now, begun: null } };
}

/** @throws FleetError E_LOCAL_WORDS, E_RATE_LIMITED when too many wait to be told. */
export function plead(
  local: Local,
  { id, text, who }: Pick<Plea, 'id' | 'text' | 'who'>,
  now: number,
): Local {
  const words = parseWords(text, 'request');
  if (local.requests.length >= MAX_REQUESTS) {
    throw new FleetError('E_RATE_LIMITED', `${MAX_REQUESTS} requests wait to be sent already`, {
      hint: 'wait until this host has heard its server again',
    });
  }
  return { ...local, requests: [...local.requests, { id, text: words, who, at: now }] };
}

/** What is ready to be activated from now on; the same again keeps since when it was. */
export function ready(local: Local, coming: Omit<Coming, 'since'>, now: number): Local {
  const since = local.coming?.sha256 === coming.sha256 ? local.coming.since : now;
  const isSame =
    local.coming?.sha256 === coming.sha256 && local.coming.deferHours === coming.deferHours;
  return isSame ? local : { ...forget(local), coming: { ...coming, since } };
}

/** Without what concerned an update that is no longer coming. */
export function forget(local: Local): Local {
  const { coming, deferred, now } = local;
  if (coming === null && deferred === null && now === null) return local;
  return { ...local, coming: null, deferred: null, now: null };
}

/** Holds a manifest, once the host is back. */
export function hold(local: Local, held: Held): Local {
  return { ...forget(local), back: null, held };
}

/** Something else than what is held came: the admin's word, or (`force`) root's. */
export function release(local: Local, sha256: string, force: boolean): Local {
  if (local.held === null || (local.held.sha256 === sha256 && !force)) return local;
  return { ...local, held: null };
}

/** What people want of the manifest with this digest. `bringer`: who brought it along, and so wants it now. */
export function wishesFor(
  { deferred, now }: Local,
  sha256: string,
  bringer: Who | null = null,
): Wishes {
  if (bringer !== null) return { deferredUntil: null, applyNow: true, who: bringer };
  if (now?.sha256 === sha256) return { deferredUntil: null, applyNow: true, who: now.who };
  if (deferred?.sha256 === sha256) {
    return { deferredUntil: deferred.until, applyNow: false, who: deferred.who };
  }
  return { deferredUntil: null, applyNow: false, who: null };
}

function requireComing({ coming }: Local): Coming {
  if (coming !== null) return coming;
  throw new FleetError('E_LOCAL_NOTHING', 'no update waits to be applied here');
}
