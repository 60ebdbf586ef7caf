// Sizes of files that were looked up a moment ago, for as long as nothing happens in their directories
// (inotify), and for a second at most: a narinfo may be asked for 80,000 times in one, and a stat each
// time would take a fifth of what serving it takes. Where directories cannot be watched, nothing is kept.
import { type FSWatcher, watch } from 'node:fs';
import type { BlobId } from './blobs.ts';

const LASTS_MS = 1_000;
const MAX_KNOWN = 50_000;

type Known = { readonly size: number; readonly at: number };

export class SizeCache {
  readonly #directories: readonly (readonly [shard: string, path: string])[];
  readonly #known = new Map<string, Known>();
  #watchers: FSWatcher[] | null = null;
  #broken = false;

  constructor(directories: readonly (readonly [shard: string, path: string])[]) {
    this.#directories = directories;
  }

  get(id: BlobId): number | undefined {
    const known = this.#known.get(id);
    return known !== undefined && performance.now() - known.at < LASTS_MS ? known.size : undefined;
  }

  set(id: BlobId, size: number): void {
    if (this.#watchers === null) this.#watch();
    if (this.#broken) return;
    if (this.#known.size >= MAX_KNOWN) this.#known.clear();
    this.#known.set(id, { size, at: performance.now() });
  }

  forget(id: BlobId): void {
    this.#known.delete(id);
  }

  #watch(): void {
    this.#watchers = [];
    try {
      for (const [shard, path] of this.#directories) {
        const watcher = watch(path, { persistent: false }, (_event, name) => {
          if (name === null) this.#known.clear();
          else this.#known.delete(shard + name);
        });
        watcher.on('error', () => this.#giveUp());
        this.#watchers.push(watcher);
      }
    } catch {
      this.#giveUp();
    }
  }

  #giveUp(): void {
    this.#broken = true;
    this.#known.clear();
    for (const watcher of this.#watchers ?? []) watcher.close();
  }
}
