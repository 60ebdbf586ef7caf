// A log's checkpoint and proofs, under a trusted root → what may be believed of a host's manifest, or the
// one reason why not (SPEC §5.1, steps 3 to 8). A flat list of steps, each with a code of its
// own. Pure: no network, no clock, no files; the caller reads "now" once and passes it in.
import { FleetError } from '../errors.ts';
import { type Checkpoint, parseCheckpoint } from '../tlog/checkpoint.ts';
import {
  emptyRoot,
  equalHashes,
  hashLeaf,
  type TreeHead,
  verifyConsistency,
  verifyInclusion,
} from '../tlog/merkle.ts';
import { formatNote, parseNote, verifyNote } from '../tlog/note.ts';
import { NOTE_COSIGNATURE, NOTE_ED25519, parseVerifierKey } from '../tlog/vkey.ts';
import type { Root } from './root.ts';
import { hashEntry, parseSnapshot, type Snapshot, type SnapshotEntry } from './snapshot.ts';
import { formatTime } from './time.ts';

/** How far ahead of "now" the server's clock may be, in seconds. */
export const CLOCK_SKEW_SECONDS = 300;

export type VerifiedCheckpoint = {
  readonly checkpoint: Checkpoint;
  /** The note with the log's signature and the newest freshness: what others may be shown of it. */
  readonly text: string;
  /** POSIX seconds: when a freshness key last said that it is the newest; null when none did. */
  readonly freshAt: number | null;
};

/**
 * A checkpoint that the log of `root` signed. How old it is, `requireFresh` asks.
 * @throws FleetError E_NOTE, E_NOTE_SIGNATURE, E_CHECKPOINT, E_LOG_ORIGIN, E_CHECKPOINT_UNSIGNED.
 */
export function verifyCheckpoint(
  text: string,
  root: Pick<Root, 'log' | 'freshness'>,
): VerifiedCheckpoint {
  const note = parseNote(text);
  const logKey = parseVerifierKey(root.log.vkey, NOTE_ED25519);
  const freshness = root.freshness.keys.map((key) => parseVerifierKey(key, NOTE_COSIGNATURE));
  const signed = verifyNote(note, [logKey, ...freshness]);
  const checkpoint = parseCheckpoint(note.text);
  if (checkpoint.origin !== root.log.origin) {
    const { origin } = root.log;
    const logs = `the checkpoint is of log ${checkpoint.origin}, and the root names ${origin}`;
    throw new FleetError('E_LOG_ORIGIN', logs);
  }
  const byLog = signed.find(({ key }) => key.type === NOTE_ED25519);
  if (byLog === undefined) {
    throw new FleetError('E_CHECKPOINT_UNSIGNED', `the key of log ${logKey.name} has not signed`);
  }
  const [newest] = signed
    .filter(({ time }) => time !== null)
    .sort((one, other) => Number(other.time) - Number(one.time));
  const lines = newest === undefined ? [byLog.line] : [byLog.line, newest.line];
  const kept = formatNote({ text: note.text, signatures: lines });
  return { checkpoint, text: kept, freshAt: newest?.time ?? null };
}

/**
 * The freshness time, if it is neither older than the root's maxAge (or `anyAge`) nor from the future.
 * @throws FleetError E_FRESHNESS_MISSING, E_STALE, E_FRESHNESS_FUTURE.
 */
export function requireFresh(
  { freshAt }: VerifiedCheckpoint,
  root: Root,
  now: number,
  anyAge = false,
): number {
  if (freshAt === null) {
    throw new FleetError('E_FRESHNESS_MISSING', 'no freshness key has signed the checkpoint');
  }
  const age = now - freshAt;
  const at = formatTime(Math.min(freshAt, MAX_TIME));
  // Written so that a "now" that is no number is refused.
  if (!anyAge && !(age <= root.maxAge)) {
    throw new FleetError('E_STALE', `the checkpoint was last said to be the newest at ${at}`);
  }
  if (!(age >= -CLOCK_SKEW_SECONDS)) {
    throw new FleetError('E_FRESHNESS_FUTURE', `the checkpoint is said to be the newest at ${at}`);
  }
  return freshAt;
}

/** The last second that a time can be written of. */
const MAX_TIME = 253_402_300_799;

/**
 * The log only grew since `before`. `known` says in errors how it is known.
 * @throws FleetError E_CHECKPOINT_OLDER, E_FORK, E_CONSISTENCY.
 */
