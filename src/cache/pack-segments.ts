// Segments, each made once: what State keeps of it counts while its bytes are there, and who asks for what is being made
// waits for that.
import { narBytesOf } from '../nix/closure.ts';
import type { Blobs } from '../storage/blobs.ts';
import type { MadeSegment } from '../storage/packs.ts';
import type { State } from '../storage/state.ts';
import type { PackPool } from './pack-pool.ts';
import type { SegmentTask } from './pack-tasks.ts';

type Making = MadeSegment | 'no-old';

export class PackSegments {
  readonly #state: Pick<State, 'useSegments' | 'addSegment'>;
  readonly #blobs: Pick<Blobs, 'size'>;
  readonly #now: () => number;
  readonly #making = new Map<string, Promise<Making>>();
  /** How many were made here, by what came of it. */
  readonly made = { copy: 0, patch: 0, whole: 0, poor: 0 };

  constructor(
    state: Pick<State, 'useSegments' | 'addSegment'>,
    blobs: Pick<Blobs, 'size'>,
    now: () => number,
  ) {
    this.#state = state;
    this.#blobs = blobs;
    this.#now = now;
  }

  /**
   * What became of each task, by its key; as many are made at a time as the pool has threads.
   * @throws what the pool throws; by then those that could be made are kept, and none is under way
   */
  async all(
    tasks: ReadonlyMap<string, SegmentTask>,
    pool: PackPool,
  ): Promise<ReadonlyMap<string, Making>> {
    // Registered before anything is waited for: nobody else makes them from now on.
    const fresh = [...tasks]
      .filter(([key]) => !this.#making.has(key))
      // The largest first: nothing is as bad as to begin with it when all else is done.
      .sort(([, a], [, b]) => bytesOf(b) - bytesOf(a));
    const known = this.#known(fresh.map(([key]) => key));
    for (const [key, task] of fresh) {
      const making = known
        .then((found) => found.get(key) ?? this.#make(key, task, pool))
        .finally(() => this.#making.delete(key));
      this.#making.set(key, making);
    }
    const keys = [...tasks.keys()];
    const settled = await Promise.allSettled(keys.map((key) => this.#making.get(key)));
    const outcomes = new Map<string, Making>();
    for (const [i, one] of settled.entries()) {
      if (one.status === 'rejected') throw one.reason;
      if (one.value !== undefined) outcomes.set(keys[i] ?? '', one.value);
    }
    return outcomes;
  }

  async #known(keys: readonly string[]): Promise<ReadonlyMap<string, MadeSegment>> {
    if (keys.length === 0) return new Map();
    const known = new Map(await this.#state.useSegments(keys, this.#now()));
    for (const [key, made] of known) {
      if (!('blob' in made) || (await this.#blobs.size(made.blob.id)) === made.blob.size) continue;
      known.delete(key);
    }
    return known;
  }

  async #make(key: string, task: SegmentTask, pool: PackPool): Promise<Making> {
    const made = await pool.make(task);
    // May be otherwise the next time: nothing to be remembered.
    if (made === 'no-old') return made;
    this.made[made.outcome] += 1;
    await this.#state.addSegment(key, made, this.#now());
    return made;
  }
}

function bytesOf(task: SegmentTask): number {
  const nars = task.kind === 'patch' ? [task.nar] : task.nars;
  return narBytesOf(nars);
}
