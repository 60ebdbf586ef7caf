// A log's right edge + the hashes of new leaves → the tiles that come of it, and the new root (SPEC §9.4).
// Holds the partial tiles alone: at most 255 hashes for each level, however large the log is.
import { HASH_BYTES, hashRange, rootOf } from './merkle.ts';
import { TILE_WIDTH, type TileId, widthOfTile } from './tile.ts';

/** Tiles of hashes, and what they hold. */
export type Tile = { readonly id: TileId & { readonly level: number }; readonly bytes: Uint8Array };

/** The partial tiles of a tree of `size` leaves, from the leaves upwards: what `Growth` starts from. */
export function edgeOf(size: number): (TileId & { readonly level: number })[] {
  const ids: (TileId & { readonly level: number })[] = [];
  for (let level = 0; TILE_WIDTH ** level <= size; level++) {
    const index = Math.floor(size / TILE_WIDTH ** (level + 1));
    const width = widthOfTile(level, index, size);
    if (width > 0) ids.push({ level, index, width });
  }
  return ids;
}

export class Growth {
  /** Hashes of the partial tile of each level. */
  readonly #levels: Uint8Array[][] = [];
  /** Levels whose partial tile is another than at the start. */
  readonly #changed = new Set<number>();
  #size: number;

  /** `edge`: the tiles that `edgeOf(size)` names. */
  constructor(size: number, edge: readonly Tile[]) {
    this.#size = size;
    for (const { id, bytes } of edge) this.#levels[id.level] = hashesOf(bytes);
  }

  get size(): number {
    return this.#size;
  }

  /** Adds a leaf, and returns the tiles that it made full. */
  add(leafHash: Uint8Array): Tile[] {
    const full: Tile[] = [];
    let hash = leafHash;
    for (let level = 0; ; level++) {
      const hashes = this.#levels[level] ?? [];
      this.#levels[level] = hashes;
      hashes.push(hash);
      this.#changed.add(level);
      if (hashes.length < TILE_WIDTH) break;
      const index = Math.floor(this.#size / TILE_WIDTH ** (level + 1));
      full.push({ id: { level, index, width: TILE_WIDTH }, bytes: Buffer.concat(hashes) });
      hash = rootOf(hashes);
      this.#levels[level] = [];
    }
    this.#size += 1;
    return full;
  }

  /** The partial tiles that were not there at the start. */
  partial(): Tile[] {
    return edgeOf(this.#size)
      .filter(({ level }) => this.#changed.has(level))
      .map((id) => ({ id, bytes: Buffer.concat(this.#levels[id.level] ?? []) }));
  }

  /** The root of the tree as it is now. */
  root(): Uint8Array {
    // From left to right: the tiles further up stand for what comes first.
    const parts = this.#levels.toReversed().flatMap((hashes) => subtreeHashes(hashes ?? []));
    return hashRange(parts);
  }
}

/** The hashes of the complete subtrees that these nodes of one level, from left to right, make up. */
function subtreeHashes(hashes: readonly Uint8Array[]): Uint8Array[] {
  const parts: Uint8Array[] = [];
  let at = 0;
  for (let width = TILE_WIDTH / 2; width >= 1; width /= 2) {
    if (at + width > hashes.length) continue;
    parts.push(rootOf(hashes.slice(at, at + width)));
    at += width;
  }
  return parts;
}

function hashesOf(bytes: Uint8Array): Uint8Array[] {
  const hashes: Uint8Array[] = [];
  for (let at = 0; at < bytes.length; at += HASH_BYTES) {
    hashes.push(bytes.subarray(at, at + HASH_BYTES));
  }
  return hashes;
}
