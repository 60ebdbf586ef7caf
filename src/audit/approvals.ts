// Approvals as a log tells them → how many release keys approved a manifest (SPEC §10.1). What is kept is what waits:
// an approval of a manifest is forgotten once that manifest was told, or can be told no more.
import type { PublicKey } from '../keyfile.ts';

export type LoggedApproval = {
  readonly signers: readonly PublicKey[];
  readonly expiresAt: number;
  readonly epoch: number;
};

/** An approval and the digests of its batch that were not told yet, sorted. */
export type WaitingApproval = LoggedApproval & { readonly digests: readonly string[] };

export class Approvals {
  /** By the digest of the manifest that they approve. */
  readonly #waiting = new Map<string, readonly LoggedApproval[]>();

  constructor(kept: readonly WaitingApproval[] = []) {
    for (const { digests, ...approval } of kept) this.add(approval, digests);
  }

  add(approval: LoggedApproval, batch: readonly string[]): void {
    for (const digest of batch) {
      this.#waiting.set(digest, [...(this.#waiting.get(digest) ?? []), approval]);
    }
  }

  /** The most keys that one approval of this manifest has, of those that were good when it was issued. */
  take(digest: string, { epoch, issuedAt }: { epoch: number; issuedAt: number }): number {
    const all = this.#waiting.get(digest) ?? [];
    this.#waiting.delete(digest);
    const good = all.filter((one) => one.epoch === epoch && issuedAt < one.expiresAt);
    return Math.max(0, ...good.map(({ signers }) => signers.length));
  }

  /** Forgets what was approved in an epoch before this one: manifests of it count no more. */
  endBefore(epoch: number): void {
    for (const [digest, all] of this.#waiting) {
      const left = all.filter((one) => one.epoch >= epoch);
      if (left.length === 0) this.#waiting.delete(digest);
      else if (left.length < all.length) this.#waiting.set(digest, left);
    }
  }

  /** All that waits, in the order of the log. */
  waiting(): WaitingApproval[] {
    const batches = new Map<LoggedApproval, string[]>();
    for (const [digest, all] of this.#waiting) {
      for (const one of all) {
        const digests = batches.get(one) ?? [];
        batches.set(one, digests);
        digests.push(digest);
      }
    }
    return [...batches].map(([approval, digests]) => ({ ...approval, digests: digests.sort() }));
  }
}
