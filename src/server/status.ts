// What is known of every host → the rows of `fleet status`: desired (the newest manifest), actual (the
// last receipt), phase, last sighting, and why. The words are those of a receipt's phases; the server
// adds only what a host cannot say of itself: never-seen, manifest-pending, offline.
import { parseEnvelope } from '../manifest/dsse.ts';
import { isEmergency } from '../manifest/publish.ts';
import {
  type Exception,
  type Phase,
  parseReceipt,
  type Reason,
  type Receipt,
} from '../manifest/receipt.ts';
import {
  parseToldProgress,
  TOLD_PROGRESS_SECONDS,
  type ToldProgress,
} from '../manifest/told-progress.ts';
import type { StorePath } from '../nix/storepath.ts';
import type { ConflictKind } from '../storage/host-life.ts';
import type { StatusRow } from '../storage/state.ts';

export type HostStatus = {
  readonly host: string;
  readonly desired: {
    readonly epoch: number;
    readonly sequence: number;
    /** null: it was removed, and is to be told so. */
    readonly toplevel: StorePath | null;
    readonly digest: string;
    /** POSIX seconds. */
    readonly issuedAt: number;
    readonly expiresAt: number;
    /** It is to wait for nothing (SPEC §5.6). */
    readonly emergency: boolean;
  } | null;
  /** As the host last reported it. */
  readonly actual: {
    readonly current: StorePath | null;
    readonly booted: StorePath | null;
    readonly profile: StorePath | null;
    /** POSIX seconds, by the server's clock. */
    readonly reportedAt: number;
  } | null;
  /** How far it is with fetching the newest manifest's system, as it said itself, unsigned; null: it said nothing of late. */
  readonly fetching: (Omit<ToldProgress, 'manifest'> & { readonly toldAt: number }) | null;
  readonly phase: Phase;
  readonly why: Reason | null;
  /** What root at the machine did that the rules alone would not have, as its last receipt says. */
  readonly exceptions: readonly Exception[];
  /** Nothing is published for it since then, in POSIX seconds, and why; null: the admin does not hold it. */
  readonly held: { readonly since: number; readonly reason: string | null } | null;
  /** POSIX seconds; null before the first contact. */
  readonly lastSeen: number | null;
  /** What its key signed and should not have: another machine has it, or it lost its memory. */
  readonly conflict: {
    readonly kind: ConflictKind;
    readonly text: string;
    /** When the first of it came, POSIX seconds. */
    readonly since: number;
    readonly count: number;
  } | null;
};

/** A host that was silent for longer counts as offline. */
const OFFLINE_AFTER_SECONDS = 86_400;

