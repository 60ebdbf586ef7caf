// Hash part → the finished narinfo, from memory while nothing changed. Signing one takes 28 µs, looking
// its row up 4; so texts are kept (least recently used first out, bounded in bytes) and believed only
// while the state's version is the one they were compared with. Whether the NAR's bytes are there is
// asked of the disk every time: an index row without its bytes must not make a client skip another
// substituter. What is missing is never remembered.
import type { NixSecretKey } from '../nix/signature.ts';
import { hashPartOf } from '../nix/storepath.ts';
import type { Blobs } from '../storage/blobs.ts';
import type { CachedPath, StateReads } from '../storage/state.ts';
import { narInfoFor } from './narinfo-view.ts';
import type { TurnVersion } from './turn-version.ts';

// Text and not bytes: Node sends head and body in one write when both are strings, in half the time.
type Entry = { row: CachedPath; text: string; version: number; keys: Keys };
type Keys = readonly NixSecretKey[];

/** Besides its text an entry holds a row; both together are rarely more than twice the text. */
const BUDGET = 32 * 1024 * 1024;

export class NarInfoCache {
  readonly #state: StateReads;
  readonly #blobs: Blobs;
  readonly #keys: () => Keys;
  readonly #version: TurnVersion;
  readonly #entries = new Map<string, Entry>();
  #bytes = 0;

  constructor(state: StateReads, blobs: Blobs, keys: () => Keys, version: TurnVersion) {
    this.#state = state;
    this.#blobs = blobs;
    this.#keys = keys;
    this.#version = version;
  }

  /** The narinfo's text, where memory knows all that is to be asked, as of `version`; else null. */
  at(hashPart: string, version: number): string | null {
    const known = this.#entries.get(hashPart);
    if (!this.#holds(known, version)) return null;
    const { blob, blobSize } = known.row;
    return blob === null || this.#blobs.knownSize(blob) === blobSize ? known.text : null;
  }

  /** The narinfo's text, or null when the path cannot be had. */
  async get(hashPart: string): Promise<string | null> {
    const version = await this.#version.read();
    const known = this.#entries.get(hashPart);
    if (this.#holds(known, version)) return (await this.#isThere(known.row)) ? known.text : null;
    const row = await this.#state.cachedPath(hashPart);
    if (row === null) return null;
    return (await this.#isThere(row)) ? this.#textOf(row, version) : null;
  }

  /** The narinfos of many paths, by hash part; those that cannot be had are left out. */
  async getMany(hashParts: readonly string[]): Promise<Map<string, string>> {
    const version = await this.#version.read();
    const found = new Map<string, string>();
    const unsure: string[] = [];
    for (const hashPart of hashParts) {
      const known = this.#entries.get(hashPart);
      if (!this.#holds(known, version)) unsure.push(hashPart);
      else if (await this.#isThere(known.row)) found.set(hashPart, known.text);
    }
    for (const row of await this.#state.cachedPathsByHash(unsure)) {
      if (await this.#isThere(row)) found.set(hashPartOf(row.path), this.#textOf(row, version));
    }
    return found;
  }

  /** The keys that narinfos are signed with now. */
  get keys(): Keys {
    return this.#keys();
  }

  #holds(entry: Entry | undefined, version: number): entry is Entry {
    return entry !== undefined && entry.version === version && entry.keys === this.#keys();
  }

  async #isThere(row: CachedPath): Promise<boolean> {
    return row.blob === null || (await this.#blobs.size(row.blob)) === row.blobSize;
  }

  #textOf(row: CachedPath, version: number): string {
    const hashPart = hashPartOf(row.path);
    const known = this.#entries.get(hashPart);
    if (known !== undefined) {
      // Moved to the end of the line: it is in use.
      this.#entries.delete(hashPart);
      this.#bytes -= known.text.length;
    }
    const keys = this.#keys();
    const isKnown = known?.keys === keys && isSame(known.row, row);
    const text = isKnown ? known.text : narInfoFor(row, keys);
    this.#entries.set(hashPart, { row, text, version, keys });
    this.#bytes += text.length;
    for (const [oldest, { text: old }] of this.#entries) {
      if (this.#bytes <= BUDGET) break;
      this.#entries.delete(oldest);
      this.#bytes -= old.length;
    }
    return text;
  }
}

/** Whether both say the same in a narinfo. */
function isSame(a: CachedPath, b: CachedPath): boolean {
  return (
    a.path === b.path &&
    a.narHash === b.narHash &&
    a.blob === b.blob &&
    a.blobSize === b.blobSize &&
    a.deriver === b.deriver &&
    a.ca === b.ca &&
    a.compression === b.compression &&
    a.upstream?.url === b.upstream?.url &&
    a.upstream?.fileHash === b.upstream?.fileHash &&
    a.references.join() === b.references.join() &&
    a.sigs.join() === b.sigs.join()
  );
}
