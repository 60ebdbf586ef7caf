// A manifest may be published only after this: every byte of its closure can be served, now, whatever ran
// before and whenever it died. (`State.commitLog` makes sure that none of it went in between, from
// what `dropped` says.) For one publication:
// hosts of one fleet have most paths in common, so a line of a closure file that was found true for one host
// is not looked up for the next.
import { createHash } from 'node:crypto';
import { FleetError } from '../errors.ts';
import { parseStorePath } from '../nix/storepath.ts';
import type { BlobRef, Blobs } from '../storage/blobs.ts';
import type { State } from '../storage/state.ts';

/** Lines that are remembered, of some 300 bytes each: those of a system's closure come to a few thousand. */
const MOST_LINES = 50_000;

export class Servable {
  readonly #state: Pick<State, 'cachedPaths' | 'droppedPaths'>;
  readonly #blobs: Blobs;
  readonly #served = new Set<string>();
  #dropped: Promise<number> | null = null;

  constructor({
    state,
    blobs,
  }: { readonly state: Pick<State, 'cachedPaths' | 'droppedPaths'>; readonly blobs: Blobs }) {
    this.#state = state;
    this.#blobs = blobs;
  }

  /**
   * `closure`: the name and size of the host's closure file, as `storeClosure` stored it: its name says that its
   * form was checked then. @throws FleetError E_CACHE_INCOMPLETE naming what is missing.
   */
  async require(host: string, closure: BlobRef): Promise<void> {
    const lacks = (what: string): never => {
      throw new FleetError('E_CACHE_INCOMPLETE', `the cache lacks ${what}, which ${host} needs`);
    };
    this.#dropped ??= this.#state.droppedPaths();
    await this.#dropped;
    const bytes = (await this.#read(closure)) ?? lacks(`closure file ${closure.id}`);
    const news = new Map<string, { readonly line: string; readonly narHash: string }>();
    for (const line of bytes.toString('latin1').split('\n')) {
      if (line === '' || this.#served.has(line)) continue;
      const [, path = '', narHash = ''] = line.split(';');
      news.set(path, { line, narHash });
    }
    const rows = await this.#state.cachedPaths([...news.keys()].map(parseStorePath));
    const known = new Map(rows.map((row) => [row.path, row]));
    for (const [path, { line, narHash }] of news) {
      const row = known.get(parseStorePath(path));
      // What was left to an upstream was there when it was ingested; its bytes are not ours to check.
      const isServed =
        row?.narHash === narHash &&
        (row.blob === null || (await this.#blobs.size(row.blob)) === row.blobSize);
      if (!isServed) lacks(path);
      if (this.#served.size >= MOST_LINES) this.#served.clear();
      // A copy: the line itself would keep the whole file that it was cut from in memory.
      this.#served.add(Buffer.from(line, 'latin1').toString('latin1'));
    }
  }

  /** `State.droppedPaths` before the first look; null before there was one. */
  async dropped(): Promise<number | null> {
    return await this.#dropped;
  }

  async #read({ id, size }: BlobRef): Promise<Buffer | null> {
    await using reader = await this.#blobs.open(id);
    if (reader?.size !== size) return null;
    const bytes = Buffer.alloc(size);
    await reader.read(bytes, 0);
    return createHash('sha256').update(bytes).digest('hex') === id ? bytes : null;
  }
}
