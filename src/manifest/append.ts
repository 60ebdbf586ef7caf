// New entries → a longer log and its signed checkpoint (SPEC §9.7). The order of writes is what makes it
// safe, wherever a process dies: entries are staged; the new tree is committed, in one transaction of the
// database; tiles and bundles are written from what was committed; the checkpoint is signed and put last.
// What was committed is written out again until its checkpoint is there, and always comes out the same, so
// two checkpoints that contradict each other never exist. The caller holds the publication lock throughout.
// Every batch ends in exactly one snapshot. Refuses to go on from files that are not what was signed.
import { FleetError, messageOf } from '../errors.ts';
import { parsePublicKey } from '../keyfile.ts';
import type { LogHead, LogStore, StagedEntry, UnloggedKey } from '../storage/log.ts';
import type { PublishedManifest, State } from '../storage/state.ts';
import { type Checkpoint, formatCheckpoint, parseCheckpoint } from '../tlog/checkpoint.ts';
import { edgeOf, Growth, type Tile } from '../tlog/growth.ts';
import {
  emptyRoot,
  equalHashes,
  HASH_BYTES,
  hashLeaf,
  rootOf,
  type TreeHead,
} from '../tlog/merkle.ts';
import { cosignNote, formatNote, parseNote, signNote } from '../tlog/note.ts';
import { formatBundle, TILE_WIDTH, widthOfTile } from '../tlog/tile.ts';
import type { VerifierKey } from '../tlog/vkey.ts';
import { parseEnvelope } from './dsse.ts';
import { signEnrolment } from './enrolment.ts';
import { verifyCheckpoint } from './log-view.ts';
import type { Root } from './root.ts';
import { compareHosts, formatSnapshot, hashEntry, rootDigest } from './snapshot.ts';

/** A key that signs notes, and its 32-byte secret. */
export type NoteSigner = { readonly key: VerifierKey; readonly secret: Uint8Array };

export type LogWriter = {
  readonly state: Pick<State, 'logHead' | 'logEntries' | 'hostEntries' | 'unloggedKeys'> &
    Pick<State, 'dropStaged' | 'touchPaths' | 'stageEntries' | 'commitLog'>;
  readonly store: LogStore;
  /** The newest root, and the envelopes of all of them, oldest first. */
  readonly root: Root;
  readonly roots: readonly string[];
  readonly log: NoteSigner;
  readonly freshness: NoteSigner;
  /** The director's 32-byte secret key. */
  readonly director: Uint8Array;
};

/** What is to be appended, in this order. */
export type NewEntry =
  | {
      readonly manifest: PublishedManifest;
      /** One that comes before it, if it needed any. */
      readonly approval?: NewApproval;
    }
  | NewApproval;

/** An approval's envelope, and the digests that it is about. */
export type NewApproval = {
  readonly kind: 'approval';
  readonly data: Uint8Array;
  readonly batch: readonly string[];
};

export type Publication = {
  /** Of the lease. */
  readonly fence: number;
  /** POSIX seconds. */
  readonly now: number;
  /** What `Servable.dropped` says, where closures were looked at. */
  readonly dropped?: number | null;
};

/** `<fleet>/log/<n>` → n. */
export function logNumber({ log, fleet }: Pick<Root, 'log' | 'fleet'>): number {
  return Number(log.origin.slice(`${fleet}/log/`.length));
}

/**
 * Appends roots and keys of hosts that are not in the log yet, `entries`, and a snapshot, and returns the new checkpoint's text.
 * @throws FleetError E_LEASE_LOST, E_SEQUENCE, E_CACHE_INCOMPLETE, E_LOG_DAMAGED, E_DISK_FULL.
 */
