// Steps whose packs are to be made, one after another: those of a publication, and those that hosts ask for. Whoever asks has
// a line of their own and the lines take turns, so that nobody waits for what another asked much of; each step is there once.
import type { PackStep } from '../storage/packs.ts';

/** Of one who asks: a host takes one step, and perhaps another while it is at it. */
const MOST_EACH = 4;
/** Of all who ask together. Steps of publications are as many as hosts make. */
const MOST_ASKED = 256;

/** What tells a step from others. */
export function stepKey({ closure, base }: PackStep): string {
  return `${closure} ${base ?? ''}`;
}

export class PackQueue {
  /** Who (null: publications) → steps by key, in the order in which they came; who is first has the next turn. */
  readonly #lines = new Map<string | null, Map<string, PackStep>>();

  get size(): number {
    return [...this.#lines.values()].reduce((sum, line) => sum + line.size, 0);
  }

  has(step: PackStep): boolean {
    const key = stepKey(step);
    return [...this.#lines.values()].some((line) => line.has(key));
  }

  /** False: there is no room. What somebody asks for that a publication needs as well comes in their turn. */
  add(step: PackStep, who: string | null): boolean {
    const key = stepKey(step);
    const published = this.#lines.get(null);
    const isPublished = published?.has(key) === true;
    if (who === null || !isPublished) {
      if (this.has(step)) return true;
    }
    const line = this.#lines.get(who) ?? new Map<string, PackStep>();
    if (who !== null && (line.size >= MOST_EACH || this.#asked() >= MOST_ASKED)) return isPublished;
    if (who !== null) this.#drop(null, key);
    line.set(key, step);
    this.#lines.set(who, line);
    return true;
  }

  next(): PackStep | null {
    for (const [who, line] of this.#lines) {
      this.#lines.delete(who);
      for (const [key, step] of line) {
        line.delete(key);
        // To the end of the turns.
        if (line.size > 0) this.#lines.set(who, line);
        return step;
      }
    }
    return null;
  }

  #asked(): number {
    return this.size - (this.#lines.get(null)?.size ?? 0);
  }

  #drop(who: string | null, key: string): void {
    const line = this.#lines.get(who);
    line?.delete(key);
    if (line?.size === 0) this.#lines.delete(who);
  }
}