/** `now` in POSIX seconds. */
export function hostStatus(row: StatusRow, now: number): HostStatus {
  const { record, manifest, report } = row;
  const receipt = report === null ? null : parseReceipt(parseEnvelope(report.envelope).payload);
  const actual =
    receipt === null || report === null
      ? null
      : {
          current: receipt.current,
          booted: receipt.booted,
          profile: receipt.profile,
          reportedAt: report.receivedAt,
        };
  const desired =
    manifest === null
      ? null
      : {
          epoch: manifest.epoch,
          sequence: manifest.sequence,
          toplevel: manifest.toplevel,
          digest: manifest.digest,
          issuedAt: manifest.issuedAt,
          expiresAt: manifest.expiresAt,
          emergency: isEmergency(manifest),
        };
  const { host, lastSeen, heldAt, heldReason } = record;
  const held = heldAt === null ? null : { since: heldAt, reason: heldReason };
  const exceptions = receipt?.exceptions ?? [];
  const fetching = fetchingOf(row, now);
  return {
    ...{ host, desired, actual, held, lastSeen, exceptions, fetching },
    ...phaseOf(),
    conflict: conflictOf(row),
  };

  function phaseOf(): { phase: Phase; why: Reason | null } {
    if (manifest !== null && manifest.toplevel === null) {
      if (receipt?.phase === 'decommissioned') return { phase: receipt.phase, why: null };
      const text = 'removed; it has not said yet that it knows';
      return { phase: 'manifest-pending', why: { code: 'removed', text } };
    }
    if (record.publicKey === null) {
      return { phase: 'never-seen', why: { code: 'not-enrolled', text: 'not enrolled yet' } };
    }
    if (record.lastSeen !== null && now - record.lastSeen > OFFLINE_AFTER_SECONDS) {
      return { phase: 'offline', why: { code: 'silent', text: 'not heard from for over a day' } };
    }
    if (receipt === null) {
      return manifest === null
        ? pending('no-manifest', 'nothing is published for it')
        : pending('no-report', 'has not reported yet');
    }
    // What a host refuses need not be the newest manifest: it is news all the same.
    const about = receipt.manifest?.sha256 === manifest?.digest || receipt.phase === 'refused';
    const older = manifest !== null && report !== null && report.receivedAt < manifest.issuedAt;
    if (manifest !== null && (!about || (older && receipt.phase === 'refused'))) {
      return pending('not-fetched', 'has not taken the newest manifest yet');
    }
    return { phase: receipt.phase, why: receipt.reason };
  }

  /** Nothing that is signed tells of the newest manifest. What is not signed never takes the place of what is. */
  function pending(code: string, text: string): { phase: Phase; why: Reason | null } {
    if (fetching !== null) return { phase: 'fetching', why: null };
    return { phase: 'manifest-pending', why: { code, text } };
  }
}

/** What a host said after all else that it said, a moment ago and of what it is to run now. */
function fetchingOf(
  { record: { progress, progressAt }, manifest, report }: StatusRow,
  now: number,
): HostStatus['fetching'] {
  if (progress === null || progressAt === null || manifest === null) return null;
  const isOld = Math.abs(now - progressAt) > TOLD_PROGRESS_SECONDS;
  if (isOld || (report !== null && report.receivedAt >= progressAt)) return null;
  try {
    const { manifest: digest, ...how } = parseToldProgress(progress);
    return digest === manifest.digest ? { ...how, toldAt: progressAt } : null;
  } catch {
    // Nothing follows from it: one that cannot be read must not keep all else from being shown.
    return null;
  }
}

/** An exception that a receipt of a host tells. */
export type ToldException = {
  readonly exception: Exception;
  readonly counter: number;
  /** POSIX seconds, by the host's clock. */
  readonly at: number;
};

/** All that the receipts of a host (their envelopes) tell, in their order. */
export function exceptionsIn(receipts: readonly string[]): ToldException[] {
  return receipts.flatMap((envelope) => {
    const { exceptions = [], counter, times } = parseReceipt(parseEnvelope(envelope).payload);
    return exceptions.map((exception) => ({ exception, counter, at: times.finished }));
  });
}

/** What somebody at a host asked of the admin. */
export type ToldRequest = {
  readonly number: number;
  readonly text: string;
  readonly who: Receipt['who'];
  /** POSIX seconds, by the host's clock. */
  readonly at: number;
};

/** All requests in receipts (their envelopes), in their order. */
export function requestsIn(receipts: readonly string[]): ToldRequest[] {
  return receipts.flatMap((envelope) => {
    const { request, who, times } = parseReceipt(parseEnvelope(envelope).payload);
    return request === undefined ? [] : [{ ...request, who, at: times.finished }];
  });
}

/** The worst first. */
const CONFLICTS: ReadonlyMap<ConflictKind, string> = new Map([
  ['fork', 'two receipts follow one: the machine was cloned, or its state is an old copy'],
  ['token', 'two asked to renew one token: the machine was cloned, or its state is an old copy'],
  ['gap', 'receipts are missing: the machine was cloned, or the server restored from a backup'],
]);

function conflictOf({ conflicts }: StatusRow): HostStatus['conflict'] {
  for (const [kind, text] of CONFLICTS) {
    const first = conflicts.find((one) => one.kind === kind);
    if (first !== undefined) return { kind, text, since: first.seenAt, count: conflicts.length };
  }
  return null;
}
