// Where each key's signatures stand in a log → those of them that a later root says count no more (`revoked`, SPEC
// §3.1). Kept as runs: a publication of many manifests is one.
import type { PublicKey } from '../keyfile.ts';
import type { Root } from '../manifest/root.ts';

type Run = { readonly first: number; last: number };

/** The last entry that a key signed, as an audit keeps it to go on from. */
export type KeptSigner = { readonly key: PublicKey; readonly last: number };

export class Signed {
  readonly #runs = new Map<PublicKey, Run[]>();

  constructor(kept: readonly KeptSigner[] = []) {
    for (const { key, last } of kept) this.#runs.set(key, [{ first: last, last }]);
  }

  /** Entries come in the order of the log. */
  note(index: number, signers: readonly PublicKey[]): void {
    for (const key of signers) {
      const runs = this.#runs.get(key) ?? [];
      this.#runs.set(key, runs);
      const run = runs.at(-1);
      if (run?.last === index - 1) run.last = index;
      else runs.push({ first: index, last: index });
    }
  }

  /** Entries with a signature that counts no more. */
  *revoked(root: Pick<Root, 'revoked'>): Generator<{ key: PublicKey; index: number }> {
    for (const { key, notAfterIndex } of root.revoked) {
      for (const { first, last } of this.#runs.get(key as PublicKey) ?? []) {
        for (let index = Math.max(first, notAfterIndex + 1); index <= last; index++) {
          yield { key: key as PublicKey, index };
        }
      }
    }
  }

  last(): KeptSigner[] {
    return [...this.#runs].map(([key, runs]) => ({ key, last: runs.at(-1)?.last ?? 0 }));
  }
}
