// What State keeps of a host's life after it was enrolled: tokens that follow one another, what its key signed and
// should not have, how a host that was removed is let go.

/**
 * What a host's key signed that contradicts what it signed before. `fork`: another receipt has the same counter or
 * `previous`; `gap`: the receipts before it are missing; `token`: a second successor of one token was asked for.
 */
export type ConflictKind = 'fork' | 'gap' | 'token';

export type Conflict = {
  readonly kind: ConflictKind;
  /** SHA-256 of the payload, lowercase hex. */
  readonly digest: string;
  readonly seenAt: number;
  readonly envelope: string;
};

/** So many contradictions of one host key are kept: a clone may go on for long. */
export const MAX_CONFLICTS = 16;
/** For so long after its removal a host may ask and be told of it. */
export const LEAVE_SECONDS = 30 * 86_400;
/** A token that has a successor stays good for requests that are under way. */
export const TOKEN_OVERLAP_SECONDS = 3600;

export type RenewalRequest = {
  readonly host: string;
  readonly publicKey: string;
  /** Hashes of the token that it has, and of the next. */
  readonly replaces: string;
  readonly tokenHash: string;
  readonly now: number;
  readonly expiresAt: number;
  /** Evidence: SHA-256 of the payload in hex, and its envelope. */
  readonly digest: string;
  readonly envelope: string;
};

/**
 * `unknown`: no such token of a host with that key; `successor`: another one was given for that token before, of which
 * this request knows nothing; `leaving`: the host was removed.
 */
export type RenewalOutcome =
  | { readonly outcome: 'renewed'; readonly expiresAt: number | null }
  | { readonly outcome: 'unknown' | 'successor' | 'leaving' };

/** The last receipt and the last conflict of some moment, of all hosts: what comes later has greater numbers. */
export type RecordsMark = { readonly receipts: number; readonly conflicts: number };

/** What of a host's receipts and conflicts is asked for: of these keys, and of before the mark. */
export type RecordsBound = { readonly keys: readonly string[]; readonly mark: RecordsMark };

export type RequestRow = {
  readonly host: string;
  /** POSIX seconds, by the server's clock. */
  readonly receivedAt: number;
  readonly envelope: string;
};

export interface HostLifeReads {
  recordsMark(): Promise<RecordsMark>;
  /** The envelopes of the receipts of `host`, by any key that it ever had, in the order in which they came. */
  receipts(host: string, bound?: RecordsBound): Promise<string[]>;
  /** Receipts that tell a request of somebody at a host, and came at `since` or later, oldest first. */
  requests(since: number): Promise<RequestRow[]>;
  /** Hosts that the admin holds, by name. */
  heldHosts(): Promise<string[]>;
  /** Evidence of what contradicts a host's receipts, by any key that it ever had, in the order in which it came. */
  conflicts(host: string, bound?: RecordsBound): Promise<Conflict[]>;
}

export interface HostLifeWrites {
  /**
   * Stores the token that follows one of `host`, whose key asked for it; the one before is good for
   * TOKEN_OVERLAP_SECONDS more. The same again changes nothing. A token has one successor: who asks for
   * another one is kept as a conflict.
   */
  renewToken(request: RenewalRequest): Promise<RenewalOutcome>;
  /** Holds a host, or (null) ends that; false when there is no such host. A hold that goes on stays as it was. */
  holdHost(
    host: string,
    hold: { readonly at: number; readonly reason: string | null } | null,
  ): Promise<boolean>;
  /** Notes what a host says of what it is in the middle of (SPEC §6.4), in the place of what it said before. */
  noteProgress(host: string, progress: string, at: number): Promise<void>;
  /** Ends the tokens of a host that was removed at `at`, or when they end anyway. */
  endLeaving(host: string, at: number): Promise<void>;
}
