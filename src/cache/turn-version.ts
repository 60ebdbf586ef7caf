// The state's version, looked up once for all requests that arrive together: a lookup for each would cost
// it what the memory it guards saves.
import type { StateReads } from '../storage/state.ts';

/** In milliseconds: shorter than it takes an acknowledgement to reach a client and come back as a question. */
const TOGETHER = 0.1;

export class TurnVersion {
  readonly #state: Pick<StateReads, 'version'>;
  #current: Promise<number> | null = null;
  #readAt = 0;

  constructor(state: Pick<StateReads, 'version'>) {
    this.#state = state;
  }

  /** Another number once anything in the state may have changed. */
  read(): Promise<number> {
    const now = performance.now();
    if (this.#current === null || now - this.#readAt > TOGETHER) {
      this.#current = this.#state.version();
      this.#readAt = now;
    }
    return this.#current;
  }
}
