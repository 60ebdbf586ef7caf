// The log's newest checkpoint → all that offers need to prove what they show (SPEC §8): the snapshot it ends
// in, the tree of its hosts, and tiles for proofs. Made anew when a publication is there; a renewal only
// changes the checkpoint's text. An offer is of one moment: manifest, proofs and checkpoint fit together.

import { FleetError } from '../errors.ts';
import { logNumber } from '../manifest/append.ts';
import type { Root } from '../manifest/root.ts';
import { hashEntry, parseSnapshot } from '../manifest/snapshot.ts';
import type { LogReads } from '../storage/log.ts';
import { type Checkpoint, parseCheckpoint } from '../tlog/checkpoint.ts';
import { equalHashes, MemoryTree } from '../tlog/merkle.ts';
import { parseNote } from '../tlog/note.ts';
import { proveInclusion, type TileReader } from '../tlog/prove.ts';
import { formatTilePath } from '../tlog/tile.ts';
import { KeptApprovals } from './kept-approvals.ts';
import { logStoreOf } from './log-writer.ts';
import type { StateDir } from './statedir.ts';

type Dir = Pick<StateDir, 'layout' | 'root' | 'roots' | 'state' | 'refreshRoots'>;

/** A log's files, and its tiles, the last ones asked for from memory. */
type Log = { readonly number: number; readonly store: LogReads; readonly tile: TileReader };

export type View = {
  /** The newest root when the checkpoint was read, and all of them; proofs are of its log alone. */
  readonly root: Root;
  readonly roots: StateDir['roots'];
  readonly tile: TileReader;
  /** The signed note, as it is served. */
  readonly text: string;
  readonly checkpoint: Checkpoint;
  /** The number of the log. */
  readonly log: number;
  readonly snapshot: { readonly text: string; readonly proof: readonly Uint8Array[] };
  /** The place of each host among the snapshot's entries. */
  readonly places: ReadonlyMap<string, number>;
  readonly hosts: MemoryTree;
};

/** Tiles in memory; the ones of a log's edge and of its newest entries are asked for again and again. */
const MOST_TILES = 512;

export class PublishedLog {
  /** Entries of the log never change, so what is made of them outlives a publication. */
  readonly approvals: KeptApprovals;
  readonly #dir: Dir;
  #log: Log;
  #view: View | null = null;
  #making: Promise<View | null> | null = null;

  constructor(dir: Dir) {
    this.approvals = new KeptApprovals(dir.state);
    this.#dir = dir;
    this.#log = openLog(dir);
  }

  /** The log's files: of the one that the newest root names. */
  get store(): LogReads {
    return this.#log.store;
  }

  /** What is published now; null before the first checkpoint. */
  async view(): Promise<View | null> {
    // One at a time: a thousand hosts that ask together after a publication make it once.
    this.#making ??= this.#make().finally(() => {
      this.#making = null;
    });
    return await this.#making;
  }

  async #make(): Promise<View | null> {
    await this.#dir.refreshRoots();
    // Together, before anything is waited for: another request may find a newer root at any time.
    const { root, roots } = this.#dir;
    if (logNumber(root) !== this.#log.number) this.#log = openLog(this.#dir);
    const log = this.#log;
    const text = await log.store.checkpoint();
    if (text === null) return null;
    const last = this.#view;
    if (text === last?.text && last.root === root) return last;
    const checkpoint = parseCheckpoint(parseNote(text).text);
    const isSame =
      last?.log === log.number &&
      last.checkpoint.size === checkpoint.size &&
      equalHashes(last.checkpoint.root, checkpoint.root);
    const read = isSame ? last : await this.#read(log, checkpoint);
    this.#view = { ...read, text, root, roots };
    return this.#view;
  }

  async #read(
    { number: log, tile }: Log,
    checkpoint: Checkpoint,
  ): Promise<Omit<View, 'text' | 'root' | 'roots'>> {
    const { size } = checkpoint;
    const [entry] = await this.#dir.state.logEntries(log, size - 1, 1);
    const leaf = Buffer.from(entry?.data ?? []).toString('utf8');
    const proof = await proveInclusion(tile, size - 1, size);
    const entries = await this.#dir.state.hostEntries(log, size);
    const hosts = new MemoryTree(
      entries.map(({ digest, ...entry }) => hashEntry({ ...entry, sha256: digest })),
    );
    if (!equalHashes(hosts.root(), parseSnapshot(leaf).root)) {
      throw new FleetError(
        'E_LOG_DAMAGED',
        'the snapshot in the log is not of the hosts’ manifests',
      );
    }
    const places = new Map(entries.map(({ host }, place) => [host, place]));
    return { tile, checkpoint, log, snapshot: { text: leaf, proof }, places, hosts };
  }
}

function openLog(dir: Pick<StateDir, 'layout' | 'root'>): Log {
  const store = logStoreOf(dir);
  const tiles = new Map<string, Uint8Array>();
  const tile: TileReader = async (id) => {
    const path = formatTilePath(id);
    const known = tiles.get(path);
    if (known !== undefined) return known;
    const bytes = await store.tile(id);
    if (bytes === null) return null;
    if (tiles.size >= MOST_TILES) tiles.clear();
    tiles.set(path, bytes);
    return bytes;
  };
  return { number: logNumber(dir.root), store, tile };
}
