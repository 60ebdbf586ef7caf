// How much may come in a second, over all downloads of a run: a token bucket whose tokens are bytes. What comes early has to
// wait; nobody is refused anything.
import { setTimeout as sleep } from 'node:timers/promises';

/** So much may come at once after a pause, in ms of the rate. */
const BURST_MS = 100;

export class Pace {
  readonly #bytesPerSecond: number;
  /** When what was let through so far is paid for, in ms of performance.now(). */
  #paidAt = 0;

  constructor(bytesPerSecond: number) {
    this.#bytesPerSecond = bytesPerSecond;
  }

  /** Passes `chunks` on, no faster than the rate. @throws what `chunks` throws; an AbortError of `signal` */
  async *keep(
    chunks: AsyncIterable<Uint8Array>,
    signal?: AbortSignal,
  ): AsyncGenerator<Uint8Array, void, undefined> {
    for await (const chunk of chunks) {
      const now = performance.now();
      this.#paidAt =
        Math.max(this.#paidAt, now - BURST_MS) + (chunk.length * 1000) / this.#bytesPerSecond;
      const early = this.#paidAt - now;
      if (early > 0) await sleep(early, undefined, signal === undefined ? {} : { signal });
      yield chunk;
    }
  }
}
