// A log, wherever it is read from, and an auditor's own root → the report (SPEC §11.2). Reads bundles of 256
// entries, lets threads verify them, and replays them in order; receipts come last. What was kept of an earlier
// audit (kept.ts) lets it begin where that ended, where the log can be read from there. Imports no network.
import { type ErrorCode, FleetError, isFleetError } from '../errors.ts';
import { requireFresh, requireGrowth, verifyCheckpoint } from '../manifest/log-view.ts';
import type { Root } from '../manifest/root.ts';
import { type Checkpoint, parseCheckpoint } from '../tlog/checkpoint.ts';
import { equalHashes } from '../tlog/merkle.ts';
import { parseNote } from '../tlog/note.ts';
import { proveConsistency, type TileReader } from '../tlog/prove.ts';
import { parseBundle, TILE_WIDTH, widthOfTile } from '../tlog/tile.ts';
import { auditConflicts } from './conflicts.ts';
import { floorsOf, isLaterLog, requireRoots } from './earlier-log.ts';
import { type Facts, mayBeRoot } from './facts.ts';
import type { FactsPool } from './facts-pool.ts';
import type { HostHistory } from './hosts.ts';
import type { Irregularity, Settled } from './irregular.ts';
import { type Kept, keptOf } from './kept.ts';
import { auditReceipts, type Ran } from './receipts.ts';
import { type BatchReader, type Before, NOTHING, Replay } from './replay.ts';
import { RootChain } from './root-chain.ts';

export type HostReceipts = {
  readonly host: string;
  readonly envelopes: AsyncIterable<string>;
  /** They are what the server refused. */
  readonly contradict: boolean;
};

/** Where a log is read from. Bundles are asked for in order, each once, before receipts. */
export type LogSource = {
  /** The newest checkpoint's text. */
  readonly checkpoint: string;
  /** The bytes of a bundle of entries; null where it is missing. */
  bundle(index: number, width: number): Promise<Uint8Array | null>;
  readonly batch: BatchReader;
  /** Envelopes of each host's receipts, in their order, and then of those that contradict them. */
  receipts(): AsyncIterable<HostReceipts>;
  /** Where it can be read from anywhere: its tiles of hashes. Left out where bundles come from the first on. */
  readonly tile?: TileReader;
};

export type AuditedHost = HostHistory & {
  readonly ran: readonly Ran[];
  readonly receipts: number;
  /** How many of them are of an earlier log, and not judged by this one. */
  readonly earlier: number;
  /** As its last receipt says. */
  readonly phase: string | null;
};

export type AuditReport = {
  readonly fleet: string;
  readonly root: Root;
  readonly log: {
    readonly origin: string;
    /** The first entry that was read, and how many the log has. */
    readonly from: number;
    readonly size: number;
    /** POSIX seconds: when the checkpoint was said to be the newest; null when it was not. */
    readonly freshAt: number | null;
    /** The log before it, as far as an earlier audit had read it: what came after that is not known. */
    readonly earlier: { readonly origin: string; readonly size: number } | null;
  };
  readonly hosts: readonly AuditedHost[];
  readonly irregularities: readonly Irregularity[];
  /** How many more there are: the list is of bounded length. */
  readonly moreIrregularities: number;
  /** What was irregular, and is no more. */
  readonly settled: readonly Settled[];
  /** What the next audit may go on from; of use only where nothing is irregular. */
  readonly kept: () => Kept;
};

/** What an audit knows of an earlier one: all that was kept of it, or only the checkpoint it ended with. */
export type Seen = Kept | { readonly checkpoint: string };

/**
 * `root`: the text of the root that the auditor trusts. `now`: in POSIX seconds, for a log as a server shows it at this
 * moment: it must be as fresh as hosts want it; null where it may be old.
 * @throws FleetError for what makes the rest meaningless: no such root, entries that are missing.
 */
