// Keeps the log's checkpoint fresh while the server runs, so that time alone never breaks a fleet, and
// finishes what a publisher committed that died, and tells the log the keys of hosts that were enrolled. All
// need the publication lock for a moment; while somebody publishes, that one does it.
import { setTimeout as sleep } from 'node:timers/promises';
import { isFleetError } from '../errors.ts';
import {
  appendEntries,
  finishLog,
  type LogWriter,
  logNumber,
  renewCheckpoint,
} from '../manifest/append.ts';
import { verifyCheckpoint } from '../manifest/log-view.ts';
import { tryLockFile } from '../storage/lease.ts';
import type { State } from '../storage/state.ts';

export type KeeperOptions = {
  readonly state: Pick<State, 'recordLease'>;
  readonly publishLock: string;
  /** POSIX seconds. */
  readonly now: () => number;
  readonly onError: (error: unknown) => void;
  /** Rung when there is something to do at once. */
  readonly bell?: Bell;
};

/** What a keeper waits by. */
export class Bell {
  #isRung = false;
  #wake: AbortController | null = null;

  ring(): void {
    this.#isRung = true;
    this.#wake?.abort();
  }

  /** Until it is rung, or was since it was last waited for; at most `ms`. */
  async heard(ms: number, signal: AbortSignal): Promise<void> {
    if (!this.#isRung) {
      this.#wake = new AbortController();
      await pause(ms, AbortSignal.any([signal, this.#wake.signal]));
      this.#wake = null;
    }
    this.#isRung = false;
  }
}

async function pause(ms: number, signal: AbortSignal): Promise<void> {
  await sleep(ms, undefined, { signal, ref: false }).catch(() => {});
}

/** A publisher that died is noticed this soon, in milliseconds; so is a lock that was taken. */
const LOOK_EVERY = 10_000;
/** However often the bell is rung: hosts that are enrolled together are told together. */
const LEAST_BETWEEN = 1_000;

/** Renews a checkpoint once its time is an eighth of maxAge old: twice as often as agents must be served. */
export async function keepLog(
  open: () => Promise<LogWriter>,
  { publishLock, state, now, onError, bell = new Bell() }: KeeperOptions,
  signal: AbortSignal,
  lookEvery: number = LOOK_EVERY,
): Promise<void> {
  while (!signal.aborted) {
    const next = performance.now() + Math.min(LEAST_BETWEEN, lookEvery);
    try {
      await lookAfterLog(open, { publishLock, state }, now());
    } catch (error) {
      onError(error);
    }
    await bell.heard(lookEvery, signal);
    await pause(Math.max(0, next - performance.now()), signal);
  }
}

/** Once. While somebody publishes, that one does it. @throws FleetError E_STATE_…, E_LOG_DAMAGED, E_DISK_FULL */
export async function lookAfterLog(
  open: () => Promise<LogWriter>,
  { publishLock, state }: Pick<KeeperOptions, 'publishLock' | 'state'>,
  now: number,
): Promise<void> {
  // Anew each time: another root may name another log, and other keys.
  const writer = await open();
  if (!(await wantsCare(writer, now))) return;
  using lock = tryLockFile(publishLock);
  // Once more: a root may have come before the lock was ours.
  if (lock !== null) await careFor(await open(), state, now);
}

async function careFor(
  writer: LogWriter,
  state: Pick<State, 'recordLease'>,
  now: number,
): Promise<void> {
  if (await tellsTooFew(writer)) {
    const { fence } = await state.recordLease(process.pid, now);
    await appendEntries(writer, [], { fence, now });
    return;
  }
  const text = await finishLog(writer, now);
  if (text !== null && isOld(writer, text, now)) await renewCheckpoint(writer, now);
}

async function tellsTooFew({ state, root }: LogWriter): Promise<boolean> {
  return (await state.unloggedKeys(logNumber(root))).length > 0;
}

async function wantsCare(writer: LogWriter, now: number): Promise<boolean> {
  const text = await writer.store.checkpoint();
  const head = await writer.state.logHead(logNumber(writer.root));
  if (head === null) return false;
  if (await tellsTooFew(writer)) return true;
  return text === null || !text.includes(`\n${head.size}\n`) || isOld(writer, text, now);
}

/** Also one from the future, which agents would refuse, and one that another root's log key signed. */
function isOld({ root }: LogWriter, text: string, now: number): boolean {
  try {
    const { freshAt } = verifyCheckpoint(text, root);
    return freshAt === null || Math.abs(now - freshAt) >= Math.min(root.maxAge / 8, 3600);
  } catch (error) {
    if (isFleetError(error, 'E_CHECKPOINT_UNSIGNED')) return true;
    throw error;
  }
}
