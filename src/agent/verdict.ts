// What a run of switch-to-configuration came to → what is told of it: outcomes, and reasons with codes.
import { type ErrorCode, messageOf } from '../errors.ts';
import { makeReason, type Reason } from '../manifest/receipt.ts';
import type { Transaction } from './journal.ts';
import type { Attempt } from './outcome.ts';
import { LOCKED, type SwitchAction, type SwitchResult } from './switch.ts';

export function whyOf(result: SwitchResult, action: SwitchAction): Reason {
  const code: ErrorCode = result.timedOut ? 'E_SWITCH_TIMEOUT' : 'E_SWITCH_FAILED';
  return makeReason(code, toldBy(result, action));
}

export function toldBy(result: SwitchResult, action: SwitchAction): string {
  const how = result.timedOut
    ? 'took too long'
    : result.code === null
      ? 'was killed'
      : `ended with ${result.code}`;
  const last = result.lastLines.at(-1) ?? '';
  return `switch-to-configuration ${action} ${how}${last === '' ? '' : `: ${last}`} (${result.log})`;
}

/** True for what the system itself did; with any other reason the same one may go well the next time. */
export function isSystemsFault({ code }: Reason): boolean {
  return SYSTEMS_FAULTS.has(code);
}

const SYSTEMS_FAULTS: ReadonlySet<string> = new Set<ErrorCode>([
  'E_SWITCH_FAILED',
  'E_SWITCH_TIMEOUT',
  'E_HEALTH',
  'E_NOT_CONFIRMED',
  'E_NOT_BOOTED',
]);

/** True for what is tried again by itself, less and less often. */
export function isTransient({ code }: Reason): boolean {
  return code === 'E_SERVER_LOST' || code === 'E_INTERRUPTED';
}

/**
 * True for a system from before NixOS 25.05: it answers `check` with its usage, whose verbs do not have
 * it, and runs its pre-switch checks, if any, at the start of `test`.
 */
export function hasNoCheck({ code, lastLines }: SwitchResult): boolean {
  if (code !== 1) return false;
  for (const line of lastLines) {
    // Before the brackets stands the program's path, which may hold any word.
    const verbs = /^usage:.*\[(?<verbs>[^\]]*)\]/i.exec(line)?.groups?.['verbs']?.split('|');
    if (verbs?.includes('test')) return !verbs.includes('check');
  }
  return false;
}

export function failedCheck(check: SwitchResult): Attempt {
  const reason = makeReason('E_PREFLIGHT', toldBy(check, 'check'));
  return { phase: 'preflight-failed', reason, exitCode: check.code };
}

/** Where nobody can say how the machine is before a switch, nobody can say how it is after. */
export function notKnown(error: unknown): Attempt {
  const text = `the units that failed already cannot be found out: ${messageOf(error)}`;
  const reason = makeReason('E_PREFLIGHT', text);
  return { phase: 'preflight-failed', reason, exitCode: null };
}

export function awaitingLock(result: SwitchResult, action: SwitchAction): Attempt {
  const text = `another switch of this machine holds its lock: ${toldBy(result, action)}`;
  return { phase: 'awaiting-lock', reason: makeReason('E_SWITCH_LOCKED', text), exitCode: LOCKED };
}

/** Whether a system is being made what the machine boots: that is finished before anything else is begun. */
export function isCommitting({ step }: Pick<Transaction, 'step'>): boolean {
  return step === 'committing' || step === 'setting';
}

export const COMMIT_WAITS: Attempt = {
  phase: 'awaiting-lock',
  reason: makeReason(
    'E_SWITCH_LOCKED',
    'another switch of this machine keeps this one from its end',
  ),
  exitCode: null,
};

export function rebootPending(code: string, text: string, exitCode = 0): Attempt {
  return { phase: 'reboot-pending', reason: makeReason(code, text), exitCode };
}
