// An open file → reads at any place, into the caller's buffers.
import { closeSync, fstatSync, openSync, read, readSync } from 'node:fs';
import type { BlobReader } from './blobs.ts';

const READ_AT_ONCE = 256 * 1024;

/** Opens and reads a little in this thread: that costs microseconds, and the thread pool ten times more. */
export function openBlobReader(file: string): BlobReader {
  const fd = openSync(file, 'r');
  try {
    const found = fstatSync(fd);
    return {
      size: found.isFile() ? found.size : 0,
      read: async (target, position) => {
        let filled = 0;
        while (filled < target.length) {
          const rest = target.subarray(filled);
          const got =
            rest.length <= READ_AT_ONCE
              ? readSync(fd, rest, 0, rest.length, position + filled)
              : await readAside(fd, rest, position + filled);
          if (got === 0) break;
          filled += got;
        }
        return filled;
      },
      [Symbol.asyncDispose]: async () => closeSync(fd),
    };
  } catch (error) {
    closeSync(fd);
    throw error;
  }
}

function readAside(fd: number, target: Uint8Array, position: number): Promise<number> {
  return new Promise((resolve, reject) => {
    read(fd, target, 0, target.length, position, (error, got) => {
      if (error === null) resolve(got);
      else reject(error);
    });
  });
}
