// Hashes of leaves, one after another → the root of the tree at each size it had (SPEC §9.1). For logs that do not
// fit in memory as objects: 64 bytes a leaf, packed. It may begin with the edge of a tree that was read before, whose
// leaves are not at hand; what it then knows begins at that size.
import {
  HASH_BYTES,
  hashNode,
  hashRange,
  inclusionRanges,
  type Subtree,
  subtreesOf,
} from './merkle.ts';

/** A tree of `size` leaves as its complete subtrees (`subtreesOf(0, size)`), from left to right. */
export type Edge = { readonly size: number; readonly hashes: readonly Uint8Array[] };

export class GrowingTree {
  /** The size it began with. */
  readonly from: number;
  #size: number;
  /** By level; nodes that the edge stands for are not in it. */
  readonly #levels: HashList[] = [];

  constructor(edge: Edge = { size: 0, hashes: [] }) {
    this.from = edge.size;
    this.#size = edge.size;
    for (const [i, { level }] of subtreesOf(0, edge.size).entries()) {
      const hash = edge.hashes[i];
      if (hash?.length !== HASH_BYTES) throw new RangeError('an edge is of other subtrees');
      this.#level(level).push(hash);
    }
  }

  get size(): number {
    return this.#size;
  }

  /** Adds a leaf's hash. */
  add(leafHash: Uint8Array): void {
    let [hash, index] = [leafHash, this.#size];
    for (let level = 0; ; level++, index = (index - 1) / 2) {
      const nodes = this.#level(level);
      nodes.push(hash);
      if (index % 2 === 0) break;
      hash = hashNode(nodes.at(index - 1), hash);
    }
    this.#size += 1;
  }

  root(): Uint8Array {
    return this.rootAt(this.#size);
  }

  /** The root of the tree of the first `size` leaves: from `from` up to as many as there are. */
  rootAt(size: number): Uint8Array {
    return hashRange(this.#hashes(size));
  }

  /** The proof that the last leaf is in the tree. */
  inclusionOfLast(): Uint8Array[] {
    return inclusionRanges(this.#size - 1, this.#size).map(({ start, end }) =>
      hashRange(subtreesOf(start, end).map((one) => this.#hash(one))).slice(),
    );
  }

  /** What another one can begin with. */
  edge(): Edge {
    return { size: this.#size, hashes: this.#hashes(this.#size).map((one) => one.slice()) };
  }

  #hashes(size: number): Uint8Array[] {
    return subtreesOf(0, size).map(({ level, index }) => this.#hash({ level, index }));
  }

  #hash({ level, index }: Subtree): Uint8Array {
    const nodes = this.#levels[level];
    if (nodes === undefined) throw new RangeError('a tree has no such subtree');
    return nodes.at(index);
  }

  #level(level: number): HashList {
    for (let at = this.#levels.length; at <= level; at++) {
      const nodes = Math.floor(this.from / 2 ** at);
      // Of the nodes that the edge stands for, only the last of a level is known, and where it is a subtree of it.
      this.#levels.push(new HashList(nodes % 2 === 0 ? nodes : nodes - 1));
    }
    return this.#levels[level] as HashList;
  }
}

/** Hashes in one block of memory, from index `first` on. */
class HashList {
  readonly #first: number;
  #count = 0;
  #bytes = new Uint8Array(64 * HASH_BYTES);

  constructor(first: number) {
    this.#first = first;
  }

  push(hash: Uint8Array): void {
    const at = this.#count * HASH_BYTES;
    if (at === this.#bytes.length) {
      const more = new Uint8Array(this.#bytes.length * 2);
      more.set(this.#bytes);
      this.#bytes = more;
    }
    this.#bytes.set(hash, at);
    this.#count += 1;
  }

  at(index: number): Uint8Array {
    const place = index - this.#first;
    if (!(place >= 0 && place < this.#count)) throw new RangeError('a tree has no such subtree');
    return this.#bytes.subarray(place * HASH_BYTES, (place + 1) * HASH_BYTES);
  }
}
