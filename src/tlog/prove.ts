// A log's tiles → proofs (SPEC §9.4): the hashes of ranges of leaves, from the few tiles that hold them. The
// tree is the one of `size` leaves, so partial tiles are those of just that size.
import { FleetError } from '../errors.ts';
import { consistencyRanges, hashRange, inclusionRanges, type Range, subtreesOf } from './merkle.ts';
import { hashFromTile, type TileId, tileOfSubtree, widthOfTile } from './tile.ts';

/** The bytes of a tile, or null where there is none. */
export type TileReader = (id: TileId) => Promise<Uint8Array | null>;

/** That entry `index` is in the tree of `size` entries. @throws FleetError E_TILE. */
export async function proveInclusion(
  read: TileReader,
  index: number,
  size: number,
): Promise<Uint8Array[]> {
  return await hashRanges(read, inclusionRanges(index, size), size);
}

/**
 * That the tree of `size` entries begins with that of `older`; empty where nothing is to be proved, and
 * where it does not. @throws FleetError E_TILE.
 */
export async function proveConsistency(
  read: TileReader,
  older: number,
  size: number,
): Promise<Uint8Array[]> {
  if (older === 0 || older >= size) return [];
  return await hashRanges(read, consistencyRanges(older, size), size);
}

async function hashRanges(
  read: TileReader,
  ranges: readonly Range[],
  size: number,
): Promise<Uint8Array[]> {
  const proof: Uint8Array[] = [];
  for (const { start, end } of ranges) {
    const parts: Uint8Array[] = [];
    for (const subtree of subtreesOf(start, end)) {
      const place = tileOfSubtree(subtree);
      const { level, index } = place;
      const tile = await read({ level, index, width: widthOfTile(level, index, size) });
      if (tile === null) throw new FleetError('E_TILE', `the log lacks tile ${level}/${index}`);
      parts.push(hashFromTile(tile, place));
    }
    proof.push(hashRange(parts));
  }
  return proof;
}
