// What happens between two steps of a request: something is done after so many calls of state and blobs.
import type { StateDir } from '../../src/server/statedir.ts';

export type Between = {
  /** `dir` whose calls are counted. */
  readonly dir: StateDir;
  /** Does `what` after `calls` more calls, once, before the result of the last one is seen. */
  after(calls: number, what: () => Promise<void>): void;
  /** Whether it was done; if not, there were fewer calls. Nothing is done afterwards. */
  stop(): boolean;
};

export function between(dir: StateDir): Between {
  let left = 0;
  let pending: (() => Promise<void>) | null = null;
  const count = async (): Promise<void> => {
    if (pending === null || --left > 0) return;
    const what = pending;
    pending = null;
    await what();
  };
  const counted = <T extends object>(target: T): T =>
    new Proxy(target, {
      get(_, name) {
        const method: unknown = Reflect.get(target, name);
        if (typeof method !== 'function') return method;
        // Asked without waiting.
        if (name === 'knownSize' || name === 'writes' || name === 'list')
          return method.bind(target);
        return async (...args: unknown[]) => {
          const result: unknown = await method.apply(target, args);
          await count();
          return result;
        };
      },
    });
  return {
    dir: { ...dir, state: counted(dir.state), blobs: counted(dir.blobs) },
    after(calls, what) {
      [left, pending] = [calls, what];
    },
    stop() {
      const wasDone = pending === null;
      pending = null;
      return wasDone;
    },
  };
}