export async function auditLog(
  source: LogSource,
  root: string,
  pool: FactsPool,
  seen: Seen | null = null,
  now: number | null = null,
): Promise<AuditReport> {
  const claimed = headOf(source.checkpoint);
  const kept = mayGoOn(source, claimed, seen);
  // Read ahead of the replay, which has a chain of its own: keys are those in force where an entry stands.
  const [reading, chain] = [new RootChain(root), new RootChain(root)];
  if (kept !== null) for (const one of [reading, chain]) one.resume(kept.roots);
  const replay = new Replay(chain, source.batch, kept?.before ?? nothingBut(claimed, seen));
  const from = replay.tree.size;
  await replayEntries(source, { from, to: claimed.size }, { reading, replay, pool });
  const verified = verifyCheckpoint(source.checkpoint, replay.root);
  const { checkpoint, freshAt } = verified;
  if (now !== null) telling(replay, () => requireFresh(verified, replay.root, now));
  replay.finish();
  if (kept !== null) await requireGoesOn(source, replay, headOf(kept.checkpoint), checkpoint);
  else {
    requireTree(replay, checkpoint);
    if (seen !== null) requireSeen(replay, chain, seen, checkpoint);
  }
  const { origin, size } = checkpoint;
  const before = seen === null ? null : headOf(seen.checkpoint);
  const isLater = before !== null && isLaterLog(before.origin, origin);
  const earlier = isLater ? { origin: before.origin, size: before.size } : null;
  const hosts = await withReceipts(source, replay, origin);
  return {
    fleet: replay.root.fleet,
    root: replay.root,
    log: { origin, from, size, freshAt, earlier },
    hosts,
    irregularities: replay.irregular.list(),
    moreIrregularities: replay.irregular.more,
    settled: replay.irregular.settled(),
    kept: () => keptOf(source.checkpoint, chain, replay.after()),
  };
}

/** What was kept, if this log can be read from there on and is not plainly another one. */
function mayGoOn({ tile }: LogSource, claimed: Checkpoint, seen: Seen | null): Kept | null {
  if (tile === undefined || seen === null || !('before' in seen)) return null;
  const { origin, size } = headOf(seen.checkpoint);
  return origin === claimed.origin && size <= claimed.size ? seen : null;
}

/** A log that is read from its first entry on: what is known of its hosts is what an earlier log told. */
function nothingBut(claimed: Checkpoint, seen: Seen | null): Before {
  if (seen === null || !('before' in seen)) return NOTHING;
  const { hosts, floors } = seen.before;
  const { origin } = headOf(seen.checkpoint);
  if (origin === claimed.origin) return { ...NOTHING, floors };
  return isLaterLog(origin, claimed.origin)
    ? { ...NOTHING, floors: floorsOf(hosts, floors) }
    : NOTHING;
}

type Reading = {
  readonly reading: RootChain;
  readonly replay: Replay;
  readonly pool: FactsPool;
};

async function replayEntries(
  source: LogSource,
  { from, to }: { from: number; to: number },
  { reading, replay, pool }: Reading,
): Promise<void> {
  const under: Promise<Facts>[] = [];
  const take = async () => {
    const facts = await under.shift();
    if (facts !== undefined) await replay.add(facts);
  };
  for (let index = Math.floor(from / TILE_WIDTH); index * TILE_WIDTH < to; index++) {
    const width = widthOfTile('entries', index, to);
    const first = index * TILE_WIDTH;
    if (first + width <= from) continue;
    const bytes = await source.bundle(index, width);
    if (bytes === null) {
      throw new FleetError('E_AUDIT_LOG', `entries from ${first} on are missing`);
    }
    const entries = parseBundle(bytes, width).slice(Math.max(0, from - first));
    for (const part of partsOf(entries, reading)) {
      const facts = pool.facts(part, reading.keys);
      // Whoever awaits it comes later; until then a failure is nobody's.
      facts.catch(() => {});
      under.push(facts);
      if (under.length >= pool.width) await take();
    }
  }
  while (under.length > 0) await take();
}

