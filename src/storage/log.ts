// Where a transparency log lies: tiles and one checkpoint, as C2SP tlog-tiles names them (LogStore: files
// today), and what State keeps of it: the entries that are being appended, and how far the log was committed.
// Only who holds the publication lock writes. A log is committed first, in one transaction, and written out
// and signed after that: what is committed can be written again and again, and never comes out otherwise.
import type { TileId } from '../tlog/tile.ts';
import type { PublishedManifest } from './state.ts';

export interface LogReads {
  /** The bytes of a tile or bundle of just this width, or null. */
  tile(id: TileId): Promise<Uint8Array | null>;
  /** The newest checkpoint's text, or null for a log that has none. */
  checkpoint(): Promise<string | null>;
}

export interface LogStore extends LogReads {
  /**
   * Stores a tile or bundle, durably, in place of one of the same name.
   * @throws FleetError E_DISK_FULL, E_STATE_ACCESS.
   */
  putTile(id: TileId, bytes: Uint8Array): Promise<void>;
  /**
   * Replaces the checkpoint, durably. Every tile of its tree must be stored.
   * @throws FleetError E_LOG_DAMAGED when the one that is there is not `before`: somebody else writes.
   */
  putCheckpoint(text: string, before: string | null): Promise<void>;
}

/** What was committed: a checkpoint of just this tree is signed, sooner or later, and none beside it. */
export type LogHead = {
  /** The number of the log: its origin is `<fleet>/log/<number>`. */
  readonly log: number;
  /** Entries. */
  readonly size: number;
  /** The tree's hash, 32 bytes in lowercase hex. */
  readonly root: string;
  /** How many of the entries are snapshots, and how many are roots: versions from 1 on. */
  readonly snapshots: number;
  readonly roots: number;
};

/** What an entry is; manifests are kept with their hosts, the others by themselves. */
export type EntryKind = 'root' | 'approval' | 'enrolment' | 'snapshot';

export type LogEntry = {
  readonly index: number;
  /** The bytes that are hashed; at most 65,535. */
  readonly data: Uint8Array;
};

export type StagedEntry =
  | {
      readonly index: number;
      readonly manifest: PublishedManifest;
      /** The index of the approval that it needed. */
      readonly approvedBy?: number;
    }
  | {
      readonly index: number;
      readonly kind: EntryKind;
      readonly data: Uint8Array;
      /** Of an approval: the digests that it is about, in their order. */
      readonly batch?: readonly string[];
      /** Of an enrolment: whose key it tells. */
      readonly enrols?: { readonly host: string; readonly publicKey: string };
    };

/** A host's newest manifest and where it is in the log. */
export type LoggedManifest = PublishedManifest & {
  readonly logIndex: number;
  /** Where the approval that it needed is in the log. */
  readonly approvedBy: number | null;
};

export type LoggedApproval = {
  readonly envelope: string;
  readonly batch: readonly string[];
  readonly logIndex: number;
};

/** The number and digest of a host's newest manifest. */
export type HostEntry = Pick<PublishedManifest, 'host' | 'epoch' | 'sequence' | 'digest'>;

/** What a log tells of a host's key, and where. */
export type LoggedEnrolment = { readonly index: number; readonly envelope: string };

export type UnloggedKey = {
  readonly host: string;
  /** Raw Ed25519 public key, standard base64. */
  readonly publicKey: string;
  readonly replaces: string | null;
};

export interface LogStateReads {
  logHead(log: number): Promise<LogHead | null>;
  /** Entries from index `from` on, committed or staged, at most `limit` of those that State has, in order. */
  logEntries(log: number, from: number, limit: number): Promise<LogEntry[]>;
  /** The newest manifest of every host among the entries below `size` of a log, by host. */
  hostEntries(log: number, size: number): Promise<HostEntry[]>;
  /** The approvals among the entries from `from` up to `to` of a log, in their order. */
  approvals(log: number, from: number, to: number): Promise<LoggedApproval[]>;
  /** Closures that manifests among the first `size` entries of a log name, each once, sorted. */
  loggedClosures(log: number, size: number): Promise<string[]>;
  /** The keys of hosts that a log does not tell yet, by host; `replaces`: the one that it tells. */
  unloggedKeys(log: number): Promise<UnloggedKey[]>;
  /** The enrolments of `host` among the first `size` entries of a log, in their order. */
  loggedEnrolments(host: string, log: number, size: number): Promise<LoggedEnrolment[]>;
  /** The keys of each host that the first `size` entries of a log tell, or any entry of a log before it. */
  toldKeys(log: number, size: number): Promise<ReadonlyMap<string, readonly string[]>>;
  /** What was signed and waits to be published, by host; at most one for each. */
  pendingManifests(): Promise<PublishedManifest[]>;
  /** The newest manifest of `host` among the first `size` entries of a log. */
  loggedManifest(host: string, log: number, size: number): Promise<LoggedManifest | null>;
}

/** Each throws E_LEASE_LOST when `fence` is no longer the newest lease's. */
export interface LogStateWrites {
  /**
   * Keeps manifests until they are published, each in place of one of the same host; forgets those of `drop`.
   * Several transactions when there are many: each host waits by itself.
   */
  changePending(
    put: readonly PublishedManifest[],
    drop: readonly string[],
    fence: number,
  ): Promise<void>;
  /**
   * Forgets what was staged and not committed, in this log or an older one, by a publisher that died or failed;
   * returns how many entries. Several transactions when there are many.
   */
  dropStaged(log: number, fence: number): Promise<number>;
  /**
   * Stages entries behind what is committed. Several transactions when there are many.
   * @throws FleetError E_SEQUENCE when a manifest does not follow its host's newest; E_DECOMMISSIONED when that ended
   *   the host, and this one does not.
   */
  stageEntries(log: number, entries: readonly StagedEntry[], fence: number): Promise<void>;
  /**
   * Commits what is staged below `head.size`: its manifests are the newest ones of their hosts, all at once,
   * and their systems are used now. Tokens of hosts that are ended are `leaving`: the newest of each for
   * LEAVE_SECONDS, also where it had expired.
   * `dropped`: `droppedPaths` before the closures were found whole; null where none was looked at.
   * @throws FleetError E_CACHE_INCOMPLETE when the index has no row for a toplevel, or a row was dropped meanwhile.
   */
  commitLog(head: LogHead, fence: number, now: number, dropped: number | null): Promise<void>;
}
