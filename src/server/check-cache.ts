// Verification of a whole state's cache (cache/verify.ts): paths, closure files of manifests and staged
// things that have a hash for a name. What is wrong is quarantined; a path is stored anew from the local
// Nix store where that holds the same bytes and references. One that is not goes unserved (404), and the
// next `fleet build` that has it stores it.
import { ingestClosure } from '../cache/ingest.ts';
import { type Fault, faultIn, faultOf, isNamed, isWhole, verifyCache } from '../cache/verify.ts';
import { isFleetError } from '../errors.ts';
import { queryPathInfos } from '../nix/query.ts';
import type { BlobId } from '../storage/blobs.ts';
import type { StateDir } from './statedir.ts';

export type CacheReport = {
  readonly checked: number;
  /** Closure files of manifests. */
  readonly files: number;
  readonly faults: readonly {
    readonly name: string;
    readonly what: string;
    readonly healed: boolean;
  }[];
};

type Options = {
  /** Of the paths, 0 to 1. Closure files are few, and all are checked. */
  readonly part: number;
  readonly signal?: AbortSignal;
  readonly onChecked?: (checked: number) => void;
};

export async function checkCache(dir: StateDir, options: Options): Promise<CacheReport> {
  const { state, blobs } = dir;
  const faults: CacheReport['faults'][number][] = [];
  const checked = await verifyCache({ state, blobs, ...options }, async (fault) => {
    const { row, what } = fault;
    faults.push({ name: row.path, what, healed: await heal(dir, fault) });
  });
  const closures = new Map<BlobId, string>();
  for (const { record } of await state.status()) {
    for (const { closure, epoch, sequence } of await state.manifestHistory(record.host)) {
      if (closure === null) continue;
      closures.set(closure, `closure of manifest ${epoch}.${sequence} of ${record.host}`);
    }
  }
  for (const [closure, name] of closures) {
    options.signal?.throwIfAborted();
    if (await isWhole(closure, blobs)) continue;
    await blobs.quarantine(closure, (bytes) => isNamed(closure, bytes));
    // A build may have stored it anew since.
    if (await isWhole(closure, blobs)) continue;
    faults.push({ name, what: 'its file is not there, or not what its name says', healed: false });
  }
  return { checked, files: closures.size, faults };
}

/** Takes it out of service, unless it is fine by now, and stores it anew; returns whether it is whole again. */
async function heal(dir: StateDir, { row, where }: Fault): Promise<boolean> {
  const { state, blobs } = dir;
  if (row.blob !== null && where === 'references') await blobs.quarantine(row.blob);
  if (row.blob !== null && where === 'bytes') {
    await blobs.quarantine(row.blob, async (bytes) => (await faultIn(bytes, row)) === null);
    if ((await faultOf(row, blobs)) === null) return true;
  }
  try {
    const [info] = await queryPathInfos([row.path]);
    const isSame =
      info?.narHash === row.narHash && info.references.join() === row.references.join();
    if (!isSame) return false;
    // Gone meanwhile: nothing is left to heal, and storing it could refer to what has gone with it.
    const now = Math.floor(Date.now() / 1000);
    if ((await state.touchPaths([row.path], now)) === 0) return true;
    const missing = (await state.cachedPaths(row.references)).length < row.references.length;
    if (missing) return false;
    await ingestClosure([info], { state, blobs, level: dir.config.zstdLevel });
    return true;
  } catch (error) {
    // No Nix here, or its store is damaged as well.
    if (isFleetError(error)) return false;
    throw error;
  }
}
