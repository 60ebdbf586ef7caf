// RFC 6962 §2.1: leaves → Merkle tree hashes, inclusion and consistency proofs, and their verification
// (SPEC §9.1). Hashes are the 32 bytes of SHA-256; sizes and indices are whole numbers below 2^53. What a
// proof is made of is told as complete subtrees, so that whoever keeps the hashes (files, memory) looks
// them up: nothing here reads anything. Refuses proofs of any other length than the one that fits.
import { createHash } from 'node:crypto';

export const HASH_BYTES = 32;

/** A complete subtree: the leaves from `index · 2^level` on, 2^level of them. */
export type Subtree = { readonly level: number; readonly index: number };

/** The hash of a tree without leaves. */
export function emptyRoot(): Uint8Array {
  return createHash('sha256').digest();
}

export function hashLeaf(data: Uint8Array): Uint8Array {
  return createHash('sha256').update(LEAF).update(data).digest();
}

export function hashNode(left: Uint8Array, right: Uint8Array): Uint8Array {
  return createHash('sha256').update(NODE).update(left).update(right).digest();
}

const LEAF = Uint8Array.of(0);
const NODE = Uint8Array.of(1);

/**
 * The complete subtrees, from left to right, that the tree over the leaves from `start` up to `end` is made
 * of; `hashRange` makes its hash of theirs. `start` is 0 or where a tree's left or right half begins.
 */
export function subtreesOf(start: number, end: number): Subtree[] {
  const all: Subtree[] = [];
  for (let at = start; at < end; ) {
    const level = floorLog2(end - at);
    all.push({ level, index: at / 2 ** level });
    at += 2 ** level;
  }
  return all;
}

/** The hash of the tree that these complete subtrees, from left to right, make up. */
export function hashRange(hashes: readonly Uint8Array[]): Uint8Array {
  return hashes.length === 0
    ? emptyRoot()
    : hashes.reduceRight((right, left) => hashNode(left, right));
}

/** Leaves from `start` up to `end`. */
export type Range = { readonly start: number; readonly end: number };

/** The ranges whose hashes prove that leaf `index` is in the tree of `size` leaves. RFC 6962 §2.1.1 */
export function inclusionRanges(index: number, size: number): Range[] {
  const path: Range[] = [];
  let [start, end] = [0, size];
  while (end - start > 1) {
    const middle = start + splitOf(end - start);
    if (index < middle) {
      path.push({ start: middle, end });
      end = middle;
    } else {
      path.push({ start, end: middle });
      start = middle;
    }
  }
  return path.reverse();
}

/**
 * The ranges whose hashes prove that the tree of `newer` leaves begins with that of `older`, which is at
 * least 1 and at most `newer`. RFC 6962 §2.1.2
 */
export function consistencyRanges(older: number, newer: number): Range[] {
  const path: Range[] = [];
  let [start, end] = [0, newer];
  // While the older tree's edge runs through it, the range is not a subtree of both.
  while (older !== end) {
    const middle = start + splitOf(end - start);
    if (older <= middle) {
      path.push({ start: middle, end });
      end = middle;
    } else {
      path.push({ start, end: middle });
      start = middle;
    }
  }
  // What is left is a subtree of both; the verifier knows it when it is the whole older tree.
  if (start > 0) path.push({ start, end });
  return path.reverse();
}

export type Inclusion = {
  readonly index: number;
  readonly size: number;
  readonly leafHash: Uint8Array;
  readonly root: Uint8Array;
  readonly proof: readonly Uint8Array[];
};

/** Whether `proof` shows that the leaf is in the tree. Never throws. */
export function verifyInclusion({ index, size, leafHash, root, proof }: Inclusion): boolean {
  if (!isCount(index) || !isCount(size) || index >= size) return false;
  if (![leafHash, root, ...proof].every(isHash)) return false;
  const ranges = inclusionRanges(index, size);
  if (ranges.length !== proof.length) return false;
  let hash = leafHash;
  for (const [i, other] of proof.entries()) {
    const isLeft = (ranges[i]?.end ?? 0) <= index;
    hash = isLeft ? hashNode(other, hash) : hashNode(hash, other);
  }
  return equalHashes(hash, root);
}

export type Consistency = {
  readonly older: TreeHead;
  readonly newer: TreeHead;
  readonly proof: readonly Uint8Array[];
};

/** What a checkpoint says of a tree. */
export type TreeHead = { readonly size: number; readonly root: Uint8Array };

/**
 * Whether `proof` shows that the newer tree begins with the older one. An older tree without leaves proves
 * nothing and is refused. Never throws.
 */