/** Entries in parts of which each stands under one root: a new root ends a part. */
function* partsOf(entries: readonly Uint8Array[], chain: RootChain): Generator<Uint8Array[]> {
  let part: Uint8Array[] = [];
  for (const data of entries) {
    if (!mayBeRoot(data)) {
      part.push(data);
      continue;
    }
    if (part.length > 0) yield part;
    // The root itself is judged by the replay; here it only says which keys count for what follows.
    try {
      chain.add(Buffer.from(data).toString('utf8'));
    } catch {}
    yield [data];
    part = [];
  }
  if (part.length > 0) yield part;
}

/** The entries are those of the checkpoint. */
function requireTree({ tree, irregular }: Replay, checkpoint: Checkpoint): void {
  if (checkpoint.size === tree.size && equalHashes(checkpoint.root, tree.root())) return;
  const says = `the checkpoint is of ${checkpoint.size} entries, and not of the ${tree.size} that are here`;
  irregular.tell(null, null, 'E_AUDIT_LOG', says);
}

/** What is refused is irregular of the log as a whole. */
function telling({ irregular }: Replay, require: () => unknown): void {
  try {
    require();
  } catch (error) {
    if (!isFleetError(error)) throw error;
    irregular.tell(null, null, error.code, error.message);
  }
}

/** The whole log begins with what was verified before; a root may have begun another log since. */
function requireSeen(replay: Replay, chain: RootChain, seen: Seen, now: Checkpoint): void {
  const { tree, irregular } = replay;
  const before = headOf(seen.checkpoint);
  if (isLaterLog(before.origin, now.origin)) {
    if ('roots' in seen) telling(replay, () => requireRoots(chain, seen.roots));
    return;
  }
  const goesOn =
    before.origin === now.origin &&
    before.size <= tree.size &&
    equalHashes(before.root, tree.rootAt(before.size));
  if (goesOn) return;
  const what = `the log of ${before.size} entries that was verified before`;
  irregular.tell(null, null, 'E_FORK', `it does not go on from ${what}`);
}

/**
 * The new entries, put to the edge of the tree that was verified before, are the checkpoint's tree: that proves them,
 * and that the log goes on. Where they are not, tiles tell whether it is the log that was changed, or its entries.
 */
async function requireGoesOn(
  { tile }: LogSource,
  replay: Replay,
  before: Checkpoint,
  now: Checkpoint,
): Promise<void> {
  const { tree, irregular } = replay;
  if (now.size === tree.size && equalHashes(now.root, tree.root())) return;
  try {
    const proof = tile === undefined ? [] : await proveConsistency(tile, before.size, now.size);
    requireGrowth(before, { checkpoint: now }, proof, 'was seen before');
    requireTree(replay, now);
  } catch (error) {
    if (!isFleetError(error)) throw error;
    irregular.tell(null, null, error.code, error.message);
  }
}

async function withReceipts(
  source: LogSource,
  { hosts, tree, root, irregular, logKeys }: Replay,
  origin: string,
): Promise<AuditedHost[]> {
  const said = new Map<string, Pick<AuditedHost, 'ran' | 'receipts' | 'earlier' | 'phase'>>();
  const histories = new Map(hosts.all().map((history) => [history.host, history]));
  for await (const { host, envelopes, contradict } of source.receipts()) {
    const none = { host, told: [], keys: [], last: null, lastKey: null };
    const history = histories.get(host) ?? none;
    histories.set(host, history);
    const by = { fleet: root.fleet, log: { origin, tree, vkeys: logKeys } };
    const tell = (code: ErrorCode, message: string) => irregular.tell(null, host, code, message);
    if (contradict) await auditConflicts(envelopes, history, by, irregular);
    else said.set(host, await auditReceipts(envelopes, history, by, tell));
  }
  const nothing = { ran: [], receipts: 0, earlier: 0, phase: null };
  return [...histories.values()].map((one) => ({ ...one, ...(said.get(one.host) ?? nothing) }));
}

function headOf(text: string): Checkpoint {
  return parseCheckpoint(parseNote(text).text);
}
