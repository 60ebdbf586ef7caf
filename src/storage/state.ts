// What the server knows: the cache's index, hosts, manifests, credentials, reports. An interface of
// transactions named for what they do; SQLite today, PostgreSQL later, which is why every method is
// asynchronous. Times are POSIX seconds. Rows are plain data (they cross a thread boundary).
import type { NarHash } from '../nix/hash.ts';
import type { StorePath } from '../nix/storepath.ts';
import type { BlobId } from './blobs.ts';

/** A store path whose NAR, compressed, can be served. */
export type CachedPath = {
  readonly path: StorePath;
  readonly narHash: NarHash;
  readonly narSize: number;
  /** Full paths, self included where it refers to itself, strictly increasing bytewise. */
  readonly references: readonly StorePath[];
  readonly deriver: StorePath | null;
  readonly compression: 'zstd';
  readonly blob: BlobId;
  /** Compressed size in bytes. */
  readonly blobSize: number;
};

/** One host's manifest as it was published; `envelope` is served verbatim. */
export type PublishedManifest = {
  readonly host: string;
  readonly epoch: number;
  readonly sequence: number;
  /** SHA-256 of the payload, lowercase hex. */
  readonly digest: string;
  readonly envelope: string;
  readonly toplevel: StorePath;
  readonly closure: BlobId;
  /** Bytes of the closure file. */
  readonly closureBytes: number;
  readonly issuedAt: number;
  readonly expiresAt: number;
};

/** Proof that this process may publish; its fencing number grows with every holder. */
export type LeaseHolder = { readonly pid: number; readonly since: number; readonly fence: number };

export type HostRecord = {
  readonly host: string;
  /** Raw Ed25519 public key of the enrolled host, standard base64; null before enrolment. */
  readonly publicKey: string | null;
  readonly enrolledAt: number | null;
  readonly lastSeen: number | null;
};

/** What a host last reported, and the receipt that says so. */
export type ReportRecord = {
  readonly host: string;
  /** Grows by 1 per receipt of one host key, from 1. */
  readonly counter: number;
  /** SHA-256 of the receipt's payload, lowercase hex. */
  readonly digest: string;
  /** Digest of the receipt before it, or null for the first. */
  readonly previous: string | null;
  readonly receivedAt: number;
  readonly envelope: string;
};

/** A one-time right to enrol `host`; only the SHA-256 (hex) of its secret is stored. */
export type Invitation = {
  readonly secretHash: string;
  readonly host: string;
  readonly expiresAt: number;
};

/** Who a bearer of a token is. `read`: may use the cache. `host`: may also act as that host. */
export type Credential = {
  readonly tokenHash: string;
  readonly name: string;
  readonly scope: 'read' | 'host';
  readonly host: string | null;
  readonly createdAt: number;
  readonly expiresAt: number | null;
};

/** The name of the credential that enrolment gives to `host`; a host id holds no colon. */
export function hostCredentialName(host: string): string {
  return `host:${host}`;
}

export type StatusRow = {
  readonly record: HostRecord;
  readonly manifest: PublishedManifest | null;
  readonly report: ReportRecord | null;
};

/** Reads never wait for writers. */
export interface StateReads {
  /** Index row by the 32-character hash part of its store path. */
  cachedPath(hashPart: string): Promise<CachedPath | null>;
  /** Index rows of those of `paths` that have one, in no particular order. */
  cachedPaths(paths: readonly StorePath[]): Promise<CachedPath[]>;
  /** Bytes of a compressed NAR that a row names or ever named; null for any other blob. */
  narBlobSize(blob: BlobId): Promise<number | null>;
  /** Bytes of a closure file that a published manifest names; null for any other blob. */
  closureSize(closure: BlobId): Promise<number | null>;
  /** The newest manifest of `host`. */
  currentManifest(host: string): Promise<PublishedManifest | null>;
  /** The newest manifest of every host, by host. */
  currentManifests(): Promise<PublishedManifest[]>;
  /** Every manifest ever published for `host`, oldest first. */
  manifestHistory(host: string): Promise<PublishedManifest[]>;
  host(host: string): Promise<HostRecord | null>;
  /** Every host that was ever published or invited, by name, with what is known of it. */
  status(): Promise<StatusRow[]>;
  credential(tokenHash: string): Promise<Credential | null>;
  credentials(): Promise<Credential[]>;
  invitation(secretHash: string): Promise<Invitation | null>;
  lastReport(host: string): Promise<ReportRecord | null>;
  /** Who was the last to take the publication lease; it may have ended since. */
  leaseHolder(): Promise<LeaseHolder | null>;
}

/** What `enrol` found. `replay`: the same invitation and key came before; a new token was stored. */
export type EnrolOutcome = 'enrolled' | 'replay' | 'unknown' | 'expired' | 'used';
/** `duplicate`: the very same receipt is there already. `fork`: another with its counter or previous is. */
export type ReportOutcome = 'stored' | 'duplicate' | 'fork' | 'gap';

/**
 * Every method is one short transaction; fulfilled means durable.
 * @throws FleetError E_STATE_BUSY, E_DISK_FULL.
 */
export interface StateWrites {
  /**
   * Adds or replaces index rows. Their blobs must be durable already. Many rows take several
   * transactions, so a failure may leave the first of them stored.
   */
  addCachedPaths(rows: readonly CachedPath[]): Promise<void>;
  /**
   * Makes `manifests` the newest ones of their hosts, all at once.
   * @throws FleetError E_LEASE_LOST when `fence` is no longer the newest lease's;
   *   E_SEQUENCE when one does not grow (epoch, sequence) of its host.
   */
  publish(manifests: readonly PublishedManifest[], fence: number): Promise<void>;
  /** Records a new holder of the publication lease and returns it with the next fencing number. */
  recordLease(pid: number, now: number): Promise<LeaseHolder>;
  /** Records an invitation (and the host, if new), replacing unused ones of the same host. */
  invite(invitation: Invitation): Promise<void>;
  /**
   * Uses up an invitation: stores the host's key and its token (a credential without expiry, named
   * `hostCredentialName(host)`), in one transaction. Tokens of a key that is replaced are removed.
   */
  enrol(request: {
    readonly secretHash: string;
    readonly publicKey: string;
    readonly tokenHash: string;
    readonly now: number;
  }): Promise<EnrolOutcome>;
  addCredential(credential: Credential): Promise<void>;
  /** Removes the credentials named `name`; returns how many there were. */
  revokeCredentials(name: string): Promise<number>;
  /** Notes that `host` was heard from. */
  touchHost(host: string, now: number): Promise<void>;
  /**
   * Stores a receipt if it continues the host's chain. A first receipt of a newly enrolled key has
   * counter 1 and previous null. `gap` when the receipts before it are missing.
   * @throws FleetError E_HOST_UNKNOWN when the host is not enrolled.
   */
  addReport(report: ReportRecord): Promise<ReportOutcome>;
}

export interface State extends StateReads, StateWrites, AsyncDisposable {}