export function verifyConsistency({ older, newer, proof }: Consistency): boolean {
  if (!isCount(older.size) || !isCount(newer.size)) return false;
  if (older.size === 0 || older.size > newer.size) return false;
  if (older.size === newer.size) return proof.length === 0 && equalHashes(older.root, newer.root);
  if (![older.root, newer.root, ...proof].every(isHash)) return false;
  const ranges = consistencyRanges(older.size, newer.size);
  if (ranges.length !== proof.length) return false;
  // The subtree of both trees that the proof begins with, or the whole older tree.
  const sharesWhole = ranges[0] === undefined || ranges[0].start >= older.size;
  const rest = sharesWhole ? [...proof.entries()] : [...proof.entries()].slice(1);
  let before = sharesWhole ? older.root : (proof[0] ?? older.root);
  let after = before;
  for (const [i, other] of rest) {
    if ((ranges[i]?.start ?? 0) >= older.size) {
      after = hashNode(after, other);
    } else {
      before = hashNode(other, before);
      after = hashNode(other, after);
    }
  }
  return equalHashes(before, older.root) && equalHashes(after, newer.root);
}

/** The hash of the tree over `leaves`, which are hashes of leaves. */
export function rootOf(leaves: readonly Uint8Array[]): Uint8Array {
  return new MemoryTree(leaves).root();
}

/** A tree whose leaves all fit in memory: a snapshot's hosts, a batch of approvals. */
export class MemoryTree {
  /** Hashes of the complete subtrees, by level. */
  readonly #levels: Uint8Array[][];

  constructor(leaves: readonly Uint8Array[]) {
    this.#levels = [[]];
    this.replaceFrom(0, leaves);
  }

  get size(): number {
    return this.#levels[0]?.length ?? 0;
  }

  root(): Uint8Array {
    return this.rootAt(this.size);
  }

  /** The root of the tree of the first `size` leaves, at most as many as there are. */
  rootAt(size: number): Uint8Array {
    return this.#hash({ start: 0, end: size });
  }

  /** The hash of the leaf at `index`. */
  leaf(index: number): Uint8Array | undefined {
    return this.#levels[0]?.[index];
  }

  /** Puts another leaf at `index`, which is below `size`. */
  set(index: number, leaf: Uint8Array): void {
    const leaves = this.#levels[0] as Uint8Array[];
    leaves[index] = leaf;
    for (let level = 1, at = index >> 1; level < this.#levels.length; level++, at >>= 1) {
      const below = this.#levels[level - 1] as Uint8Array[];
      const [left, right] = [below[2 * at], below[2 * at + 1]];
      // Of what is no complete subtree no hash is kept, here or further up.
      if (left === undefined || right === undefined) return;
      (this.#levels[level] as Uint8Array[])[at] = hashNode(left, right);
    }
  }

  /** The hashes of the leaves from `index` on. */
  leavesFrom(index: number): Uint8Array[] {
    return (this.#levels[0] as Uint8Array[]).slice(index);
  }

  /** Puts other leaves in the place of all from `index` on, as many as there are. What is before stays as it was hashed. */
  replaceFrom(index: number, leaves: readonly Uint8Array[]): void {
    let below = this.#levels[0] as Uint8Array[];
    below.length = index;
    for (const leaf of leaves) below.push(leaf);
    for (let level = 1, at = index >> 1; below.length > 1; level++, at >>= 1) {
      const above = this.#levels[level] ?? [];
      this.#levels[level] = above;
      above.length = Math.min(above.length, at);
      for (let i = above.length; 2 * i + 1 < below.length; i++) {
        above.push(hashNode(below[2 * i] as Uint8Array, below[2 * i + 1] as Uint8Array));
      }
      below = above;
    }
  }

  /** `index` is below `size`. */
  inclusion(index: number): Uint8Array[] {
    return inclusionRanges(index, this.size).map((range) => this.#hash(range));
  }

  #hash({ start, end }: Range): Uint8Array {
    return hashRange(
      subtreesOf(start, end).map(({ level, index }) => this.#levels[level]?.[index] as Uint8Array),
    );
  }
}

/** Bytewise. These hashes are public, so time may tell. */
export function equalHashes(one: Uint8Array, other: Uint8Array): boolean {
  return Buffer.compare(one, other) === 0;
}

/** The largest power of two below `size`, which is at least 2. */
function splitOf(size: number): number {
  return 2 ** floorLog2(size - 1);
}

/** Exact where Math.log2 is not: it rounds 2^49 - 1 up to 49. */
function floorLog2(n: number): number {
  return n < 2 ** 32 ? 31 - Math.clz32(n) : 63 - Math.clz32(n / 2 ** 32);
}

function isCount(value: number): boolean {
  return Number.isSafeInteger(value) && value >= 0;
}

function isHash(hash: Uint8Array): boolean {
  return hash.length === HASH_BYTES;
}
