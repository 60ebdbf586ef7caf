// What the server knows: the cache's index, hosts, manifests, credentials, reports. An interface of
// transactions named for what they do; SQLite today, PostgreSQL later, which is why every method is
// asynchronous. Times are POSIX seconds. Rows are plain data (they cross a thread boundary).
import type { NarHash } from '../nix/hash.ts';
import type { Compression } from '../nix/narinfo.ts';
import type { StorePath } from '../nix/storepath.ts';
import type { BlobId, BlobRef } from './blobs.ts';
import type { Conflict, HostLifeReads, HostLifeWrites } from './host-life.ts';
import type { LogStateReads, LogStateWrites } from './log.ts';
import type { PackReads, PackWrites } from './packs.ts';

type IndexedPath = {
  readonly path: StorePath;
  readonly narHash: NarHash;
  readonly narSize: number;
  /** Full paths, self included where it refers to itself, strictly increasing bytewise. */
  readonly references: readonly StorePath[];
  readonly deriver: StorePath | null;
  /** `name:base64`: what others signed, kept as it came. Our own are made at serving time. */
  readonly sigs: readonly string[];
  /** Content address, checked against the bytes; null for most. */
  readonly ca: string | null;
};

/** A path whose NAR, compressed, is one of our blobs. */
export type StoredPath = IndexedPath & {
  readonly compression: 'zstd';
  readonly blob: BlobId;
  /** Compressed size in bytes. */
  readonly blobSize: number;
  readonly upstream: null;
};

/** A path that was left out of storage because a configured upstream serves it. */
export type UpstreamPath = IndexedPath & {
  readonly compression: Compression;
  readonly blob: null;
  readonly blobSize: null;
  readonly upstream: {
    /** Absolute http(s) URL of the compressed NAR. */
    readonly url: string;
    readonly fileHash: NarHash | null;
    readonly fileSize: number | null;
  };
};

/** A store path that clients can get. */
export type CachedPath = StoredPath | UpstreamPath;

/** A file of debug symbols in a path: `lib/debug/.build-id/ab/cd….debug`. */
export type DebugFile = {
  /** 40 lowercase hex digits. */
  readonly buildId: string;
  /** Where it lies in its path, without a leading slash. */
  readonly member: string;
};

/** What is known of a NAR's insides, found while its bytes passed by. */
export type NarContents = {
  /** Nix's `.ls` document, as one zstd frame; null when it would be too large to keep. */
  readonly listing: Uint8Array | null;
  readonly debugFiles: readonly DebugFile[];
};

/** A row to be stored. A row that comes without contents keeps those that are known of the same bytes. */
export type NewPath = CachedPath & { readonly contents?: NarContents };

/** A NAR that a client uploaded, stored in our form, for narinfos to name. */
export type StagedNar = {
  /** The client's name for it: what follows `nar/` in its URL. */
  readonly file: string;
  readonly narHash: NarHash;
  readonly narSize: number;
  /** SHA-256 and length of the bytes as the client sent them. */
  readonly fileHash: NarHash;
  readonly fileSize: number;
  readonly blob: BlobId;
  readonly blobSize: number;
  /** SHA-256 of the one regular file that the NAR is, or null when it is something else. */
  readonly flatHash: NarHash | null;
  /** Hash parts that occur in it as `/nix/store/HASH-`, each once. */
  readonly mentions: readonly string[];
  readonly contents: NarContents;
};

/** What a client says of a path, to be compared with what is known of it. */
export type SaidOfPath = Pick<IndexedPath, 'path' | 'narHash' | 'narSize' | 'references' | 'sigs'>;

/** What became of an uploaded path. `same`: those bytes were there; `differs`: others are. */
export type UploadOutcome =
  | { readonly outcome: 'added' | 'same' | 'differs' }
  | { readonly outcome: 'references missing'; readonly missing: readonly StorePath[] };

/** What the store's derivation gave, for content-addressed derivations. `key`: the URL's path. */
export type RealisationRecord = {
  /** `realisations/<id>.doi` or `build-trace-v2/<drv>/<output>.doi`. */
  readonly key: string;
  readonly outPath: StorePath;
  readonly json: string;
};

/** A path that is kept until the pin is removed. */
export type Pin = { readonly name: string; readonly path: StorePath; readonly createdAt: number };

/** What the cache holds, summed. `blobBytes` counts each NAR once. */
export type CacheTotals = {
  readonly paths: number;
  readonly upstreamPaths: number;
  readonly narBytes: number;
  readonly blobs: number;
  readonly blobBytes: number;
};

/** One step of a garbage collection: what went (or would go), and whether nothing is left to look at. */
export type SweepStep = {
  readonly removed: readonly {
    readonly path: StorePath;
    readonly narSize: number;
    readonly usedAt: number;
  }[];
  readonly done: boolean;
};

