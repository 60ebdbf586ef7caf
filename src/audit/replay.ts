// A whole log, entry by entry → what every host was told, from when on, and every irregularity. It judges each
// entry under the root that was in force where it stands, as an agent of that moment would have, and the
// log as a whole: numbers that only grow, snapshots that say what is so, keys that were revoked. It goes on after
// an irregularity. Pure; entries come verified as far as that needs no memory (facts.ts).
import { type ErrorCode, FleetError, isFleetError } from '../errors.ts';
import type { PublicKey } from '../keyfile.ts';
import { isBatchOf } from '../manifest/approval.ts';
import { parseEnvelope } from '../manifest/dsse.ts';
import { approvalThreshold, type Root, verifyRootUpdate } from '../manifest/root.ts';
import { compareHosts, hashEntry, parseSnapshot, rootDigest } from '../manifest/snapshot.ts';
import type { Checkpoint } from '../tlog/checkpoint.ts';
import { equalHashes, MemoryTree } from '../tlog/merkle.ts';
import type { Fact, KeysInForce, ManifestFact } from './facts.ts';

export type Irregularity = {
  /** The entry; null for what is no entry's. */
  readonly index: number | null;
  readonly host: string | null;
  readonly code: ErrorCode;
  readonly message: string;
};

/** One manifest of a host. Times are POSIX seconds. */
export type Told = {
  readonly index: number;
  readonly epoch: number;
  readonly sequence: number;
  readonly digest: string;
  readonly intent: string;
  readonly toplevel: string | null;
  readonly issuedAt: number;
  /** How many release keys approved it. */
  readonly approvals: number;
  readonly emergency: boolean;
};

export type HostHistory = {
  readonly host: string;
  /** In the order of the log. */
  readonly told: Told[];
  /** Keys that were enrolled, and the entry that says so. */
  readonly keys: { readonly key: PublicKey; readonly index: number }[];
};

/** The digests of an approval's batch; null where they are not at hand. `index`: the approval's entry. */
export type BatchReader = (index: number) => Promise<readonly string[] | null>;

type LoggedApproval = {
  readonly signers: readonly PublicKey[];
  readonly expiresAt: number;
  readonly epoch: number;
};

/** The roots of a log as its reader meets them: which one is in force for what comes next. */
export class RootChain {
  #root: Root | null = null;
  #digest = '';
  readonly #trusted: { readonly root: Root; readonly digest: string };

  /** `envelope`: the auditor's own root, which the log must begin with. */
  constructor(root: Root, envelope: string) {
    this.#trusted = { root, digest: rootDigest(parseEnvelope(envelope).payload) };
  }

  /** The root in force; the auditor's own before the log has named any. */
  get root(): Root {
    return this.#root ?? this.#trusted.root;
  }

  /** SHA-256 of its payload; '' before the log has named any. */
  get digest(): string {
    return this.#digest;
  }

  get keys(): KeysInForce {
    const { director, release } = this.root.roles;
    return { director: director.keys, release: release.keys };
  }

