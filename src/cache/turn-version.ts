// The state's version, looked up once for all requests that arrive together: a lookup for each would cost
// it what the memory it guards saves.
import type { StateReads } from '../storage/state.ts';

/** In milliseconds: shorter than it takes an acknowledgement to reach a client and come back as a question. */
const TOGETHER = 0.2;

export class TurnVersion {
  readonly #state: Pick<StateReads, 'version'>;
  #current: Promise<number> | null = null;
  #readAt = Number.NEGATIVE_INFINITY;
  #value: number | null = null;

  constructor(state: Pick<StateReads, 'version'>) {
    this.#state = state;
  }

  /** The version, where it was looked up a moment ago; else null. */
  recent(): number | null {
    return performance.now() - this.#readAt <= TOGETHER ? this.#value : null;
  }

  /** Another number once anything in the state may have changed. */
  read(): Promise<number> {
    const now = performance.now();
    if (this.#current === null || now - this.#readAt > TOGETHER) {
      this.#readAt = now;
      this.#value = null;
      this.#current = this.#state.version().then((value) => {
        this.#value = value;
        return value;
      });
    }
    return this.#current;
  }
}
