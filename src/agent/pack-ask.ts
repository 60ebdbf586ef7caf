// The server's packs → a part of one, or that there is none. One that is being made is waited for, as long as this host wants
// to; a line that breaks is tried again, but not for ever: each time has to bring something.
import { setTimeout as sleep } from 'node:timers/promises';
import { isFleetError } from '../errors.ts';
import type { PackName } from './pack-store.ts';
import type { Part, Source } from './source.ts';

/** Failures in a row that brought less than this … */
const PROGRESS_BYTES = 64 * 1024;
/** … end it. */
const MAX_FAILURES = 4;
/** How much of an answer is read, the pack's index says. */
const MOST = Number.MAX_SAFE_INTEGER;
const FIRST_PAUSE_MS = 250;

export class PackAsker {
  readonly #part: NonNullable<Source['part']>;
  readonly #path: string;
  readonly #signal: AbortSignal;
  /** ms that are left for waiting. */
  #patience: number;
  #failures = 0;

  /** `waitSeconds`: in all, for a pack that is being made. */
  constructor(
    part: NonNullable<Source['part']>,
    { closure, base }: PackName,
    waitSeconds: number,
    signal: AbortSignal,
  ) {
    this.#part = part;
    this.#path = `/v1/packs/${closure}${base === null ? '' : `?base=${base}`}`;
    this.#patience = waitSeconds * 1000;
    this.#signal = signal;
  }

  /**
   * From `from` to before `to` (null: all the rest) of the pack with that ETag; all of it where it has another. null: there is no
   * such pack, or not in time.
   * @throws FleetError E_SERVER_…; an AbortError
   */
  async ask(from: number, to: number | null, etag: string | null): Promise<Part | null> {
    for (;;) {
      const part = await this.#part(this.#path, MOST, {
        from,
        to,
        ifRange: etag,
        signal: this.#signal,
      });
      if (part.status === 200 || part.status === 206) return part;
      if (part.retryAfter === null || this.#patience <= 0) return null;
      const pause = Math.min(Math.max(part.retryAfter, 1) * 1000, this.#patience);
      this.#patience -= pause;
      await sleep(pause, undefined, { signal: this.#signal });
    }
  }

  /** After a failure, when `gained` bytes had come since the last one: waits, or throws it on. */
  async pause(error: unknown, gained: number): Promise<void> {
    this.#signal.throwIfAborted();
    if (!isFleetError(error, 'E_SERVER_UNREACHABLE', 'E_SERVER_SLOW', 'E_SERVER_BUSY')) throw error;
    this.#failures = gained >= PROGRESS_BYTES ? 1 : this.#failures + 1;
    if (this.#failures > MAX_FAILURES) throw error;
    const pause = FIRST_PAUSE_MS * 2 ** (this.#failures - 1);
    await sleep(pause, undefined, { signal: this.#signal });
  }
}
