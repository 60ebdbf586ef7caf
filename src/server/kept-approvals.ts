// Approvals of the log, ready to prove their manifests' places, for offers: reading the batch of a fleet of 10,000
// hosts and making its tree takes some 10 ms, and a publication makes every host ask. Those used last are kept,
// as many as have so many digests together; each is made once, however many ask for it at the same time.
import { FleetError } from '../errors.ts';
import { type ApprovalProof, approvalProver } from '../manifest/approval.ts';
import type { State } from '../storage/state.ts';

/** The prover of an approval, and how many digests it is about. */
type Prepared = {
  readonly prove: (digest: string) => ApprovalProof | null;
  readonly digests: number;
};

const LIMITS = {
  /** Some 200 bytes each. An approval that alone has more is kept alone. */
  digests: 100_000,
  /** Each has its envelope, of some kilobytes. */
  approvals: 100,
};

export class KeptApprovals {
  readonly #state: Pick<State, 'approvals'>;
  /** By log and index, the ones used last at the end. */
  readonly #kept = new Map<string, Promise<Prepared>>();
  readonly #sizes = new Map<string, number>();
  readonly #limits: typeof LIMITS;

  constructor(state: Pick<State, 'approvals'>, limits = LIMITS) {
    this.#state = state;
    this.#limits = limits;
  }

  /** The place in it of the manifest with this digest. @throws FleetError E_LOG_DAMAGED when it has none. */
  async prove(log: number, index: number, digest: string): Promise<ApprovalProof> {
    const { prove } = await this.#prepared(log, index);
    const proof = prove(digest);
    if (proof !== null) return proof;
    throw new FleetError('E_LOG_DAMAGED', `the log: the approval at entry ${index} is of others`);
  }

  async #prepared(log: number, index: number): Promise<Prepared> {
    const name = `${log}/${index}`;
    const making = this.#kept.get(name) ?? this.#make(log, index);
    this.#kept.delete(name);
    this.#kept.set(name, making);
    try {
      const prepared = await making;
      // It may have been given up meanwhile.
      if (this.#kept.get(name) === making) this.#sizes.set(name, prepared.digests);
      this.#shrink(name);
      return prepared;
    } catch (error) {
      if (this.#kept.get(name) === making) this.#forget(name);
      throw error;
    }
  }

  async #make(log: number, index: number): Promise<Prepared> {
    const [approval] = await this.#state.approvals(log, index, index + 1);
    if (approval === undefined) {
      throw new FleetError('E_LOG_DAMAGED', `the log: entry ${index} is no approval`);
    }
    return { prove: approvalProver(approval), digests: approval.batch.length };
  }

  /** Forgets those used longest ago, and never `name`. */
  #shrink(name: string): void {
    let digests = [...this.#sizes.values()].reduce((sum, size) => sum + size, 0);
    for (const [other] of this.#kept) {
      if (digests <= this.#limits.digests && this.#kept.size <= this.#limits.approvals) return;
      if (other === name) continue;
      digests -= this.#sizes.get(other) ?? 0;
      this.#forget(other);
    }
  }

  #forget(name: string): void {
    this.#kept.delete(name);
    this.#sizes.delete(name);
  }
}