/** One host's manifest as it was published; `envelope` is served verbatim. */
export type PublishedManifest = {
  readonly host: string;
  readonly epoch: number;
  readonly sequence: number;
  /** SHA-256 of the payload, lowercase hex. */
  readonly digest: string;
  readonly envelope: string;
  readonly issuedAt: number;
  readonly expiresAt: number;
} & (
  | NamedSystem
  | { readonly toplevel: null; readonly closure: null; readonly closureBytes: null }
);

/** What a manifest names that does not end its host. */
export type NamedSystem = {
  readonly toplevel: StorePath;
  readonly closure: BlobId;
  /** Bytes of the closure file. */
  readonly closureBytes: number;
};

/** Proof that this process may publish; its fencing number grows with every holder. */
export type LeaseHolder = { readonly pid: number; readonly since: number; readonly fence: number };

export type HostRecord = {
  readonly host: string;
  /** Raw Ed25519 public key of the enrolled host, standard base64; null before enrolment. */
  readonly publicKey: string | null;
  readonly enrolledAt: number | null;
  readonly lastSeen: number | null;
  /** Since when the admin holds it, and why; null: nobody does. */
  readonly heldAt: number | null;
  readonly heldReason: string | null;
  /** What it last said of a fetch that it was in the middle of (SPEC §6.4), and when; null: nothing yet. */
  readonly progress: string | null;
  readonly progressAt: number | null;
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
  /** The number of the request that it tells; left out where it tells none. */
  readonly request?: number | null;
};

/** A one-time right to enrol `host`; only the SHA-256 (hex) of its secret is stored. */
export type Invitation = {
  readonly secretHash: string;
  readonly host: string;
  readonly expiresAt: number;
};

/**
 * What the bearer of a token may do. `read`: use the cache. `push`: also upload. `host`: use the cache
 * and act as that host. `leaving`: act as that host, which was removed, and no more. `admin`: read, push, and
 * see metrics.
 */
export type Scope = 'read' | 'push' | 'host' | 'leaving' | 'admin';

export type Credential = {
  readonly tokenHash: string;
  readonly name: string;
  readonly scope: Scope;
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
  /** The last one by the key that is enrolled. */
  readonly report: ReportRecord | null;
  /** What that key signed and should not have, oldest first. */
  readonly conflicts: readonly Pick<Conflict, 'kind' | 'seenAt'>[];
};

