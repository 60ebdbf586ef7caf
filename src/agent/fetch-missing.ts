// What is missing of a verified closure → added by the host's own Nix, from our substituter alone. It comes from an update pack as
// far as that fits, and as NARs for the rest: Nix is asked once more where it had begun to take something that did not, and at last
// without the pack, so that nothing about a pack can keep an update away.
import { join } from 'node:path';
import { FleetError, isFleetError } from '../errors.ts';
import type { Closure, PathInfo } from '../nix/closure.ts';
import { invalidPaths } from '../nix/query.ts';
import { addRoot, realisePaths, repairPath } from '../nix/realise.ts';
import { formatNixPublicKey, type NixPublicKey } from '../nix/signature.ts';
import type { StorePath } from '../nix/storepath.ts';
import { openPack, type UsePack } from './open-pack.ts';
import { removePack } from './pack-store.ts';
import type { Place } from './place.ts';
import { Progress, type Telling } from './progress.ts';
import type { Source } from './source.ts';
import { Substituter } from './substituter.ts';
import { type Packed, Supply } from './supply.ts';

export type FetchOptions = {
  readonly source: Source;
  readonly place: Place;
  readonly closure: Closure;
  /** The root's Nix cache keys. */
  readonly keys: readonly NixPublicKey[];
  /** Directory of the agent's garbage collector roots. */
  readonly roots: string;
  /** Whether paths in use may be replaced. */
  readonly repair: boolean;
  /** null: without update packs. */
  readonly packs: UsePack | null;
  /** Command line that Nix is started by (nice …); empty: as it is. */
  readonly through: readonly string[];
  /** The agent's state directory, where it says how far it is. */
  readonly state: string;
  /** Who else is told of that; null: nobody. */
  readonly tell: Telling | null;
};

export type Fetched = {
  /** Paths that were added or replaced. */
  readonly paths: number;
  /** Bytes that came over the line for them. */
  readonly bytes: number;
  /** How many of these were of an update pack. */
  readonly packed: { readonly paths: number; readonly bytes: number };
  /** Paths that were to come of a pack, and came as NARs; all of them where a pack was asked for and could not be used. */
  readonly fellBack: number;
};

/** Makes `wanted` valid, of which those in `replace` are there with other contents. */
export async function fetchMissing(
  options: FetchOptions,
  wanted: readonly PathInfo[],
  replace: readonly PathInfo[],
): Promise<Fetched> {
  const { place, closure, packs, roots, state, tell } = options;
  const { toplevel } = closure;
  if (wanted.length === 0) {
    await addRoot(toplevel, join(roots, 'next'), place.nix);
    if (packs !== null) await removePack(packs.dir);
    return { paths: 0, bytes: 0, packed: { paths: 0, bytes: 0 }, fellBack: 0 };
  }
  await using pack = await openPack(options, wanted);
  await using progress = new Progress({ dir: state, toplevel, tell }, wanted, pack.line);
  const rounds = new Rounds(options, replace, pack.packed, progress);
  await rounds.run(wanted);
  if (packs !== null) await removePack(packs.dir);
  const { received, byPack } = rounds;
  const planned = pack.packed?.paths.size ?? (pack.isUnusable ? wanted.length : 0);
  return {
    paths: wanted.length,
    bytes: received + pack.received,
    packed: { paths: byPack.size, bytes: pack.received },
    fellBack: planned - byPack.size,
  };
}

/** So often Nix is asked again with what is left of a pack. */
const MAX_AGAIN = 4;

class Rounds {
  /** Bytes of NARs from the server. */
  received = 0;
  readonly byPack = new Set<StorePath>();
  /** Paths that the pack was found not to fit for. */
  readonly #unfit = new Set<StorePath>();
  #again = 0;
  readonly #options: FetchOptions;
  readonly #replace: readonly PathInfo[];
  readonly #progress: Progress;
  #packed: Packed | null;

  constructor(
    options: FetchOptions,
    replace: readonly PathInfo[],
    packed: Packed | null,
    progress: Progress,
  ) {
    this.#progress = progress;
    this.#options = options;
    this.#replace = replace;
    this.#packed = packed;
  }

  async run(wanted: readonly PathInfo[]): Promise<void> {
    for (let todo = wanted; ; todo = await this.#missingOf(wanted)) {
      const before = this.#unfit.size;
      try {
        await this.#once(todo);
        return;
      } catch (error) {
        if (this.#packed === null || isFleetError(error, 'E_DISK_FULL')) throw error;
        // With the rest of it; but where nothing new is known to be amiss with it, or again and again, without.
        const isNews = this.#unfit.size > before && ++this.#again < MAX_AGAIN;
        this.#packed = isNews ? this.#rest(this.#packed) : null;
      }
    }
  }

  async #once(todo: readonly PathInfo[]): Promise<void> {
    const { source, place, closure, keys, roots, through } = this.#options;
    const supply = await Supply.open(source, todo, keys, this.#packed, {
      given: (path, bytes) => this.#progress.given(path, bytes),
      served: (path, narSize, how) => {
        // Nix may have had to begin again with it.
        if (how === 'pack') this.byPack.add(path);
        else this.byPack.delete(path);
        this.#progress.served(path, narSize);
      },
    });
    await using substituter = await Substituter.open(supply);
    const settings = nixSettings(substituter.url, keys);
    const { signal } = substituter;
    try {
      const given = { ...place.nix, settings, signal, through };
      await realisePaths([closure.toplevel], { ...given, addRoot: join(roots, 'next') });
      for (const { path } of this.#replace) await repairPath(path, given);
    } catch (error) {
      throw substituter.failure ?? nixFailure(closure.toplevel, substituter.url, error);
    } finally {
      this.received += supply.received;
      for (const path of supply.fellBack) this.#unfit.add(path);
    }
  }

  #rest({ paths, nar }: Packed): Packed {
    return { nar, paths: new Map([...paths].filter(([path]) => !this.#unfit.has(path))) };
  }

  async #missingOf(wanted: readonly PathInfo[]): Promise<PathInfo[]> {
    const { nix } = this.#options.place;
    const paths = wanted.map(({ path }) => path);
    const missing = new Set(await invalidPaths(paths, { ...nix, isolated: true }));
    const replaced = new Set(this.#replace.map(({ path }) => path));
    return wanted.filter(({ path }) => missing.has(path) || replaced.has(path));
  }
}

// What counts is said here and in nix/realise.ts (nothing is built, all is signed), so that nothing the machine is configured to
// do lets anything else in.
function nixSettings(url: string, keys: readonly NixPublicKey[]): Map<string, string> {
  return new Map([
    ['substituters', url],
    ['trusted-public-keys', keys.map(formatNixPublicKey).join(' ')],
    // The server’s has a least rate of its own; a NAR that waits for its turn is not stalled.
    ['stalled-download-timeout', '86400'],
    ['netrc-file', '/dev/null'],
  ]);
}

/** What Nix said, without the substituter's secret address. */
function nixFailure(toplevel: StorePath, url: string, error: unknown): unknown {
  if (!isFleetError(error, 'E_NIX_FAILED')) return error;
  const details = error.details.map((line) => line.replaceAll(url, 'the agent'));
  const unsigned = details.find((line) => /not signed by|lacks a .*signature/.test(line));
  return unsigned === undefined
    ? new FleetError('E_FETCH', `${toplevel} could not be fetched: ${error.message}`, { details })
    : new FleetError('E_NARINFO_UNSIGNED', unsigned.replace(/^\w+: /, ''), { details });
}
