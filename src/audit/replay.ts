// A log, entry by entry → what every host was told, from when on, and every irregularity. It judges each
// entry under the root that was in force where it stands, as an agent of that moment would have, and the
// log as a whole: numbers that only grow, snapshots that say what is so, keys that were revoked. It goes on after
// an irregularity, and may begin where an earlier audit ended. Pure; entries come verified as far as that needs no
// memory (facts.ts).
import { type ErrorCode, isFleetError } from '../errors.ts';
import type { PublicKey } from '../keyfile.ts';
import { isBatchOf } from '../manifest/approval.ts';
import type { SnapshotProof } from '../manifest/log-view.ts';
import { approvalThreshold, type Root } from '../manifest/root.ts';
import { parseSnapshot } from '../manifest/snapshot.ts';
import { type Edge, GrowingTree } from '../tlog/growing-tree.ts';
import { equalHashes, HASH_BYTES } from '../tlog/merkle.ts';
import { Approvals, type WaitingApproval } from './approvals.ts';
import { type Floor, Floors } from './earlier-log.ts';
import type { Fact, Facts, ManifestFact } from './facts.ts';
import { Hosts, type KeptHost } from './hosts.ts';
import { Irregularities } from './irregular.ts';
import type { RootChain } from './root-chain.ts';
import { type KeptSigner, Signed } from './signed.ts';

/** The digests of an approval's batch; null where they are not at hand. `index`: the approval's entry. */
export type BatchReader = (index: number) => Promise<readonly string[] | null>;

/** All that a replay needs to know of the entries that it does not read. */
export type Before = {
  readonly edge: Edge;
  /** The last of them, and the proof of it; null before the first entry. */
  readonly snapshot: SnapshotProof | null;
  readonly hosts: readonly KeptHost[];
  readonly approvals: readonly WaitingApproval[];
  readonly signers: readonly KeptSigner[];
  /** Of hosts that only an earlier log has told anything of. */
  readonly floors: readonly Floor[];
};

/** A log that is read from its first entry on, and is the first that is known of. */
export const NOTHING: Before = {
  floors: [],
  ...{ edge: { size: 0, hashes: [] }, snapshot: null, hosts: [], approvals: [], signers: [] },
};

export class Replay {
  readonly irregular = new Irregularities();
  readonly hosts: Hosts;
  readonly tree: GrowingTree;
  readonly #chain: RootChain;
  readonly #batch: BatchReader;
  readonly #approvals: Approvals;
  readonly #signed: Signed;
  readonly #floors: Floors;
  #snapshots: number;
  #snapshotProof: SnapshotProof | null;
  /** What ends in anything else was never signed: so did what is before. */
  #endsInSnapshot = true;

  constructor(chain: RootChain, batch: BatchReader, before: Before = NOTHING) {
    this.#chain = chain;
    this.#batch = batch;
    this.hosts = new Hosts(before.hosts);
    this.tree = new GrowingTree(before.edge);
    this.#approvals = new Approvals(before.approvals);
    this.#signed = new Signed(before.signers);
    this.#floors = new Floors(before.floors);
    this.#snapshotProof = before.snapshot;
    this.#snapshots = before.snapshot === null ? 0 : parseSnapshot(before.snapshot.text).sequence;
  }

  get root(): Root {
    return this.#chain.root;
  }

  /** Of every root so far. */
  get logKeys(): readonly string[] {
    return this.#chain.logKeys;
  }

  /** Takes the next entries. @throws FleetError only when the log does not begin with the trusted root. */
  async add({ facts, leafHashes }: Facts): Promise<void> {
    for (const [i, fact] of facts.entries()) {
      const index = this.tree.size;
      this.tree.add(leafHashes.subarray(i * HASH_BYTES, (i + 1) * HASH_BYTES));
      this.#endsInSnapshot = fact.kind === 'snapshot';
      // Most entries wait for nothing.
      if (fact.kind === 'approval') await this.#approval(index, fact);
      else this.#add(index, fact);
    }
  }

  /** What the log as a whole must be, once its last entry was taken. */
  finish(): void {
    if (!this.#endsInSnapshot || this.tree.size === 0) {
      const last = this.tree.size - 1;
      this.irregular.tell(last, null, 'E_AUDIT_SNAPSHOT', 'the log does not end in a snapshot');
    }
    for (const { key, index } of this.#signed.revoked(this.root)) {
      this.irregular.tell(index, null, 'E_AUDIT_REVOKED', `signed by ${key}, which is revoked`);
    }
  }

  /** What another replay needs to go on from here. */
  after(): Before {
    return {
      edge: this.tree.edge(),
      snapshot: this.#snapshotProof,
      hosts: this.hosts.all().map(({ host, last, lastKey }) => ({ host, last, lastKey })),
      approvals: this.#approvals.waiting(),
      signers: this.#signed.last(),
      floors: this.#floors.left(),
    };
  }

