// fsync of directories, shared: those who ask while an fsync of the same directory runs wait for
// one further fsync together, as the running one may have begun before their change.
import { syncDirectory } from '../durable.ts';

export class DirectorySync {
  readonly #running = new Map<string, Promise<void>>();
  readonly #next = new Map<string, Promise<void>>();

  /** Fulfilled when every change made in `dir` before the call survives a power cut. */
  sync(dir: string): Promise<void> {
    const running = this.#running.get(dir);
    if (running === undefined) return this.#start(dir);
    let next = this.#next.get(dir);
    if (next === undefined) {
      next = running
        .catch(() => {})
        .then(() => {
          this.#next.delete(dir);
          return this.#start(dir);
        });
      this.#next.set(dir, next);
    }
    return next;
  }

  #start(dir: string): Promise<void> {
    const run = syncDirectory(dir).finally(() => this.#running.delete(dir));
    this.#running.set(dir, run);
    return run;
  }
}