  /** Takes a root that the log holds. @throws FleetError where it does not follow. */
  add(text: string): void {
    const envelope = parseEnvelope(text);
    const digest = rootDigest(envelope.payload);
    if (this.#root !== null) this.#root = verifyRootUpdate(this.#root, envelope);
    else if (digest === this.#trusted.digest) this.#root = this.#trusted.root;
    else {
      const { version } = this.#trusted.root;
      throw new FleetError(
        'E_ROOT_CHAIN',
        `the log begins with another root than version ${version} here`,
        {
          hint: 'begin with the first root of the fleet, 1.root.json, as it came to you',
        },
      );
    }
    this.#digest = digest;
  }
}

export class Replay {
  readonly irregularities: Irregularity[] = [];
  readonly #chain: RootChain;
  readonly #batch: BatchReader;
  readonly #hosts = new Map<string, HostHistory>();
  readonly #leaves: Uint8Array[] = [];
  /** By the digest of the manifest that they approve. */
  readonly #approvals = new Map<string, readonly LoggedApproval[]>();
  /** Where each director's and release key's signatures stand. */
  readonly #signed = new Map<PublicKey, number[]>();
  #names: string[] = [];
  #entries = new MemoryTree([]);
  #changed = new Set<string>();
  #snapshots = 0;
  #endsInSnapshot = false;

  constructor(chain: RootChain, batch: BatchReader) {
    this.#chain = chain;
    this.#batch = batch;
  }

  get size(): number {
    return this.#leaves.length;
  }

  /** By host. */
  get hosts(): HostHistory[] {
    return [...this.#hosts.values()].sort(compareHosts);
  }

  get root(): Root {
    return this.#chain.root;
  }

  /** Takes the next entry. @throws FleetError only when the log does not begin with the trusted root. */
  async add(fact: Fact): Promise<void> {
    const index = this.#leaves.length;
    this.#leaves.push(fact.leafHash);
    this.#endsInSnapshot = fact.kind === 'snapshot';
    switch (fact.kind) {
      case 'root':
        return this.#root(index, fact.text);
      case 'snapshot':
        return this.#snapshot(index, fact.text);
      case 'manifest':
        return this.#manifest(index, fact.says, fact.signers);
      case 'approval':
        return await this.#approval(index, fact);
      case 'enrolment':
        return this.#enrolment(index, fact);
      case 'unknown':
        this.#tell(index, null, fact.code, fact.message);
    }
  }

  /** What the log as a whole must be, once its last entry was taken. Returns its tree. */
  finish(checkpoint: Checkpoint): MemoryTree {
    const tree = new MemoryTree(this.#leaves);
    if (checkpoint.size !== tree.size || !equalHashes(checkpoint.root, tree.root())) {
      const says = `the checkpoint is of ${checkpoint.size} entries, and not of the ${tree.size} that are here`;
      this.#tell(null, null, 'E_AUDIT_LOG', says);
    }
    if (!this.#endsInSnapshot) {
      this.#tell(tree.size - 1, null, 'E_AUDIT_SNAPSHOT', 'the log does not end in a snapshot');
    }
    for (const { key, notAfterIndex } of this.root.revoked) {
      for (const index of this.#signed.get(key) ?? []) {
        if (index <= notAfterIndex) continue;
        this.#tell(index, null, 'E_AUDIT_REVOKED', `signed by ${key}, which is revoked`);
      }
    }
    this.irregularities.sort((one, other) => (one.index ?? Infinity) - (other.index ?? Infinity));
    return tree;
  }

  tell(host: string | null, code: ErrorCode, message: string): void {
    this.#tell(null, host, code, message);
  }

  #tell(index: number | null, host: string | null, code: ErrorCode, message: string): void {
    this.irregularities.push({ index, host, code, message });
  }

  #root(index: number, text: string): void {
    try {
      this.#chain.add(text);
    } catch (error) {
      if (index === 0 || !isFleetError(error)) throw error;
      this.#tell(index, null, error.code, error.message);
    }
  }

  #snapshot(index: number, text: string): void {
    const wrong = (message: string) => this.#tell(index, null, 'E_AUDIT_SNAPSHOT', message);
    try {
      const snapshot = parseSnapshot(text);
      this.#snapshots += 1;
      if (snapshot.sequence !== this.#snapshots) {
        wrong(`it is snapshot ${this.#snapshots}, and says ${snapshot.sequence}`);
        this.#snapshots = snapshot.sequence;
      }
      const { root, digest } = this.#chain;
      if (snapshot.rootVersion !== root.version || snapshot.rootSha256 !== digest) {
        wrong(`it names root version ${snapshot.rootVersion}, and ${root.version} is in force`);
      }
      if (
        snapshot.hosts !== this.#hostsTold() ||
        !equalHashes(snapshot.root, this.#entries.root())
      ) {
        wrong('it says something else of the hosts than the manifests before it');
      }
    } catch (error) {
      if (!isFleetError(error)) throw error;
      wrong(error.message);
    }
  }

  /** How many hosts ever had a manifest; brings the tree over them up to date. */
  #hostsTold(): number {
    const news = [...this.#changed].filter((host) => !this.#places.has(host));
    if (news.length > 0) {
      this.#names = [...this.#names, ...news].sort((a, b) => (a < b ? -1 : 1));
      this.#places = new Map(this.#names.map((host, place) => [host, place]));
      this.#entries = new MemoryTree(this.#names.map((host) => this.#entry(host)));
    } else {
      for (const host of this.#changed) {
        this.#entries.set(this.#places.get(host) ?? 0, this.#entry(host));
      }
    }
    this.#changed.clear();
    return this.#names.length;
  }

  #places = new Map<string, number>();

  #entry(host: string): Uint8Array {
    const last = this.#hosts.get(host)?.told.at(-1);
    if (last === undefined) throw new FleetError('E_INTERNAL', `${host} has no manifest`);
    const { epoch, sequence, digest } = last;
    return hashEntry({ host, epoch, sequence, sha256: digest });
  }

  #manifest(index: number, says: ManifestFact, signers: readonly PublicKey[]): void {
    const host = says.host.id;
    const wrong = (code: ErrorCode, message: string) => this.#tell(index, host, code, message);
    const { root } = this.#chain;
    const { threshold } = root.roles.director;
    this.#note(index, signers);
    if (signers.length < threshold) {
      wrong('E_SIGNATURE_THRESHOLD', `signed by ${signers.length} of ${threshold} director keys`);
      // Nobody who counts has said it: no host took it, and it is no host's history.
      if (signers.length === 0) return;
    }
    if (says.fleet.name !== root.fleet) wrong('E_FLEET_MISMATCH', `of fleet ${says.fleet.name}`);
    if (says.fleet.rootVersion !== root.version) {
      const versions = `root version ${says.fleet.rootVersion}, and ${root.version} is in force`;
      wrong('E_ROOT_VERSION', `issued under ${versions}`);
    }
    if (says.epoch !== root.epoch) wrong('E_EPOCH', `of epoch ${says.epoch}, not ${root.epoch}`);
    const history = this.#historyOf(host);
    const last = history.told.at(-1);
    const name = `${says.epoch}.${says.sequence}`;
    if (last !== undefined) {
      const order = says.epoch - last.epoch || says.sequence - last.sequence;
      if (order < 0)
        wrong('E_SEQUENCE_OLDER', `${name} comes after ${last.epoch}.${last.sequence}`);
      if (order === 0) wrong('E_SEQUENCE_CONFLICT', `${name} is there twice`);
      // Under a newer root that is said again.
      if (last.intent === 'decommission' && says.intent !== 'decommission') {
        wrong('E_DECOMMISSIONED', 'the host had been ended');
      }
    }
    const before = says.previous?.sha256 ?? null;
    // The first one in a later log follows one that is in the log before.
    if (before !== (last?.digest ?? null) && !(last === undefined && this.#isLaterLog())) {
      wrong('E_AUDIT_PREVIOUS', `${name} does not name the manifest before it`);
    }
    const approvals = this.#approvalsOf(index, says);
    const { epoch, sequence, digest, intent, toplevel, issuedAt, emergency } = says;
    history.told.push({
      ...{ index, epoch, sequence, digest, intent, toplevel, issuedAt, approvals, emergency },
    });
    this.#changed.add(host);
  }

  #isLaterLog(): boolean {
    return !this.#chain.root.log.origin.endsWith('/log/1');
  }

