// The log's newest checkpoint → all that offers need to prove what they show (SPEC §8): the snapshot it ends
// in, the tree of its hosts, and tiles for proofs. Made anew when a publication is there; a renewal only
// changes the checkpoint's text. An offer is of one moment: manifest, proofs and checkpoint fit together.

import { FleetError } from '../errors.ts';
import { logNumber } from '../manifest/append.ts';
import { hashEntry, parseSnapshot } from '../manifest/snapshot.ts';
import type { LogReads } from '../storage/log.ts';
import { type Checkpoint, parseCheckpoint } from '../tlog/checkpoint.ts';
import { equalHashes, MemoryTree } from '../tlog/merkle.ts';
import { parseNote } from '../tlog/note.ts';
import { proveInclusion, type TileReader } from '../tlog/prove.ts';
import { formatTilePath } from '../tlog/tile.ts';
import { logStoreOf } from './log-writer.ts';
import type { StateDir } from './statedir.ts';

type Dir = Pick<StateDir, 'layout' | 'root' | 'state' | 'refreshRoots'>;

export type View = {
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
  readonly #dir: Dir;
  #store: LogReads;
  #log: number;
  readonly #tiles = new Map<string, Uint8Array>();
  #view: View | null = null;
  #making: Promise<View | null> | null = null;

  constructor(dir: Dir) {
    this.#dir = dir;
    this.#store = logStoreOf(dir);
    this.#log = logNumber(dir.root);
  }

  /** The log's files: of the one that the newest root names. */
  get store(): LogReads {
    return this.#store;
  }

  /** What is published now; null before the first checkpoint. */
  async view(): Promise<View | null> {
    // One at a time: a thousand hosts that ask together after a publication make it once.
    this.#making ??= this.#make().finally(() => {
      this.#making = null;
    });
    return await this.#making;
  }

  /** Tiles of the log, the last ones asked for from memory. */
  readonly tile: TileReader = async (id) => {
    const path = formatTilePath(id);
    const known = this.#tiles.get(path);
    if (known !== undefined) return known;
    const bytes = await this.#store.tile(id);
    if (bytes === null) return null;
    if (this.#tiles.size >= MOST_TILES) this.#tiles.clear();
    this.#tiles.set(path, bytes);
    return bytes;
  };

  async #make(): Promise<View | null> {
    await this.#dir.refreshRoots();
    const log = logNumber(this.#dir.root);
    if (log !== this.#log) {
      this.#tiles.clear();
      this.#store = logStoreOf(this.#dir);
      this.#log = log;
    }
    const text = await this.#store.checkpoint();
    if (text === null) return null;
    const last = this.#view;
    if (text === last?.text) return last;
    const checkpoint = parseCheckpoint(parseNote(text).text);
    const isRenewal =
      last?.checkpoint.size === checkpoint.size &&
      equalHashes(last.checkpoint.root, checkpoint.root);
    this.#view = isRenewal ? { ...last, text } : await this.#read(text, checkpoint);
    return this.#view;
  }

  async #read(text: string, checkpoint: Checkpoint): Promise<View> {
    const { size } = checkpoint;
    const [entry] = await this.#dir.state.logEntries(this.#log, size - 1, 1);
    const leaf = Buffer.from(entry?.data ?? []).toString('utf8');
    const proof = await proveInclusion(this.tile, size - 1, size);
    const entries = await this.#dir.state.hostEntries(this.#log, size);
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
    return { text, checkpoint, log: this.#log, snapshot: { text: leaf, proof }, places, hosts };
  }
}
