// What is missing here → an update pack that gives it, as far as it is worth asking for one, there is one, and it is of use; all
// that keeps it from that is no reason to refuse an update, and is counted.
import { isFleetError } from '../errors.ts';
import { narBytesOf, type PathInfo } from '../nix/closure.ts';
import { invalidPaths, queryClosure } from '../nix/query.ts';
import type { StorePath } from '../nix/storepath.ts';
import type { Base } from './bases.ts';
import type { FetchOptions } from './fetch-missing.ts';
import { PackFile, type PackOptions } from './pack-file.ts';
import { MAX_SPOOLS, PackNars } from './pack-nars.ts';
import { type PackPlan, planPack } from './pack-plan.ts';
import { removePack } from './pack-store.ts';
import { hasRoomFor } from './preflight.ts';
import type { Count } from './progress.ts';
import type { Packed } from './supply.ts';

/** How packs are used on this host. */
export type UsePack = {
  /** The agent's directory for them. */
  readonly dir: string;
  /** Digest of the closure that is fetched. */
  readonly closure: string;
  /** The one that the host has; null: none, or it does not say. */
  readonly base: Base | null;
  readonly waitSeconds: number;
  /** Bytes that applying may take. */
  readonly memory: number;
};

export type OpenPack = AsyncDisposable & {
  /** null: nothing comes of it. */
  readonly packed: Packed | null;
  /** Whether one was asked for, and is not used. */
  readonly isUnusable: boolean;
  /** Bytes of it that came. */
  readonly received: number;
  /** How much of what was lacking of it when it was opened came; null: there is none. */
  readonly line: (() => Count) | null;
};

/** A path by itself costs two round trips, and a pack one: it has to be small to be asked for alone. */
const SMALL_BYTES = 1024 * 1024;

/** Opens the pack for `wanted`, and begins to fetch it. Throws nothing that is about the pack. */
export async function openPack(
  options: FetchOptions,
  wanted: readonly PathInfo[],
): Promise<OpenPack> {
  const { source, packs } = options;
  const isWorth = wanted.length > 1 || narBytesOf(wanted) >= SMALL_BYTES;
  if (packs === null || source.part === null || !isWorth) return nothing(false);
  let file: PackFile | null = null;
  let isUsable = false;
  try {
    file = await PackFile.open(optionsOf(options, packs, source.part.bind(source), wanted));
    isUsable = file !== null && file.plan.paths.size > 0 && (await hasRoom(file, options, wanted));
  } catch (error) {
    // Not of this program's making, or nothing that was foreseen.
    if (!isFleetError(error) && !(error instanceof Error && 'code' in error)) throw error;
  }
  if (file === null || !isUsable) {
    await file?.[Symbol.asyncDispose]();
    await removePack(packs.dir);
    return nothing(true, file?.received);
  }
  file.start();
  return new Opened(file, new PackNars(file, options.place, packs.dir, packs.memory));
}

class Opened implements OpenPack {
  readonly isUnusable = false;
  readonly packed: Packed;
  readonly #file: PackFile;
  readonly #nars: PackNars;
  readonly line: () => Count;

  constructor(file: PackFile, nars: PackNars) {
    const total = file.lacking;
    this.line = () => ({ done: total - file.lacking, total });
    this.#file = file;
    this.#nars = nars;
    this.packed = { paths: file.plan.paths, nar: (path) => nars.nar(path) };
  }

  get received(): number {
    return this.#file.received;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#nars[Symbol.dispose]();
    await this.#file[Symbol.asyncDispose]();
  }
}

function nothing(isUnusable: boolean, received = 0): OpenPack {
  return { packed: null, isUnusable, received, line: null, [Symbol.asyncDispose]: async () => {} };
}

function optionsOf(
  { place, closure, keys }: FetchOptions,
  packs: UsePack,
  part: PackOptions['part'],
  wanted: readonly PathInfo[],
): PackOptions {
  const limits = {
    memory: packs.memory,
    signers: new Set(keys.map(({ name }) => name)),
    notOfBase: (paths: readonly StorePath[]) => notOfBase(packs.base, place, paths),
  };
  return {
    ...{ ...packs, base: packs.base?.closure ?? null, part, paths: closure },
    plan: (index) => planPack(index, wanted, limits),
  };
}

/**
 * Those that are not of the system that the server was told of. Whatever else is valid here is nobody's business: what an agent
 * fetches in place of a patch tells whether the old path was here, and whether it was as the patch took it to be.
 */
async function notOfBase(
  base: Base | null,
  { nix }: FetchOptions['place'],
  paths: readonly StorePath[],
): Promise<readonly StorePath[]> {
  const options = { ...nix, isolated: true };
  if (base === null || (await invalidPaths([base.toplevel], options)).length > 0) return paths;
  const known = new Set(await queryClosure([base.toplevel], options));
  return paths.filter((path) => !known.has(path));
}

/** For the pack, and for what is unpacked and waits, beside the paths themselves. */
async function hasRoom(
  file: PackFile,
  { place, packs }: FetchOptions,
  wanted: readonly PathInfo[],
): Promise<boolean> {
  if (packs === null) return false;
  const extra = (await file.toCome()) + spoolBytes(file.plan);
  return await hasRoomFor(place, wanted, packs.dir, extra);
}

/** What the largest groups that may wait at a time have of NARs. */
function spoolBytes({ paths }: PackPlan): number {
  const whole = [...paths.values()].filter((one) => one.kind === 'whole');
  const groups = [...Map.groupBy(whole, ({ segment }) => segment).values()]
    .filter((group) => group.length > 1)
    .map((group) => narBytesOf(group.map(({ info }) => info)));
  return groups
    .sort((a, b) => b - a)
    .slice(0, MAX_SPOOLS)
    .reduce((sum, bytes) => sum + bytes, 0);
}
