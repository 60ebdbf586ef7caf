// Store paths → batches that fit on a command line. A closure of 5,000 paths is 400 KB of arguments;
// Linux allows a quarter of the stack's limit for them and the environment together (execve(2)).
import type { StorePath } from './storepath.ts';

const MAX_BYTES = 128 * 1024;

/** Splits `paths`, keeping their order; no empty batch. */
export function* batchesOf(paths: Iterable<StorePath>): Generator<StorePath[]> {
  let batch: StorePath[] = [];
  let bytes = 0;
  for (const path of paths) {
    // A string and its pointer.
    const size = path.length + 1 + 8;
    if (batch.length > 0 && bytes + size > MAX_BYTES) {
      yield batch;
      batch = [];
      bytes = 0;
    }
    batch.push(path);
    bytes += size;
  }
  if (batch.length > 0) yield batch;
}