export async function appendEntries(
  writer: LogWriter,
  entries: readonly NewEntry[],
  { fence, now, dropped = null }: Publication,
): Promise<string> {
  const { state } = writer;
  const log = logNumber(writer.root);
  await finishLog(writer, now);
  await state.dropStaged(log, fence);
  const head = await state.logHead(log);
  const size = head?.size ?? 0;
  const snapshots = (head?.snapshots ?? 0) + 1;
  const staged: StagedEntry[] = [];
  for (const text of writer.roots.slice(head?.roots ?? 0)) {
    staged.push({ index: size + staged.length, kind: 'root', data: Buffer.from(text) });
  }
  for (const key of await state.unloggedKeys(log)) {
    staged.push(enrolmentOf(writer, key, size + staged.length));
  }
  const places = new Map<NewEntry, number>();
  for (const entry of entries) {
    const index = size + staged.length;
    places.set(entry, index);
    staged.push('manifest' in entry ? stagedManifest(entry, index, places) : { ...entry, index });
  }
  const data = await snapshotOf(writer, size, snapshots, entries);
  staged.push({ index: size + staged.length, kind: 'snapshot', data });
  const { growth } = await openGrowth(writer.store, treeOf(head));
  for (const entry of staged) growth.add(hashLeaf(dataOf(entry)));
  const toplevels = entries.flatMap((one) =>
    'manifest' in one && one.manifest.toplevel !== null ? [one.manifest.toplevel] : [],
  );
  // The commit sees to it as well; but it is one transaction, and finds this done.
  await state.touchPaths(toplevels, now);
  await state.stageEntries(log, staged, fence);
  const root = Buffer.from(growth.root()).toString('hex');
  const roots = writer.roots.length;
  const next = { log, size: growth.size, root, snapshots, roots };
  await state.commitLog(next, fence, now, dropped);
  const text = await finishLog(writer, now);
  if (text === null) throw new FleetError('E_INTERNAL', 'what was committed to the log is gone');
  return text;
}

/**
 * Writes out what was committed and not signed yet; returns the text of the newest checkpoint, or null for a
 * log without one. @throws FleetError E_LOG_DAMAGED.
 */
export async function finishLog(writer: LogWriter, now: number): Promise<string | null> {
  const { state, store, root } = writer;
  const head = await state.logHead(logNumber(root));
  if (head !== null && head.roots > writer.roots.length) {
    throw damaged(`it has ${head.roots} roots, and this process knows ${writer.roots.length}`);
  }
  const before = await store.checkpoint();
  const signed = before === null ? null : readHead(before, root);
  if (head === null) {
    if (signed === null) return null;
    throw damaged('it has a checkpoint, of which the database knows nothing');
  }
  // Only the first checkpoint of a log can be missing because somebody died.
  if (signed === null && head.snapshots > 1) throw damaged('its checkpoint is missing');
  const tree = treeOf(head);
  if (signed !== null && signed.size >= tree.size) {
    if (signed.size > tree.size || !equalHashes(signed.root, tree.root)) {
      throw damaged('its checkpoint says more, or other things, than the database');
    }
    // Of an older root, whose log key was another.
    if (isSigned(before, root)) return before;
  }
  await writeTiles(writer, head, signed ?? treeOf(null));
  const text = signCheckpoint({ origin: root.log.origin, ...tree }, writer, now);
  await store.putCheckpoint(text, before);
  return text;
}

/**
 * Has the freshness key say of the newest checkpoint that it is the newest at `now`; returns it, or null for
 * a log without one. @throws FleetError E_LOG_DAMAGED.
 */
export async function renewCheckpoint(writer: LogWriter, now: number): Promise<string | null> {
  const before = await finishLog(writer, now);
  if (before === null) return null;
  const text = signCheckpoint(readHead(before, writer.root), writer, now);
  if (text !== before) await writer.store.putCheckpoint(text, before);
  return text;
}

function signCheckpoint(checkpoint: Checkpoint, writer: LogWriter, now: number): string {
  const { log, freshness } = writer;
  const text = formatCheckpoint(checkpoint);
  const signatures = [
    signNote(text, log.key, log.secret),
    cosignNote(text, now, freshness.key, freshness.secret),
  ];
  return formatNote({ text, signatures });
}

/** What our own file says. The database knows whether it is true, so nobody need have signed it. */
function readHead(text: string, root: Root): Checkpoint {
  let checkpoint: Checkpoint;
  try {
    checkpoint = parseCheckpoint(parseNote(text).text);
  } catch (cause) {
    throw damaged(`its checkpoint cannot be read: ${messageOf(cause)}`, cause);
  }
  if (checkpoint.origin === root.log.origin) return checkpoint;
  throw damaged(`its checkpoint is of ${checkpoint.origin}`);
}

function isSigned(text: string | null, root: Root): text is string {
  try {
    return text !== null && verifyCheckpoint(text, root).freshAt !== null;
  } catch {
    return false;
  }
}

