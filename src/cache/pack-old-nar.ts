// An old NAR as it is stored → the same unpacked and checked, to be read at any place: in memory, or where it is large in a
// file that has no name any more, so that it goes with its thread.
import { closeSync, createReadStream, openSync, readSync, rmSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { narInMemory, type OldNar, outside } from '../delta/old-nar.ts';
import { decompress } from '../nix/decompress.ts';
import { checkNar } from '../nix/nar-check.ts';
import { temporaryName } from '../temporary-names.ts';
import type { NarFile } from './pack-tasks.ts';

/** NARs up to this many bytes are held in memory. */
const IN_MEMORY = 16 * 1024 * 1024;
/** Windows of zstd's levels 1 to 19 are at most 8 MiB. */
const WINDOW_LOG = 27;

/** The NAR's bytes. @throws FleetError E_NAR_… where they are not those; ENOENT */
export function unpackedNar(nar: NarFile): AsyncGenerator<Uint8Array> {
  const stored = createReadStream(nar.file, { highWaterMark: 256 * 1024 });
  return checkNar(decompress(stored, 'zstd', { windowLog: WINDOW_LOG }), nar);
}

/** @throws what unpackedNar throws; where it is large, what keeps a file in `scratch` from being written */
export async function openOldNar(
  nar: NarFile,
  scratch: string,
  inMemory = IN_MEMORY,
): Promise<OldNar & Disposable> {
  if (nar.narSize <= inMemory) {
    const bytes = Buffer.allocUnsafeSlow(nar.narSize);
    let at = 0;
    for await (const chunk of unpackedNar(nar)) {
      bytes.set(chunk, at);
      at += chunk.length;
    }
    return { ...narInMemory(bytes), [Symbol.dispose]: () => {} };
  }
  const file = join(scratch, temporaryName());
  const fd = openSync(file, 'wx+', 0o600);
  try {
    rmSync(file);
    for await (const chunk of unpackedNar(nar)) {
      for (let at = 0; at < chunk.length; ) at += writeSync(fd, chunk, at);
    }
  } catch (error) {
    closeSync(fd);
    throw error;
  }
  return {
    size: nar.narSize,
    read: (offset, target) => {
      if (offset + target.length > nar.narSize) throw outside(offset, target.length, nar.narSize);
      for (let at = 0; at < target.length; ) {
        const got = readSync(fd, target, at, target.length - at, offset + at);
        if (got === 0) throw outside(offset, target.length, nar.narSize);
        at += got;
      }
    },
    [Symbol.dispose]: () => closeSync(fd),
  };
}