/** Reads never wait for writers. */
export interface StateReads extends LogStateReads, HostLifeReads, PackReads {
  /** Another number whenever anything may have changed since the last call; cheap enough for every request. */
  version(): Promise<number>;
  /** How many writes went through this very State so far; costs nothing to ask. */
  writes(): number;
  /** Index row by the 32-character hash part of its store path. */
  cachedPath(hashPart: string): Promise<CachedPath | null>;
  /** Index rows of those of `paths` that have one, in no particular order. */
  cachedPaths(paths: readonly StorePath[]): Promise<CachedPath[]>;
  /** Index rows by the hash parts of their paths, in no particular order. */
  cachedPathsByHash(hashParts: readonly string[]): Promise<CachedPath[]>;
  /** The next rows by hash part, at most `limit`; from the first where `after` is empty. */
  cachedPathsAfter(after: string, limit: number): Promise<CachedPath[]>;
  cacheTotals(): Promise<CacheTotals>;
  /** The zstd frame of a path's `.ls` document. */
  listing(hashPart: string): Promise<Uint8Array | null>;
  /** The path that has the debug file of this build id, and where in it. */
  debugFile(buildId: string): Promise<{ readonly row: CachedPath; readonly member: string } | null>;
  /** The blob (one zstd frame) that holds a derivation's build log. */
  buildLog(drv: StorePath): Promise<BlobRef | null>;
  realisation(key: string): Promise<RealisationRecord | null>;
  stagedNar(file: string): Promise<StagedNar | null>;
  pins(): Promise<Pin[]>;
  /** Those of `blobs` that anything here names: a NAR's, a closure's, a log's, a staged NAR's, a pack's. */
  namedBlobs(blobs: readonly BlobId[]): Promise<ReadonlySet<BlobId>>;
  /** How many rows `dropPath` ever removed. */
  droppedPaths(): Promise<number>;
  /** Bytes of a compressed NAR that a row names or ever named; null for any other blob. */
  narBlobSize(blob: BlobId): Promise<number | null>;
  /** Bytes of a closure file that a published manifest names; null for any other blob. */
  closureSize(closure: BlobId): Promise<number | null>;
  /** The newest manifest of `host`. */
  currentManifest(host: string): Promise<PublishedManifest | null>;
  /** The newest manifest of every host, by host. */
  currentManifests(): Promise<PublishedManifest[]>;
  /** The newest `perHost` manifests of every host. */
  recentManifests(perHost: number): Promise<PublishedManifest[]>;
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
export type EnrolOutcome = 'enrolled' | 'replay' | 'unknown' | 'expired' | 'used' | 'removed';

/** `duplicate`: the very same receipt is there already. `fork`: another with its counter or previous is. */
export type ReportOutcome = 'stored' | 'duplicate' | 'fork' | 'gap';

/**
 * Every method is one short transaction; fulfilled means durable.
 * @throws FleetError E_STATE_BUSY, E_DISK_FULL.
 */
export interface StateWrites extends LogStateWrites, HostLifeWrites, PackWrites {
  /**
   * Adds or replaces index rows, used now. Their blobs must be durable already. Many rows take several
   * transactions, so a failure may leave the first of them stored.
   */
  addCachedPaths(rows: readonly NewPath[], now: number): Promise<void>;
  /**
   * Notes that `paths` are used now, which keeps them and all they refer to from a garbage collection
   * that began before; returns how many of them there are. Several transactions when there are many.
   */
  touchPaths(paths: readonly StorePath[], now: number): Promise<number>;
  /**
   * A client says of a path, without its NAR, what it takes to be here: marks the row as used and adds the
   * signatures where the rest agrees, and never adds or changes anything else.
   */
  confirmPath(said: SaidOfPath, now: number): Promise<'same' | 'differs' | 'absent'>;
  /** Removes a row whose bytes turned out to be wrong; what refers to it stays. */
  dropPath(path: StorePath, now: number): Promise<void>;
  /** Keeps an uploaded NAR, replacing one of the same name. Its blob must be durable already. */
  stageNar(nar: StagedNar, now: number): Promise<void>;
  /**
   * Adds the row of an uploaded path and marks what it refers to as used; all or nothing. The staged NAR
   * stays for a while: another path may have the same bytes, and its client was told that they are here.
   * A row that is there stays, but for its blob where that is `lost`.
   */
  addUploadedPath(row: NewPath, lost: BlobId | null, now: number): Promise<UploadOutcome>;
  /** Notes the blob that holds a derivation's log, used now; the first one stays, unless it is `lost`. */
  addBuildLog(drv: StorePath, blob: BlobRef, lost: BlobId | null, now: number): Promise<void>;
  /** Adds or replaces a realisation; false when its output path is not in the index. */
  addRealisation(record: RealisationRecord, now: number): Promise<boolean>;
  /** Pins a path under a name that is free or has the same path; false when the path is not in the index. */
  addPin(pin: Pin): Promise<boolean>;
  /** Returns whether there was one. */
  removePin(name: string): Promise<boolean>;
  /**
   * Begins a garbage collection of this connection, ending any earlier one. Paths among `roots`, and
   * those used at `cutoff` or later, are kept with all they refer to.
   */
  beginSweep(sweep: {
    readonly roots: readonly StorePath[];
    readonly cutoff: number;
    readonly dryRun: boolean;
  }): Promise<void>;
  /**
   * Looks at up to `limit` paths and removes those that nothing keeps: referrers before what they refer
   * to, so that no row ever refers to a missing one. The NARs they named are released `now`.
   * @throws FleetError E_GC_INTERRUPTED when no sweep was begun on this connection.
   */
  sweepPaths(limit: number, now: number): Promise<SweepStep>;
  /**
   * Forgets up to `limit` NARs that no row has named since `cutoff`; returns them. A dry run adds those
   * that its sweep would have released.
   */
  sweepNars(cutoff: number, limit: number, dryRun: boolean): Promise<BlobRef[]>;
  /**
   * Forgets what is older than `cutoff` and belongs to nothing: staged NARs (those that a row names
   * already when they are older than `describedCutoff`), logs of derivations that no row names,
   * realisations of paths that are gone. Returns how many.
   */
  sweepLeftovers(cutoff: number, describedCutoff: number, limit: number): Promise<number>;
  /** Records a new holder of the publication lease and returns it with the next fencing number. */
  recordLease(pid: number, now: number): Promise<LeaseHolder>;
  /**
   * Records an invitation (and the host, if new), replacing unused ones of the same host.
   * @throws FleetError E_DECOMMISSIONED for a host that was removed.
   */
  invite(invitation: Invitation): Promise<void>;
  /**
   * Uses up an invitation: stores the host's key and its token (a credential named
   * `hostCredentialName(host)`), in one transaction. Tokens of a key that is replaced are removed.
   */
  enrol(request: {
    readonly secretHash: string;
    readonly publicKey: string;
    readonly tokenHash: string;
    readonly now: number;
    /** Of the token; never, where it is left out. */
    readonly expiresAt?: number | null;
  }): Promise<EnrolOutcome>;
  addCredential(credential: Credential): Promise<void>;
  /** Removes the credentials named `name`; returns how many there were. */
  revokeCredentials(name: string): Promise<number>;
  /** Notes that `host` was heard from. */
  touchHost(host: string, now: number): Promise<void>;
  /**
   * Stores a receipt if it continues the host's chain. A first receipt of a newly enrolled key has
   * counter 1 and previous null. `gap` when the receipts before it are missing. What is not stored, and no
   * duplicate, is kept as a conflict.
   * @throws FleetError E_HOST_UNKNOWN when the host is not enrolled.
   */
  addReport(report: ReportRecord): Promise<ReportOutcome>;
}

export interface State extends StateReads, StateWrites, AsyncDisposable {}
