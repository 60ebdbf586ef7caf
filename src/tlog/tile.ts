// A log as C2SP tlog-tiles has it (SPEC §9.4): tiles of 256 hashes and bundles of 256 entries ↔ their paths
// and bytes, and which tiles hold the hash of a subtree. Tiles exist at every eighth level of the tree; what
// lies between is hashed from them. Refuses paths in any other spelling than the one.
import { FleetError } from '../errors.ts';
import { HASH_BYTES, rootOf, type Subtree } from './merkle.ts';

export const TILE_WIDTH = 256;
const TILE_HEIGHT = 8;
/** Entries are told their lengths in 16 bits. */
export const MAX_ENTRY_BYTES = 65_535;

export type TileId = {
  /** 0 for hashes of leaves; `entries` for the leaves themselves. */
  readonly level: number | 'entries';
  readonly index: number;
  /** How many hashes or entries: 1 to 256; less than 256 is a partial tile. */
  readonly width: number;
};

/** `tile/<L>/<N>[.p/<W>]`, N in groups of three digits, all but the last with an x before it. */
export function formatTilePath({ level, index, width }: TileId): string {
  const digits = String(index);
  const groups = digits.padStart(Math.ceil(digits.length / 3) * 3, '0').match(/\d{3}/g) ?? [];
  const name = groups.map((group, i) => (i < groups.length - 1 ? `x${group}` : group)).join('/');
  return `tile/${level}/${name}${width < TILE_WIDTH ? `.p/${width}` : ''}`;
}

/** The tile of a path, or null when it is none. */
export function parseTilePath(path: string): TileId | null {
  const form =
    /^tile\/(?<level>entries|\d|[1-5]\d|6[0-3])\/(?<name>(?:x\d{3}\/)*\d{3})(?:\.p\/(?<width>[1-9]\d{0,2}))?$/;
  const groups = form.exec(path)?.groups;
  if (groups === undefined) return null;
  const { level = '', name = '', width } = groups;
  const id: TileId = {
    level: level === 'entries' ? level : Number(level),
    index: Number(name.replaceAll(/[x/]/g, '')),
    width: width === undefined ? TILE_WIDTH : Number(width),
  };
  // Numbers that are too large, groups of zeros in front, a full tile named as a partial one.
  return Number.isSafeInteger(id.index) && formatTilePath(id) === path ? id : null;
}

/** The tiles that a tree of `size` leaves has at `level`: all full ones, then a partial one if any. */
export function widthOfTile(level: number | 'entries', index: number, size: number): number {
  const nodes = level === 'entries' ? size : Math.floor(size / TILE_WIDTH ** level);
  return Math.min(Math.max(nodes - index * TILE_WIDTH, 0), TILE_WIDTH);
}

/** Where the hashes are that make up a subtree's: `count` of them from `offset` on in a tile of its level. */
export function tileOfSubtree({ level, index }: Subtree): {
  readonly level: number;
  readonly index: number;
  readonly offset: number;
  readonly count: number;
} {
  const below = level % TILE_HEIGHT;
  const count = 2 ** below;
  const first = index * count;
  const tile = Math.floor(first / TILE_WIDTH);
  const offset = first - tile * TILE_WIDTH;
  return { level: (level - below) / TILE_HEIGHT, index: tile, offset, count };
}

/** A subtree's hash, from the bytes of the tile that `tileOfSubtree` names. @throws FleetError E_TILE. */
export function hashFromTile(tile: Uint8Array, { offset, count }: TileRange): Uint8Array {
  if (tile.length < (offset + count) * HASH_BYTES) {
    throw new FleetError('E_TILE', 'a tile of the log is too short');
  }
  const hashes: Uint8Array[] = [];
  for (let i = offset; i < offset + count; i++) {
    hashes.push(tile.subarray(i * HASH_BYTES, (i + 1) * HASH_BYTES));
  }
  return rootOf(hashes);
}

type TileRange = { readonly offset: number; readonly count: number };

/** The bytes of a bundle: each entry behind its length. @throws FleetError E_TILE for a too long entry. */
export function formatBundle(entries: readonly Uint8Array[]): Uint8Array {
  const parts: Uint8Array[] = [];
  for (const entry of entries) {
    if (entry.length > MAX_ENTRY_BYTES) {
      throw new FleetError('E_TILE', `a log entry has more than ${MAX_ENTRY_BYTES} bytes`);
    }
    parts.push(Uint8Array.of(entry.length >> 8, entry.length & 0xff), entry);
  }
  return Buffer.concat(parts);
}

/** The `width` entries of a bundle. @throws FleetError E_TILE unless there are just as many. */
export function parseBundle(bytes: Uint8Array, width: number): Uint8Array[] {
  const entries: Uint8Array[] = [];
  let at = 0;
  while (entries.length < width && at + 2 <= bytes.length) {
    const end = at + 2 + (((bytes[at] ?? 0) << 8) | (bytes[at + 1] ?? 0));
    if (end > bytes.length) break;
    entries.push(bytes.subarray(at + 2, end));
    at = end;
  }
  if (entries.length !== width || at !== bytes.length) {
    throw new FleetError('E_TILE', `a bundle of the log does not hold ${width} entries`);
  }
  return entries;
}