  /** How many release keys approved a manifest, in the approval before it that has most. */
  #approvalsOf(index: number, { host, digest, issuedAt, epoch }: ManifestFact): number {
    let needed: number;
    try {
      needed = approvalThreshold(this.#chain.root, host.id);
    } catch (error) {
      if (!isFleetError(error)) throw error;
      this.#tell(index, host.id, error.code, error.message);
      return 0;
    }
    const good = (this.#approvals.get(digest) ?? []).filter(
      (one) => one.epoch === epoch && issuedAt < one.expiresAt,
    );
    const most = Math.max(0, ...good.map(({ signers }) => signers.length));
    if (most >= needed) return most;
    const count = `${most} of ${needed} release keys`;
    this.#tell(
      index,
      host.id,
      'E_APPROVAL_MISSING',
      `approved by ${count}, as far as the log shows`,
    );
    return most;
  }

  async #approval(index: number, { says, signers }: Extract<Fact, { kind: 'approval' }>) {
    const wrong = (code: ErrorCode, message: string) => this.#tell(index, null, code, message);
    this.#note(index, signers);
    if (says.fleet !== this.root.fleet) wrong('E_FLEET_MISMATCH', `of fleet ${says.fleet}`);
    if (signers.length === 0) wrong('E_APPROVAL_SIGNATURE', 'signed by no release key');
    const batch = await this.#batch(index);
    if (batch === null) {
      return wrong('E_APPROVAL_FORM', 'the batch that it is about is not here');
    }
    const { epoch, expiresAt } = says;
    if (!isBatchOf(says, batch)) return wrong('E_APPROVAL_FORM', 'its batch is another one');
    const approval = { signers, epoch, expiresAt };
    for (const digest of batch) {
      this.#approvals.set(digest, [...(this.#approvals.get(digest) ?? []), approval]);
    }
  }

  #enrolment(index: number, { says, signers }: Extract<Fact, { kind: 'enrolment' }>): void {
    const { host, publicKey, replaces, fleet } = says;
    const wrong = (code: ErrorCode, message: string) => this.#tell(index, host, code, message);
    this.#note(index, signers);
    if (signers.length === 0) {
      wrong('E_SIGNATURE_THRESHOLD', 'signed by no director key');
      return;
    }
    if (fleet !== this.root.fleet) wrong('E_FLEET_MISMATCH', `of fleet ${fleet}`);
    const { keys } = this.#historyOf(host);
    if (replaces !== (keys.at(-1)?.key ?? null)) {
      wrong('E_AUDIT_ENROLMENT', 'it replaces another key than the one that was enrolled last');
    }
    keys.push({ key: publicKey, index });
  }

  #note(index: number, signers: readonly PublicKey[]): void {
    for (const key of signers) {
      const indices = this.#signed.get(key) ?? [];
      this.#signed.set(key, indices);
      indices.push(index);
    }
  }

  #historyOf(host: string): HostHistory {
    const known = this.#hosts.get(host);
    if (known !== undefined) return known;
    const history: HostHistory = { host, told: [], keys: [] };
    this.#hosts.set(host, history);
    return history;
  }
}
