// A system that was just switched to → whether it may stay (SPEC §5.5): no unit is failed that was well before, every
// check of the manifest holds, all at once, and the server was heard from it. What does not hold yet is asked
// again until the time is over; then what failed last is the reason. Changes nothing.
import { setTimeout as sleep } from 'node:timers/promises';
import { messageOf } from '../errors.ts';
import type { Health } from '../manifest/activation.ts';
import { type FailedUnits, makeReason, type Reason } from '../manifest/receipt.ts';
import { CHECK_MS, type Check, checksOf } from './checks.ts';
import type { Listen } from './fresh.ts';
import type { Host } from './host.ts';
import { compareUnits, failedUnits, NO_UNITS } from './units.ts';

export type Proving = {
  readonly health: Health;
  readonly confirmSeconds: number;
  /** Units that were failed before the switch. */
  readonly failedBefore: readonly string[];
  /** null: the server decides nothing. */
  readonly listen: Listen | null;
};

export type Proved = {
  /** null: it is healthy. E_HEALTH, or E_SERVER_LOST where only the server was missing. */
  readonly why: Reason | null;
  readonly failedUnits: FailedUnits;
  /** Units that are failed now, whether or not they were before. */
  readonly failedNow: readonly string[];
};

type Round = { readonly problems: readonly string[]; readonly failedNow: readonly string[] };

/** At most so many checks at once: a weak machine has a new system to start as well. */
const PARALLEL = 4;
/** Between two rounds, in milliseconds: at first, and at most; never shorter than a round is. */
const PAUSE = { first: 250, most: 2000 };

/** Throws nothing that a system or a server could bring about. */
export async function proveHealthy(host: Host, proving: Proving): Promise<Proved> {
  const { health, confirmSeconds, failedBefore, listen } = proving;
  const deadline = performance.now() + confirmSeconds * 1000;
  const left = (): number => Math.max(0, deadline - performance.now());
  const checks = checksOf(host, health);
  await using server = listen?.(confirmSeconds) ?? null;
  const isHeard = (): boolean => server?.isHeard() ?? true;
  let last: Round | null = null;
  for (let pause = PAUSE.first; ; pause *= 2) {
    const began = performance.now();
    const round = await oneRound(host, failedBefore, checks, Math.min(CHECK_MS, left()));
    const { failedNow } = round;
    const holds = round.problems.length === 0;
    if (holds && isHeard()) {
      return { why: null, failedUnits: compareUnits(failedBefore, failedNow), failedNow };
    }
    // One that the end of the time cut short says less than the one before it.
    const isCut = left() === 0 && !holds;
    if (last === null || !isCut || (last.problems.length === 0 && isHeard())) last = round;
    if (left() === 0) break;
    const rest = Math.max(Math.min(pause, PAUSE.most), performance.now() - began);
    const woken = new AbortController();
    const resting = sleep(Math.min(rest, left()), undefined, { signal: woken.signal });
    const waits = [resting.catch(() => {})];
    if (holds && server !== null) waits.push(server.heard);
    await Promise.race(waits);
    woken.abort();
  }
  const { problems, failedNow } = last;
  const inTime = `in the ${confirmSeconds} s after the switch`;
  const why =
    problems.length > 0
      ? makeReason('E_HEALTH', `not healthy ${inTime}: ${problems.join('; ')}`)
      : makeReason('E_SERVER_LOST', `no word of the server ${inTime}: ${server?.problem()}`);
  return { why, failedUnits: compareUnits(failedBefore, failedNow), failedNow };
}

/** Which units changed, where that can be found out, for who asks out of interest. Throws nothing. */
export async function changedUnits(
  { hasSystemd }: Pick<Host, 'hasSystemd'>,
  failedBefore: readonly string[],
): Promise<FailedUnits> {
  if (!hasSystemd) return NO_UNITS;
  return compareUnits(failedBefore, await failedUnits().catch(() => failedBefore));
}

async function oneRound(
  { hasSystemd }: Host,
  failedBefore: readonly string[],
  checks: readonly Check[],
  ms: number,
): Promise<Round> {
  const found: (string | null)[] = [];
  const todo = checks.entries();
  const worker = async (): Promise<void> => {
    for (const [i, check] of todo) found[i] = await check(ms);
  };
  await Promise.all(Array.from({ length: PARALLEL }, worker));
  const problems = found.filter((one) => one !== null);
  if (!hasSystemd) return { problems, failedNow: [] };
  try {
    // Last: a check may be what a unit fails of, by waking it or by asking too much.
    const failedNow = await failedUnits();
    const { added } = compareUnits(failedBefore, failedNow);
    const news = added.length === 0 ? [] : [`failed, and well before: ${added.join(', ')}`];
    return { problems: [...news, ...problems], failedNow };
  } catch (error) {
    return { problems: [messageOf(error), ...problems], failedNow: failedBefore };
  }
}