async function snapshotOf(
  { state, root, roots }: LogWriter,
  size: number,
  sequence: number,
  entries: readonly NewEntry[],
): Promise<Uint8Array> {
  const hosts = new Map(
    (await state.hostEntries(logNumber(root), size)).map((entry) => [entry.host, entry]),
  );
  for (const entry of entries) {
    if ('manifest' in entry) hosts.set(entry.manifest.host, entry.manifest);
  }
  const leaves = [...hosts.values()]
    .sort(compareHosts)
    .map(({ digest, ...entry }) => hashEntry({ ...entry, sha256: digest }));
  const hash = { hosts: hosts.size, root: rootOf(leaves) };
  const rootSha256 = rootDigest(parseEnvelope(roots.at(-1) ?? '').payload);
  const text = formatSnapshot({ sequence, rootVersion: root.version, rootSha256, ...hash });
  return Buffer.from(text);
}

/** The tree's right edge, which must come to `tree`, and the bytes of its last hashes of leaves. */
async function openGrowth(store: LogStore, tree: TreeHead) {
  const edge: Tile[] = [];
  for (const id of edgeOf(tree.size)) {
    const bytes = await store.tile(id);
    if (bytes?.length !== id.width * HASH_BYTES)
      throw damaged(`its tile of level ${id.level} is lost`);
    edge.push({ id, bytes });
  }
  const growth = new Growth(tree.size, edge);
  if (!equalHashes(growth.root(), tree.root)) throw damaged('its tiles are not those it signed');
  const last = edge.find(({ id }) => id.level === 0)?.bytes ?? new Uint8Array();
  return { growth, last };
}

/** Writes the tiles and bundles by which the tree of `head` is longer than `before`. */
async function writeTiles(
  { state, store }: LogWriter,
  head: LogHead,
  before: TreeHead,
): Promise<void> {
  const { growth, last } = await openGrowth(store, before);
  // The last bundle was a partial one: it is written again, longer.
  let index = Math.floor(before.size / TILE_WIDTH);
  for (; index * TILE_WIDTH < head.size; index++) {
    const first = index * TILE_WIDTH;
    const width = widthOfTile('entries', index, head.size);
    const entries = await state.logEntries(head.log, first, width);
    for (const [i, { data }] of entries.entries()) {
      const hash = hashLeaf(data);
      const known = last.subarray(i * HASH_BYTES, (i + 1) * HASH_BYTES);
      if (first + i >= before.size) {
        for (const { id, bytes } of growth.add(hash)) await store.putTile(id, bytes);
      } else if (!equalHashes(hash, known)) {
        throw damaged(`the database has another entry ${first + i}`);
      }
    }
    if (entries.length !== width || entries.some((entry, i) => entry.index !== first + i)) {
      throw damaged(`the database lacks entries after ${first}`);
    }
    await store.putTile(
      { level: 'entries', index, width },
      formatBundle(entries.map(({ data }) => data)),
    );
  }
  for (const { id, bytes } of growth.partial()) await store.putTile(id, bytes);
  if (!equalHashes(growth.root(), treeOf(head).root)) throw damaged('its entries were changed');
}

function enrolmentOf(
  { root, director }: LogWriter,
  { host, publicKey, replaces }: UnloggedKey,
  index: number,
): StagedEntry {
  const keys = {
    publicKey: parsePublicKey(publicKey),
    replaces: replaces === null ? null : parsePublicKey(replaces),
  };
  const data = Buffer.from(signEnrolment({ fleet: root.fleet, host, ...keys }, director));
  return { index, kind: 'enrolment', data, enrols: { host, publicKey } };
}

function stagedManifest(
  { manifest, approval }: Extract<NewEntry, { manifest: unknown }>,
  index: number,
  places: ReadonlyMap<NewEntry, number>,
): StagedEntry {
  const approvedBy = approval === undefined ? undefined : places.get(approval);
  return { index, manifest, ...(approvedBy === undefined ? {} : { approvedBy }) };
}

function dataOf(entry: StagedEntry): Uint8Array {
  return 'manifest' in entry ? Buffer.from(entry.manifest.envelope) : entry.data;
}

function treeOf(head: LogHead | null): TreeHead {
  if (head === null) return { size: 0, root: emptyRoot() };
  return { size: head.size, root: Uint8Array.from(Buffer.from(head.root, 'hex')) };
}

function damaged(what: string, cause?: unknown): FleetError {
  return new FleetError('E_LOG_DAMAGED', `the log: ${what}`, { cause });
}
