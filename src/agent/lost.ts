// Switches that were undone because of what may be over the next time → when the same is tried again, and
// what decides then (SPEC §5.5). That the server was not heard from the new system is nobody's fault that could be told:
// its network may be broken, or the line may have been, or somebody cut it at that moment. So it is tried again by itself, less and less
// often; and unless the host's policy is another, whoever can cut the line can put an update off, but not prevent it.
// An agent that died in mid-switch is no fault of the system either, unless it always dies there.
import type { Activation } from '../manifest/activation.ts';
import { makeReason, type Reason } from '../manifest/receipt.ts';
import { formatTime } from '../manifest/time.ts';
import type { Attempt } from './outcome.ts';

/** In a row, of one manifest, for one reason. */
export type Lost = {
  /** The manifest's digest. */
  readonly sha256: string;
  readonly count: number;
  /** When it was undone last, POSIX seconds. */
  readonly at: number;
  readonly reason: Reason;
};

/** After so many, local checks decide alone. */
const MOST_LOST = 3;

/** In seconds: 1, 4, 16, 64, 256 minutes, and no more. */
const FIRST_WAIT = 60;
const MOST_STEPS = 4;

/** One more of `manifest`, at `now`. */
export function lostAgain(
  before: Lost | null,
  { sha256 }: { readonly sha256: string },
  reason: Reason,
  now: number,
): Lost {
  const isSame = before?.sha256 === sha256 && before.reason.code === reason.code;
  const count = isSame ? before.count : 0;
  return { sha256, count: count + 1, at: now, reason };
}

/** Whether the server has to be heard before a system of this manifest stays. */
export function needsServer(
  lost: Lost | null,
  { sha256 }: { readonly sha256: string },
  { serverLost = 'local-checks' }: Pick<Activation, 'serverLost'>,
): boolean {
  if (serverLost === 'rollback' || lost?.sha256 !== sha256) return true;
  if (lost.reason.code !== 'E_SERVER_LOST') return true;
  return lost.count < MOST_LOST;
}

/** What is told until it is time to try this manifest again; null: it is time, or it was never lost. */
export function waitingAfterLoss(
  lost: Lost | null,
  { sha256 }: { readonly sha256: string },
  now: number,
): Attempt | null {
  if (lost?.sha256 !== sha256) return null;
  const { count, at, reason } = lost;
  // That a run broke off is mostly over with it; that the line did, not.
  const steps = reason.code === 'E_SERVER_LOST' ? count - 1 : count - 2;
  const next = steps < 0 ? at : at + FIRST_WAIT * 4 ** Math.min(steps, MOST_STEPS);
  // A clock that went back says nothing about how long it was.
  if (now >= next || now < at) return null;
  const text = `${reason.text}; tried again from ${formatTime(next)} on`;
  return { phase: 'rolled-back', reason: makeReason(reason.code, text), exitCode: null };
}
