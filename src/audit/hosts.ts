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
  /** Hosts with a manifest, sorted; the place of each in the tree. */
  #names: string[] = [];
  #places = new Map<string, number>();
  #tree = new MemoryTree([]);
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
    const news = [...this.#changed].filter((host) => !this.#places.has(host));
    if (news.length > 0) {
      this.#names = [...this.#names, ...news].sort((a, b) => (a < b ? -1 : 1));
      this.#places = new Map(this.#names.map((host, place) => [host, place]));
      this.#tree = new MemoryTree(this.#names.map((host) => this.#entry(host)));
    } else {
      for (const host of this.#changed) {
        this.#tree.set(this.#places.get(host) ?? 0, this.#entry(host));
      }
    }
    this.#changed.clear();
    return { hosts: this.#names.length, root: this.#tree.root() };
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
