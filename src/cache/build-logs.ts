// Logs of what this box built → blobs, for `nix log` through the cache. Only where the local Nix kept one,
// only once, and never a reason for a build to fail: a log is nice to have.
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { isFleetError } from '../errors.ts';
import { readBuildLog } from '../nix/read-log.ts';
import { baseNameOf, type StorePath } from '../nix/storepath.ts';
import type { BlobId, BlobRef, Blobs } from '../storage/blobs.ts';
import type { State } from '../storage/state.ts';
import { compressedStream } from './compress.ts';
import type { IngestInfo } from './ingest.ts';
import { isOnDisk } from './nar-intake.ts';

/** As Nix keeps them, mostly bzip2: these unpack to a few MiB. */
const MAX_FILE = 1024 * 1024;

type Stores = {
  readonly state: Pick<State, 'buildLog' | 'addBuildLog'>;
  readonly blobs: Blobs;
};

export async function storeBuildLogs(
  infos: readonly IngestInfo[],
  options: Stores & { readonly level: number },
): Promise<void> {
  const derivers = new Set(infos.flatMap(({ deriver }) => (deriver === null ? [] : [deriver])));
  for (const drv of derivers) {
    if (!(await hasLog(drv))) continue;
    const known = await options.state.buildLog(drv);
    if (known !== null && (await options.blobs.size(known.id)) === known.size) continue;
    try {
      const text = await readBuildLog(drv);
      const blob = await options.blobs.put(compressedStream(once(text), options.level));
      await addLog(drv, blob, options, Math.floor(Date.now() / 1000));
    } catch (error) {
      if (!isFleetError(error, 'E_NIX_FAILED', 'E_NIX_OUTPUT')) throw error;
    }
  }
}

/**
 * Notes the log of a derivation. The first one stays; where its bytes are lost, these take their place.
 * Returns whether the bytes of one are there: a collection may have taken these before they had a name.
 */
export async function addLog(
  drv: StorePath,
  blob: BlobRef,
  { state, blobs }: Stores,
  now: number,
): Promise<boolean> {
  const lost = async (): Promise<BlobId | null> => {
    const log = await state.buildLog(drv);
    if (log === null) return blob.id;
    return (await isOnDisk({ blob: log.id, blobSize: log.size }, blobs)) ? null : log.id;
  };
  await state.addBuildLog(drv, blob, null, now);
  const first = await lost();
  if (first === null) return true;
  await state.addBuildLog(drv, blob, first, now);
  return (await lost()) === null;
}

/** Whether the local Nix has it (libstore/local-fs-store.cc): asking Nix takes a process each. */
async function hasLog(drv: StorePath): Promise<boolean> {
  const name = baseNameOf(drv);
  const dir = process.env['NIX_LOG_DIR'] ?? '/nix/var/log/nix';
  const file = join(dir, 'drvs', name.slice(0, 2), name.slice(2));
  for (const candidate of [`${file}.bz2`, file]) {
    const found = await stat(candidate).catch(() => null);
    if (found !== null && found.size > 0) return found.size <= MAX_FILE;
  }
  return false;
}

async function* once(text: string): AsyncGenerator<Uint8Array> {
  yield Buffer.from(text);
}