  #add(index: number, fact: Exclude<Fact, { kind: 'approval' }>): void {
    switch (fact.kind) {
      case 'root':
        this.#root(index, fact.text);
        break;
      case 'snapshot':
        this.#snapshot(index, fact.text);
        break;
      case 'manifest':
        this.#manifest(index, fact.says, fact.signers);
        break;
      case 'enrolment':
        this.#enrolment(index, fact);
        break;
      case 'unknown':
        this.irregular.tell(index, null, fact.code, fact.message);
    }
  }

  #root(index: number, text: string): void {
    try {
      this.#chain.add(text);
      this.#approvals.endBefore(this.root.epoch);
    } catch (error) {
      if (index === 0 || !isFleetError(error)) throw error;
      this.irregular.tell(index, null, error.code, error.message);
    }
  }

  #snapshot(index: number, text: string): void {
    this.#snapshotProof = { text, proof: this.tree.inclusionOfLast() };
    const wrong = (message: string) =>
      this.irregular.tell(index, null, 'E_AUDIT_SNAPSHOT', message);
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
      const told = this.hosts.snapshot();
      if (snapshot.hosts !== told.hosts || !equalHashes(snapshot.root, told.root)) {
        wrong('it says something else of the hosts than the manifests before it');
      }
    } catch (error) {
      if (!isFleetError(error)) throw error;
      wrong(error.message);
    }
  }

  #manifest(index: number, says: ManifestFact, signers: readonly PublicKey[]): void {
    const host = says.host.id;
    const wrong = (code: ErrorCode, message: string) =>
      this.irregular.tell(index, host, code, message);
    const { root } = this.#chain;
    const { threshold } = root.roles.director;
    this.#signed.note(index, signers);
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
    const last = this.hosts.get(host)?.last ?? null;
    const name = `${says.epoch}.${says.sequence}`;
    if (last !== null) {
      const order = says.epoch - last.epoch || says.sequence - last.sequence;
      if (order < 0)
        wrong('E_SEQUENCE_OLDER', `${name} comes after ${last.epoch}.${last.sequence}`);
      if (order === 0) wrong('E_SEQUENCE_CONFLICT', `${name} is there twice`);
      // Under a newer root that is said again.
      if (last.intent === 'decommission' && says.intent !== 'decommission') {
        wrong('E_DECOMMISSIONED', 'the host had been ended');
      }
    }
    if (last === null) this.#floors.judge(host, says, wrong);
    const before = says.previous?.sha256 ?? null;
    // The first one in a later log follows one that is in the log before: floors say what is known of that.
    const isLaterLog = !root.log.origin.endsWith('/log/1');
    if (before !== (last?.digest ?? null) && !(last === null && isLaterLog)) {
      wrong('E_AUDIT_PREVIOUS', `${name} does not name the manifest before it`);
    }
    const approvals = this.#approvalsOf(index, says);
    const { epoch, sequence, digest, intent, toplevel, issuedAt, emergency } = says;
    this.hosts.tell(host, {
      ...{ index, epoch, sequence, digest, intent, toplevel, issuedAt, approvals, emergency },
    });
  }

  /** How many release keys approved a manifest, in the approval before it that has most. */
  #approvalsOf(index: number, says: ManifestFact): number {
    const host = says.host.id;
    const most = this.#approvals.take(says.digest, says);
    try {
      const needed = approvalThreshold(this.#chain.root, host);
      if (most >= needed) return most;
      const count = `approved by ${most} of ${needed} release keys, as far as the log shows`;
      this.irregular.tell(index, host, 'E_APPROVAL_MISSING', count);
    } catch (error) {
      if (!isFleetError(error)) throw error;
      this.irregular.tell(index, host, error.code, error.message);
    }
    return most;
  }

  async #approval(index: number, { says, signers }: Extract<Fact, { kind: 'approval' }>) {
    const wrong = (code: ErrorCode, message: string) =>
      this.irregular.tell(index, null, code, message);
    this.#signed.note(index, signers);
    if (says.fleet !== this.root.fleet) wrong('E_FLEET_MISMATCH', `of fleet ${says.fleet}`);
    if (signers.length === 0) wrong('E_APPROVAL_SIGNATURE', 'signed by no release key');
    const batch = await this.#batch(index);
    const { epoch, expiresAt } = says;
    if (batch === null) wrong('E_APPROVAL_FORM', 'the batch that it is about is not here');
    else if (!isBatchOf(says, batch)) wrong('E_APPROVAL_FORM', 'its batch is another one');
    else if (signers.length > 0) this.#approvals.add({ signers, epoch, expiresAt }, batch);
  }

  #enrolment(index: number, { says, signers }: Extract<Fact, { kind: 'enrolment' }>): void {
    const { host, publicKey, replaces, fleet } = says;
    const wrong = (code: ErrorCode, message: string) =>
      this.irregular.tell(index, host, code, message);
    this.#signed.note(index, signers);
    if (signers.length === 0) {
      wrong('E_SIGNATURE_THRESHOLD', 'signed by no director key');
      return;
    }
    if (fleet !== this.root.fleet) wrong('E_FLEET_MISMATCH', `of fleet ${fleet}`);
    if (replaces !== (this.hosts.get(host)?.lastKey?.key ?? null)) {
      wrong('E_AUDIT_ENROLMENT', 'it replaces another key than the one that was enrolled last');
    }
    this.hosts.enrol(host, { key: publicKey, index });
  }
}
