// An update pack (SPEC §12) → a file that has those of its segments that are wanted, while they arrive. One request streams
// through as long as what is not wanted is short; after a broken line, a crash or a power cut it goes on by range with what is
// there. Never writes beyond what the index says. What is refused (another digest, another ETag, no more patience) is refused for
// the segments that it leaves lacking, and whoever waits for them is told.
import { type PackIndex, parsePackIndex } from '../delta/pack-index.ts';
import { FleetError } from '../errors.ts';
import type { Closure } from '../nix/closure.ts';
import { PackAsker } from './pack-ask.ts';
import { readPackHead } from './pack-head.ts';
import type { PackPlan } from './pack-plan.ts';
import { Segments, type WantedSegment } from './pack-segments.ts';
import { type PackName, PackStore } from './pack-store.ts';
import type { Part, Source } from './source.ts';

export type PackOptions = PackName & {
  readonly part: NonNullable<Source['part']>;
  /** A directory of its own, which stays until removePack. */
  readonly dir: string;
  /** The verified one that `closure` is the digest of. */
  readonly paths: Closure;
  /** How long one that is being made is waited for. */
  readonly waitSeconds: number;
  readonly plan: (index: PackIndex) => Promise<PackPlan>;
};

/** So much that is not wanted is read over; from here on, another request is cheaper. */
const GAP = 1024 * 1024;

type Begun = { readonly body: AsyncGenerator<Uint8Array, void, undefined>; readonly at: number };

export class PackFile implements AsyncDisposable {
  /** Bytes that came over the line. */
  received = 0;
  readonly #options: PackOptions;
  readonly #store: PackStore;
  readonly #asker: PackAsker;
  readonly #abort = new AbortController();
  #opened: { index: PackIndex; plan: PackPlan; segments: Segments } | null = null;
  /** A response that was asked for, and is to be read. */
  #begun: Begun | null = null;
  #running: Promise<void> = Promise.resolve();

  private constructor(options: PackOptions, store: PackStore) {
    this.#options = options;
    this.#store = store;
    const { part, waitSeconds } = options;
    this.#asker = new PackAsker(part, options, waitSeconds, this.#abort.signal);
  }

  /**
   * With its index; null: there is none. Nothing more comes before `start`.
   * @throws FleetError E_PACK_BAD, E_PACK_VERSION, E_SERVER_…; what `plan` throws
   */
  static async open(options: PackOptions): Promise<PackFile | null> {
    const file = new PackFile(options, await PackStore.open(options.dir, options));
    try {
      if ((await file.#resume()) || (await file.#begin())) return file;
    } catch (error) {
      await file[Symbol.asyncDispose]();
      throw error;
    }
    await file[Symbol.asyncDispose]();
    return null;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#abort.abort();
    await this.#running;
    this.#opened?.segments.end(new FleetError('E_PACK_BAD', 'the update is over'));
    await this.#store[Symbol.asyncDispose]();
  }

  get index(): PackIndex {
    return this.#open.index;
  }

  get plan(): PackPlan {
    return this.#open.plan;
  }

  /** Bytes of disk that it is going to take beyond those that it has. */
  async toCome(): Promise<number> {
    return Math.max(0, this.#open.segments.bytes - (await this.#store.allocated()));
  }

  /** Bytes that are wanted, and are not there yet. */
  get lacking(): number {
    return this.#open.segments.lacking;
  }

  /** Begins to fetch what is wanted; goes on by itself. */
  start(): void {
    this.#running = this.#run();
  }

  /** Once it is there. @throws FleetError E_PACK_BAD, E_SERVER_…, E_DISK_FULL */
  async whenThere(segment: number): Promise<void> {
    await this.#open.segments.get(segment).there.promise;
  }

  /** Of a segment that is there. */
  chunks(segment: number): AsyncGenerator<Uint8Array, void, undefined> {
    const { start, end } = this.#open.segments.get(segment);
    return this.#store.read(start, end);
  }

  get #open() {
    if (this.#opened === null) throw new Error('not open');
    return this.#opened;
  }

  /** From what an earlier run left. False: it is of no use. */
  async #resume(): Promise<boolean> {
    const { etag, size } = this.#store;
    if (etag === null) return false;
    try {
      const { bytes, line } = await readPackHead(this.#store.read(0, size));
      await this.#use(bytes, line);
    } catch {
      return false;
    }
    const { segments } = this.#open;
    await segments.lookAgain(this.#store);
    const { next } = segments;
    if (next === undefined) return true;
    const part = await this.#patiently(() => this.#request(next));
    // Gone from the server: what is here is of use all the same.
    if (part === null) segments.end(bad('it is gone from the server'));
    else if (part.status === 200) return await this.#adopt(part);
    else this.#begun = this.#from(part, next);
    return true;
  }

  /** From the first byte. False: there is none. */
  async #begin(): Promise<boolean> {
    return await this.#patiently(async () => {
      const part = await this.#asker.ask(0, null, null);
      return part !== null && (await this.#adopt(part));
    });
  }

  /** A whole pack, in the place of what was there. */
  async #adopt(part: Part): Promise<true> {
    const { etag, status } = part;
    if (status !== 200) throw bad('a part comes where all was asked for');
    if (etag === null || etag.startsWith('W/')) throw bad('it has no ETag that names its bytes');
    await this.#store.begin(etag);
    const { bytes, line, rest } = await readPackHead(this.#counted(part.body));
    this.#begun = { body: rest, at: bytes.length };
    await this.#use(bytes, line);
    await this.#store.write(bytes, 0);
    return true;
  }

  async #use(bytes: Buffer, line: number): Promise<void> {
    const { paths: closure, closure: digest, base, plan } = this.#options;
    const index = parsePackIndex(bytes.subarray(line), { closure, digest, base });
    const made = await plan(index);
    const segments = new Segments(index, made.segments, bytes.length);
    this.#opened = { index, plan: made, segments };
  }

  async #run(): Promise<void> {
    const { segments } = this.#open;
    try {
      for (let { next } = segments; next !== undefined; { next } = segments) {
        const before = this.received;
        try {
          await this.#take(this.#begun ?? (await this.#goOn(next)));
        } catch (error) {
          await this.#asker.pause(error, this.received - before);
        } finally {
          this.#begun = null;
        }
      }
    } catch (error) {
      segments.end(error);
      // What was not begun to be read is ended by this alone.
      this.#abort.abort();
    }
  }

