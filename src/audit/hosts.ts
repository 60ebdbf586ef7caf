// Manifests and keys as a log tells them → each host's history, and the tree over the newest manifest of each, which
// snapshots must agree with (SPEC §9.5). A history may begin in the middle: of what came before, the last is enough.
import type { PublicKey } from '../keyfile.ts';
import { compareHosts, hashEntry } from '../manifest/snapshot.ts';
import { MemoryTree } from '../tlog/merkle.ts';

/** One manifest of a host. Times are POSIX seconds. */
export type Told = {
  readonly index: number;
  readonly epoch: number;
  readonly sequence: number;
  readonly digest: string;
  readonly intent: 'deploy' | 'rollback' | 'decommission';
  readonly toplevel: string | null;
  readonly issuedAt: number;
  /** How many release keys approved it. */
  readonly approvals: number;
  readonly emergency: boolean;
};

/** A key that was enrolled, and the entry that says so. */
export type ToldKey = { readonly key: PublicKey; readonly index: number };

export type HostHistory = {
  readonly host: string;
  /** In the order of the log; of an audit that goes on from an earlier one, what is new. */
  readonly told: readonly Told[];
  readonly keys: readonly ToldKey[];
  /** The newest of all, also where it is not new. */
  readonly last: Told | null;
  readonly lastKey: ToldKey | null;
};

/** What an audit keeps of a host, to go on from. */
export type KeptHost = Pick<HostHistory, 'host' | 'last' | 'lastKey'>;

type Growing = { host: string; told: Told[]; keys: ToldKey[]; last: Told | null } & {
  lastKey: ToldKey | null;
};

export class Hosts {
  readonly #hosts = new Map<string, Growing>();
  /** Hosts with a manifest, sorted: each has its place in the tree. */
  readonly #names: string[] = [];
  readonly #tree = new MemoryTree([]);
  readonly #changed = new Set<string>();

  constructor(kept: readonly KeptHost[] = []) {
    for (const { host, last, lastKey } of kept) {
      this.#hosts.set(host, { host, told: [], keys: [], last, lastKey });
      if (last !== null) this.#changed.add(host);
    }
  }

  /** By host. */
  all(): HostHistory[] {
    return [...this.#hosts.values()].sort(compareHosts);
  }

  get(host: string): HostHistory | null {
    return this.#hosts.get(host) ?? null;
  }

  tell(host: string, manifest: Told): void {
    const history = this.#of(host);
    history.told.push(manifest);
    history.last = manifest;
    this.#changed.add(host);
  }

  enrol(host: string, key: ToldKey): void {
    const history = this.#of(host);
    history.keys.push(key);
    history.lastKey = key;
  }

  /** How many hosts ever had a manifest, and the hash of the tree over the newest of each. */
  snapshot(): { readonly hosts: number; readonly root: Uint8Array } {
    const news: string[] = [];
    for (const host of this.#changed) {
      const place = this.#placeOf(host);
      if (this.#names[place] === host) this.#tree.set(place, this.#entry(host));
      else news.push(host);
    }
    this.#changed.clear();
    this.#insert(news.sort((one, other) => (one < other ? -1 : 1)));
    return { hosts: this.#names.length, root: this.#tree.root() };
  }

  /** Those behind the first new one move; their entries are not made again. `news`: sorted. */
  #insert(news: readonly string[]): void {
    if (news[0] === undefined) return;
    const from = this.#placeOf(news[0]);
    const old = this.#tree.leavesFrom(from);
    const leaves: Uint8Array[] = [];
    let moved = 0;
    const names = this.#names.splice(from);
    const moveUpTo = (host: string | null) => {
      for (; moved < names.length && (host === null || (names[moved] as string) < host); moved++) {
        this.#names.push(names[moved] as string);
        leaves.push(old[moved] as Uint8Array);
      }
    };
    for (const host of news) {
      moveUpTo(host);
      this.#names.push(host);
      leaves.push(this.#entry(host));
    }
    moveUpTo(null);
    this.#tree.replaceFrom(from, leaves);
  }

  /** Where a host is among the names, or would be. */
  #placeOf(host: string): number {
    let [low, high] = [0, this.#names.length];
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.#names[middle] as string) < host) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  #entry(host: string): Uint8Array {
    const { epoch, sequence, digest } = (this.#hosts.get(host) as Growing).last as Told;
    return hashEntry({ host, epoch, sequence, sha256: digest });
  }

  #of(host: string): Growing {
    const known = this.#hosts.get(host);
    if (known !== undefined) return known;
    const history = { host, told: [], keys: [], last: null, lastKey: null };
    this.#hosts.set(host, history);
    return history;
  }
}
