// The state's version, looked up once for all requests that arrive together: a lookup for each (two locks of a
// file) would cost it what the memory it guards saves.
import type { StateReads } from '../storage/state.ts';

/**
 * In milliseconds: what another process changed is seen so much later at most, which is before it could end and
 * say so. What this one changed is seen at once.
 */
const TOGETHER = 1;

export class TurnVersion {
  readonly #state: Pick<StateReads, 'version' | 'writes'>;
  #current: Promise<number> | null = null;
  #readAt = Number.NEGATIVE_INFINITY;
  #writes = 0;

  constructor(state: Pick<StateReads, 'version' | 'writes'>) {
    this.#state = state;
  }

  /** Another number once anything in the state may have changed. */
  read(): Promise<number> {
    const now = performance.now();
    const writes = this.#state.writes();
    if (this.#current === null || writes !== this.#writes || now - this.#readAt > TOGETHER) {
      this.#readAt = now;
      this.#writes = writes;
      this.#current = this.#state.version();
    }
    return this.#current;
  }
}