export function requireGrowth(
  before: TreeHead,
  { checkpoint }: Pick<VerifiedCheckpoint, 'checkpoint'>,
  proof: readonly Uint8Array[],
  known: 'was seen before' | 'is the root’s anchor',
): void {
  const sizes = `a log of ${before.size} entries ${known}, and now it has ${checkpoint.size}`;
  if (checkpoint.size < before.size) throw new FleetError('E_CHECKPOINT_OLDER', sizes);
  if (checkpoint.size === before.size) {
    if (equalHashes(checkpoint.root, before.root)) return;
    throw new FleetError('E_FORK', `${sizes} of another history`);
  }
  // All trees begin with that of no entries; there is no proof of it.
  if (before.size === 0) {
    if (equalHashes(before.root, emptyRoot())) return;
    throw new FleetError('E_FORK', 'the hash of a log without entries is not that of nothing');
  }
  if (!verifyConsistency({ older: before, newer: checkpoint, proof })) {
    throw new FleetError('E_CONSISTENCY', `${sizes}, and does not begin with those`);
  }
}

/** What a root demands of every checkpoint of its log, also at first contact. @throws as requireGrowth. */
export function anchorOf({ log: { anchor } }: Pick<Root, 'log'>): TreeHead {
  return { size: anchor.size, root: Uint8Array.from(Buffer.from(anchor.sha256, 'hex')) };
}

export type SnapshotProof = {
  /** The leaf's text. */
  readonly text: string;
  /** That it is the last leaf. */
  readonly proof: readonly Uint8Array[];
};

/**
 * The snapshot that a checkpoint ends in.
 * @throws FleetError E_SNAPSHOT_FORM, E_SNAPSHOT_PROOF.
 */
export function verifySnapshot(checkpoint: Checkpoint, { text, proof }: SnapshotProof): Snapshot {
  const { size, root } = checkpoint;
  const leafHash = hashLeaf(Buffer.from(text));
  if (!verifyInclusion({ index: size - 1, size, leafHash, root, proof })) {
    throw new FleetError('E_SNAPSHOT_PROOF', 'the snapshot is not the last entry of the log');
  }
  return parseSnapshot(text);
}

/**
 * The snapshot names the newest root that this host knows.
 * @throws FleetError E_ROOT_WITHHELD when it names a newer one; E_ROOT_VERSION when it names an older one;
 *   E_ROOT_CONFLICT when it names another of the same version.
 */
export function requireSnapshotRoot(
  snapshot: Snapshot,
  known: { readonly version: number; readonly sha256: string },
): void {
  const names = `the log names root version ${snapshot.rootVersion}`;
  if (snapshot.rootVersion > known.version) {
    const held = `and the server gave no newer one than ${known.version}`;
    throw new FleetError('E_ROOT_WITHHELD', `${names}, ${held}`);
  }
  if (snapshot.rootVersion < known.version) {
    throw new FleetError('E_ROOT_VERSION', `${names}, and the newest is ${known.version}`);
  }
  if (snapshot.rootSha256 !== known.sha256) {
    throw new FleetError(
      'E_ROOT_CONFLICT',
      `${names}, and another of that version than is known here`,
    );
  }
}

export type EntryProof = { readonly index: number; readonly proof: readonly Uint8Array[] };

/**
 * The snapshot says this of a host.
 * @throws FleetError E_SNAPSHOT_ENTRY.
 */
export function requireEntry(
  snapshot: Snapshot,
  entry: SnapshotEntry,
  { index, proof }: EntryProof,
): void {
  const { hosts: size, root } = snapshot;
  if (verifyInclusion({ index, size, leafHash: hashEntry(entry), root, proof })) return;
  throw new FleetError(
    'E_SNAPSHOT_ENTRY',
    `the log's snapshot says something else of ${entry.host}`,
  );
}

/**
 * The envelope is an entry of the log, byte for byte. `what` names it in errors.
 * @throws FleetError E_NOT_LOGGED.
 */
export function requireLogged(
  checkpoint: Checkpoint,
  envelope: Uint8Array | string,
  { index, proof }: EntryProof,
  what: string,
): void {
  const { size, root } = checkpoint;
  const data = typeof envelope === 'string' ? Buffer.from(envelope) : envelope;
  if (verifyInclusion({ index, size, leafHash: hashLeaf(data), root, proof })) return;
  throw new FleetError('E_NOT_LOGGED', `${what} is not in the log`);
}
