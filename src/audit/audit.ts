// A log, wherever it is read from, and an auditor's own root → the report (SPEC §11.2). Reads bundles of 256
// entries, lets threads verify them, and replays them in order; receipts come last. Imports no network.
import { FleetError } from '../errors.ts';
import { parseEnvelope } from '../manifest/dsse.ts';
import { verifyCheckpoint } from '../manifest/log-view.ts';
import { type Root, verifyInitialRoot } from '../manifest/root.ts';
import { parseCheckpoint } from '../tlog/checkpoint.ts';
import { equalHashes } from '../tlog/merkle.ts';
import { parseNote } from '../tlog/note.ts';
import { parseBundle, TILE_WIDTH, widthOfTile } from '../tlog/tile.ts';
import { type Fact, mayBeRoot } from './facts.ts';
import type { FactsPool } from './facts-pool.ts';
import { auditConflicts, auditReceipts, type Ran } from './receipts.ts';
import {
  type BatchReader,
  type HostHistory,
  type Irregularity,
  Replay,
  RootChain,
} from './replay.ts';

/** Where a log is read from. Bundles are asked for in order, each once, before receipts. */
export type LogSource = {
  /** The newest checkpoint's text. */
  readonly checkpoint: string;
  /** The bytes of a bundle of entries; null where it is missing. */
  bundle(index: number, width: number): Promise<Uint8Array | null>;
  readonly batch: BatchReader;
  /** Envelopes of each host's receipts, in their order, and of those that contradict them. */
  receipts(): AsyncIterable<{
    readonly host: string;
    readonly envelopes: readonly string[];
    readonly contradict?: boolean;
  }>;
};

export type AuditedHost = HostHistory & {
  readonly ran: readonly Ran[];
  readonly receipts: number;
  /** As its last receipt says. */
  readonly phase: string | null;
};

export type AuditReport = {
  readonly fleet: string;
  readonly root: Root;
  readonly log: {
    readonly origin: string;
    readonly size: number;
    /** POSIX seconds: when the checkpoint was said to be the newest; null when it was not. */
    readonly freshAt: number | null;
  };
  readonly hosts: readonly AuditedHost[];
  readonly irregularities: readonly Irregularity[];
};

/**
 * `root`: the text of the root that the auditor trusts. `seen`: a checkpoint that was verified before.
 * @throws FleetError for what makes the rest meaningless: no such root, entries that are missing.
 */
export async function auditLog(
  source: LogSource,
  root: string,
  pool: FactsPool,
  seen: string | null = null,
): Promise<AuditReport> {
  const trusted = verifyInitialRoot(parseEnvelope(root));
  const claimed = parseCheckpoint(parseNote(source.checkpoint).text);
  // Read ahead of the replay, which has a chain of its own: keys are those in force where an entry stands.
  const reading = new RootChain(trusted, root);
  const replay = new Replay(new RootChain(trusted, root), source.batch);
  const under: Promise<Fact[]>[] = [];
  for (let index = 0; index * TILE_WIDTH < claimed.size; index++) {
    const width = widthOfTile('entries', index, claimed.size);
    const bytes = await source.bundle(index, width);
    if (bytes === null) {
      throw new FleetError('E_AUDIT_LOG', `entries from ${index * TILE_WIDTH} on are missing`);
    }
    for (const part of partsOf(parseBundle(bytes, width), reading)) {
      const facts = pool.facts(part, reading.keys);
      // Whoever awaits it comes later; until then a failure is nobody's.
      facts.catch(() => {});
      under.push(facts);
      if (under.length >= pool.width) await take(under, replay);
    }
  }
  while (under.length > 0) await take(under, replay);
  const { checkpoint, freshAt } = verifyCheckpoint(source.checkpoint, replay.root);
  const tree = replay.finish(checkpoint);
  if (seen !== null) {
    const before = parseCheckpoint(parseNote(seen).text);
    const goesOn =
      before.origin === checkpoint.origin &&
      before.size <= tree.size &&
      equalHashes(before.root, tree.rootAt(before.size));
    if (!goesOn) {
      const sizes = `the log of ${before.size} entries that was verified before`;
      replay.tell(null, 'E_FORK', `it does not go on from ${sizes}`);
    }
  }
  const said = new Map<string, Pick<AuditedHost, 'ran' | 'receipts' | 'phase'>>();
  const { origin } = checkpoint;
  const histories = new Map(replay.hosts.map((history) => [history.host, history]));
  for await (const { host, envelopes, contradict } of source.receipts()) {
    const history = histories.get(host) ?? { host, told: [], keys: [] };
    histories.set(host, history);
    if (contradict === true) {
      for (const { code, message } of auditConflicts(envelopes, history, trusted.fleet)) {
        replay.tell(host, code, message);
      }
      continue;
    }
    const { wrong, ...rest } = auditReceipts(envelopes, history, {
      fleet: trusted.fleet,
      origin,
      tree,
    });
    for (const { code, message } of wrong) replay.tell(host, code, message);
    said.set(host, rest);
  }
  const nothing = { ran: [], receipts: 0, phase: null };
  return {
    fleet: trusted.fleet,
    root: replay.root,
    log: { origin, size: checkpoint.size, freshAt },
    hosts: [...histories.values()].map((one) => ({ ...one, ...(said.get(one.host) ?? nothing) })),
    irregularities: replay.irregularities,
  };
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

async function take(under: Promise<Fact[]>[], replay: Replay): Promise<void> {
  for (const fact of (await under.shift()) ?? []) await replay.add(fact);
}
