// The writer: runs State's changes one after another on the one writing connection, in the order
// they came, waiting for other processes' locks without blocking. It lives in the caller's thread
// (a command) or in one of its own (`serve`; sqlite-thread.ts), where it behaves the same.
import type { Database } from 'better-sqlite3';
import { asStateError, openWriter } from './sqlite-database.ts';
import { patiently } from './sqlite-patience.ts';
import { createWrites, type SyncWrites } from './sqlite-writes.ts';
import type { StateWrites } from './state.ts';

export type WriteName = keyof StateWrites;
export type WriteArgs<K extends WriteName> = Parameters<StateWrites[K]>;
export type WriteResult<K extends WriteName> = Awaited<ReturnType<StateWrites[K]>>;

export interface Writer {
  /** Runs one change as one transaction. */
  write<K extends WriteName>(name: K, args: WriteArgs<K>): Promise<WriteResult<K>>;
  /** Closes the connection after what was asked for before. */
  close(): Promise<void>;
}

/** `patience`: milliseconds to wait for another process's lock before E_STATE_BUSY. */
export async function openInlineWriter(file: string, patience: number): Promise<Writer> {
  const db = await openWriter(file, performance.now() + patience);
  return new InlineWriter(db, patience);
}

class InlineWriter implements Writer {
  readonly #db: Database;
  readonly #writes: SyncWrites;
  readonly #patience: number;
  #last: Promise<unknown> = Promise.resolve();

  constructor(db: Database, patience: number) {
    this.#db = db;
    this.#writes = createWrites(db);
    this.#patience = patience;
  }

  write<K extends WriteName>(name: K, args: WriteArgs<K>): Promise<WriteResult<K>> {
    // Counted from now, so that a queue behind a long lock fails together and not one by one.
    const deadline = performance.now() + this.#patience;
    const change = this.#writes[name] as (...args: WriteArgs<K>) => WriteResult<K>;
    const result = this.#last.then(() =>
      patiently(this.#db.name, deadline, () => change(...args)).catch((error: unknown) => {
        throw asStateError(error, this.#db.name);
      }),
    );
    this.#last = result.catch(() => {});
    return result;
  }

  async close(): Promise<void> {
    await this.#last;
    this.#db.close();
  }
}
