// What a run of the agent came to, in the words of receipts (SPEC §6.2), and what a person is told of it:
// errors → outcomes for the fleet, outcomes → errors with an exit code.
import { ERRORS, type ErrorCode, FleetError, messageOf } from '../errors.ts';
import {
  type FailedUnits,
  makeReason,
  type Reason,
  type ReportedPhase,
} from '../manifest/receipt.ts';
import type { Who } from './local.ts';
import type { ManifestId } from './memory.ts';
import type { Systems } from './place.ts';

/** What one step of a run came to. */
export type Attempt = {
  readonly phase: ReportedPhase;
  readonly reason: Reason | null;
  /** Of switch-to-configuration, where it ran. */
  readonly exitCode: number | null;
  /** Where it was looked at; none otherwise. */
  readonly failedUnits?: FailedUnits;
  /** What the system's own program said beforehand that it would do; null where it did not say. */
  readonly foretold?: string | null;
  /** Whose wish it was; left out where it is the policy's doing. */
  readonly who?: Who;
};

/** How a run ended. */
export type Outcome = Attempt & {
  readonly manifest: ManifestId | null;
  readonly systems: Systems;
};

export const IN_SYNC: Attempt = { phase: 'in-sync', reason: null, exitCode: null };
export const DECOMMISSIONED: Attempt = { phase: 'decommissioned', reason: null, exitCode: null };
export const INTERRUPTED: Reason = makeReason('E_INTERRUPTED', 'an activation broke off');

/** Of an activation that a run found and did not take over; `error`: what came between, or null. */
export function couldNotGoOn(error: unknown): Reason {
  const why = error === null ? '' : `: ${messageOf(error)}`;
  return makeReason(INTERRUPTED.code, `${INTERRUPTED.text} and could not go on${why}`);
}

export function idOf(
  { epoch, sequence }: { readonly epoch: number; readonly sequence: number },
  sha256: string,
): ManifestId {
  return { epoch, sequence, sha256 };
}

/**
 * What an error means for the host. Null where it says nothing about it: before a manifest was verified,
 * a server that cannot be reached is news to nobody who could read the receipt.
 */
export function attemptOf(error: FleetError, manifest: ManifestId | null): Attempt | null {
  const reason = makeReason(error.code, error.message);
  if (error.exitCode === 3) return { phase: 'refused', reason, exitCode: null };
  if (error.code === 'E_PREFLIGHT') return { phase: 'preflight-failed', reason, exitCode: null };
  return manifest === null ? null : { phase: 'failed', reason, exitCode: null };
}

/** What to tell a person about an outcome that is not a success; null for one that is. */
export function errorOf({ phase, reason }: Outcome): FleetError | null {
  const told = (code: ErrorCode): FleetError => new FleetError(code, reason?.text ?? phase);
  switch (phase) {
    case 'rolled-back':
      if (reason?.code === 'E_SERVER_LOST') return told('E_SERVER_LOST');
      return new FleetError('E_ROLLED_BACK', `rolled back: ${reason?.text ?? 'no reason known'}`);
    case 'awaiting-lock':
      return told('E_SWITCH_LOCKED');
    case 'preflight-failed':
      return told('E_PREFLIGHT');
    case 'failed':
      return told(codeOf(reason));
    default:
      return null;
  }
}

function codeOf(reason: Reason | null): ErrorCode {
  const known = reason !== null && Object.hasOwn(ERRORS, reason.code);
  return known ? (reason.code as ErrorCode) : 'E_SWITCH_FAILED';
}
