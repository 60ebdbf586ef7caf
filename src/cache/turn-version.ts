// The state's version, looked up at most once in a turn of the event loop: many requests arrive
// together, and a lookup each would cost each of them what it saves.
import type { StateReads } from '../storage/state.ts';

export class TurnVersion {
  readonly #state: Pick<StateReads, 'version'>;
  #current: Promise<number> | null = null;

  constructor(state: Pick<StateReads, 'version'>) {
    this.#state = state;
  }

  /** Another number once anything in the state may have changed. */
  read(): Promise<number> {
    if (this.#current === null) {
      this.#current = this.#state.version();
      setImmediate(() => {
        this.#current = null;
      });
    }
    return this.#current;
  }
}
