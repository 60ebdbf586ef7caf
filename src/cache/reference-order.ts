// Rows in the order in which their blobs were finished → rows in an order in which none comes before a
// row it refers to. A client that asks in mid-ingest must never be told of a path whose references are
// missing: it remembers "missing" for an hour.
import type { StorePath } from '../nix/storepath.ts';

type Row = { readonly path: StorePath; readonly references: readonly StorePath[] };

export class ReferenceOrder<R extends Row> {
  /** Path that is not out yet → finished rows that wait for it. */
  readonly #waiters = new Map<StorePath, R[]>();
  /** Finished row → how many of its references are not out yet. */
  readonly #open = new Map<R, number>();
  readonly #pending: Set<StorePath>;

  /** `pending`: the paths that will be finished here; every other reference is out already. */
  constructor(pending: Iterable<StorePath>) {
    this.#pending = new Set(pending);
  }

  /** Rows that may go out now that `row` is finished, references before referrers. */
  finish(row: R): R[] {
    const open = row.references.filter((path) => path !== row.path && this.#pending.has(path));
    if (open.length > 0) {
      this.#open.set(row, open.length);
      for (const path of open) {
        const waiters = this.#waiters.get(path) ?? [];
        waiters.push(row);
        this.#waiters.set(path, waiters);
      }
      return [];
    }
    // A list that grows while it is walked: a row that goes out may free others.
    const out = [row];
    for (const { path } of out) {
      this.#pending.delete(path);
      for (const waiter of this.#waiters.get(path) ?? []) {
        const left = (this.#open.get(waiter) ?? 1) - 1;
        this.#open.set(waiter, left);
        if (left === 0) out.push(waiter);
      }
      this.#waiters.delete(path);
    }
    return out;
  }
}
