// The missing paths of one verified closure → narinfos and NARs for Nix, each from an update pack or from the server. A path
// whose part of the pack does not fit (an old file that is missing or damaged, a wrong digest, a pack that came to an end) comes
// from the server in its place: in the same answer, as long as Nix got nothing of it; else the answer breaks off, and
// fetch-missing.ts has Nix ask again.
import type { PackedPath } from '../delta/pack-index.ts';
import type { PathInfo } from '../nix/closure.ts';
import type { NarInfo } from '../nix/narinfo.ts';
import type { NixPublicKey } from '../nix/signature.ts';
import { hashPartOf, type StorePath } from '../nix/storepath.ts';
import { fetchNarInfos } from './cached.ts';
import { ServerNars } from './server-nars.ts';
import type { Source } from './source.ts';

/** What of a pack is used. */
export type Packed = {
  readonly paths: ReadonlyMap<StorePath, PackedPath>;
  /** A chunk is valid until the next is asked for. */
  readonly nar: (path: PackedPath) => AsyncGenerator<Uint8Array, void, undefined>;
};

/** Whoever is told what Nix was given; the same path may be given again. */
export type Onlooker = {
  /** `bytes` of a NAR so far. */
  readonly given: (path: StorePath, bytes: number) => void;
  /** All of it. */
  readonly served: (path: StorePath, narSize: number, how: 'pack' | 'nar') => void;
};

const NOBODY: Onlooker = { given: () => {}, served: () => {} };

/** Nix got something that turned out to be wrong, and has to ask again. */
export class GivenUp extends Error {
  override name = 'GivenUp';
}

/** NARs up to this size are whole before Nix gets anything of them, if they come of a pack. */
const HELD_BYTES = 1024 * 1024;

export class Supply {
  /** By hash part, all that is wanted. Those of a pack say no URL. */
  readonly infos: ReadonlyMap<string, NarInfo>;
  /** Paths that the pack did not fit for, when it came to that. */
  readonly fellBack = new Set<StorePath>();
  readonly #source: Source;
  readonly #keys: readonly NixPublicKey[];
  readonly #nars: ServerNars;
  readonly #packed: Packed | null;
  readonly #onlooker: Onlooker;

  private constructor(
    infos: ReadonlyMap<string, NarInfo>,
    source: Source,
    keys: readonly NixPublicKey[],
    packed: Packed | null,
    onlooker: Onlooker,
  ) {
    this.infos = infos;
    this.#source = source;
    this.#keys = keys;
    this.#nars = new ServerNars(source);
    this.#packed = packed;
    this.#onlooker = onlooker;
  }

  /** Asks for narinfos of what the pack does not have. Throws as fetchNarInfos does. */
  static async open(
    source: Source,
    wanted: readonly PathInfo[],
    keys: readonly NixPublicKey[],
    packed: Packed | null = null,
    onlooker = NOBODY,
  ): Promise<Supply> {
    const others = wanted.filter(({ path }) => packed?.paths.has(path) !== true);
    const infos = new Map(await fetchNarInfos(source, others, keys));
    for (const { path } of wanted) {
      const given = packed?.paths.get(path);
      if (given !== undefined) infos.set(hashPartOf(path), narInfoOf(given));
    }
    return new Supply(infos, source, keys, packed, onlooker);
  }

  /** Bytes of NARs that came from the server. */
  get received(): number {
    return this.#nars.received;
  }

  /** @throws GivenUp; FleetError as ServerNars and fetchNarInfos throw them */
  async *nar(info: NarInfo, signal: AbortSignal): AsyncGenerator<Uint8Array, void, undefined> {
    let bytes = 0;
    for await (const chunk of this.#nar(info, signal)) {
      bytes += chunk.length;
      this.#onlooker.given(info.path, bytes);
      yield chunk;
    }
  }

  async *#nar(info: NarInfo, signal: AbortSignal): AsyncGenerator<Uint8Array, void, undefined> {
    const given = this.#packed?.paths.get(info.path);
    if (given === undefined) return yield* this.#fromServer(info, signal);
    if (!this.fellBack.has(info.path) && (yield* this.#fromPack(given, signal))) return;
    const found = await fetchNarInfos(this.#source, [given.info], this.#keys);
    for (const one of found.values()) yield* this.#fromServer(one, signal);
  }

  async *#fromServer(
    info: NarInfo,
    signal: AbortSignal,
  ): AsyncGenerator<Uint8Array, void, undefined> {
    yield* this.#nars.nar(info, signal);
    this.#onlooker.served(info.path, info.narSize, 'nar');
  }

  /** False: it does not fit, and nobody got anything of it. */
  async *#fromPack(
    given: PackedPath,
    signal: AbortSignal,
  ): AsyncGenerator<Uint8Array, boolean, undefined> {
    const { path, narSize } = given.info;
    const held: Uint8Array[] = [];
    let isGiven = false;
    try {
      for await (const chunk of this.#packed?.nar(given) ?? []) {
        if (narSize <= HELD_BYTES) {
          held.push(Uint8Array.from(chunk));
          continue;
        }
        isGiven = true;
        yield chunk;
      }
    } catch (error) {
      signal.throwIfAborted();
      this.fellBack.add(path);
      if (isGiven) throw new GivenUp(path, { cause: error });
      return false;
    }
    yield* held;
    this.#onlooker.served(path, narSize, 'pack');
    return true;
  }
}

function narInfoOf({ info, sigs }: PackedPath): NarInfo {
  const { path, narHash, narSize, references } = info;
  const nothing = { url: '', compression: 'none', fileHash: null, fileSize: null } as const;
  return { path, narHash, narSize, references, ...nothing, deriver: null, sigs, ca: null };
}