  async #request(next: WantedSegment): Promise<Part | null> {
    const { segments } = this.#open;
    return await this.#asker.ask(
      next.start + next.have,
      segments.runFrom(next, GAP),
      this.#store.etag,
    );
  }

  async #goOn(next: WantedSegment): Promise<Begun> {
    const part = await this.#request(next);
    if (part === null) throw bad('it is gone from the server');
    if (part.status === 206) return this.#from(part, next);
    throw bad('it has become another one');
  }

  #from(part: Part, next: WantedSegment): Begun {
    const isIt = part.start === next.start + next.have && part.etag === this.#store.etag;
    if (isIt) return { body: this.#counted(part.body), at: part.start };
    throw bad('another part comes than was asked for');
  }

  /** Reads a response as far as it brings something. */
  async #take({ body, at: from }: Begun): Promise<void> {
    const { segments } = this.#open;
    let at = from;
    for await (let chunk of body) {
      while (chunk.length > 0) {
        const { next } = segments;
        if (next === undefined) return;
        const missing = next.start + next.have - at;
        // Behind it: of a digest that was wrong. Far before it: asked for by itself.
        if (missing < 0 || missing >= GAP) return;
        if (missing > 0) {
          const skipped = Math.min(missing, chunk.length);
          at += skipped;
          chunk = chunk.subarray(skipped);
          continue;
        }
        const piece = chunk.subarray(0, next.end - at);
        await this.#store.write(piece, at);
        segments.add(next, piece);
        at += piece.length;
        chunk = chunk.subarray(piece.length);
      }
      const { next } = segments;
      const missing = next === undefined ? GAP : next.start + next.have - at;
      if (missing < 0 || missing >= GAP) return;
    }
    throw new FleetError('E_SERVER_UNREACHABLE', 'the update pack ends before its end');
  }

  async *#counted(
    body: AsyncGenerator<Uint8Array, void, undefined>,
  ): AsyncGenerator<Uint8Array, void, undefined> {
    for await (const chunk of body) {
      this.received += chunk.length;
      yield chunk;
    }
  }

  async #patiently<T>(ask: () => Promise<T>): Promise<T> {
    for (;;) {
      try {
        return await ask();
      } catch (error) {
        // An index is not resumed: however much of one came, nothing was gained.
        await this.#asker.pause(error, 0);
      }
    }
  }
}

function bad(what: string): FleetError {
  return new FleetError('E_PACK_BAD', `the update pack: ${what}`);
}
