// How far a fetch is ↔ progress.json, for `fleet agent status`: written every second, without waiting for the disk; what a
// killed run left is told by its age. The server is told of long fetches (SPEC §6.4), seldom, as each time costs a round trip of a
// line that may be thin; whether that arrives matters to nobody here.
import { rename, rm, stat, writeFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { formatToldProgress } from '../manifest/told-progress.ts';
import { narBytesOf, type PathInfo } from '../nix/closure.ts';
import { parseStorePath, type StorePath } from '../nix/storepath.ts';
import { memoryFiles, readState } from './memory.ts';
import {
  type Fields,
  formatRecord,
  integer,
  nullable,
  parsedBy,
  parseRecord,
  record,
} from './record.ts';
import type { Source } from './source.ts';

export type Count = { readonly done: number; readonly total: number };

export type FetchProgress = {
  readonly toplevel: StorePath;
  readonly paths: Count;
  /** Of NARs, unpacked. */
  readonly bytes: Count;
  /** Of an update pack, as it comes over the line; null: without one. */
  readonly line: Count | null;
  /** ms since it began. */
  readonly elapsed: number;
};

const COUNT = record<Count>({ done: integer(0), total: integer(0) });
const PROGRESS: Fields<FetchProgress> = {
  toplevel: parsedBy(parseStorePath),
  paths: COUNT,
  bytes: COUNT,
  line: nullable(COUNT),
  elapsed: integer(0),
};

/** An answer has no body; a refusal says why. */
const MAX_ANSWER_BYTES = 4096;

const EVERY_MS = 1000;
/** When the server is told first; then after twice as long each time, up to the most. */
const TELL_MS = 60_000;
const MOST_TELL_MS = 300_000;
/** What nobody wrote on for so long is of a run that is gone; a line may be silent for `patienceSeconds`. */
const STALE_MS = 10_000;

/** How the one who is not on this machine is told. */
export type Telling = {
  /** What it throws is nobody's business. */
  readonly send: (progress: FetchProgress, signal: AbortSignal) => Promise<unknown>;
  /** Wait before the first time, in ms. */
  readonly after: number;
};

/** Tells the server how far `host` is with what the manifest of digest `manifest` names. Tests wait for less. */
export function tellServer(
  server: Pick<Source, 'document'>,
  host: string,
  manifest: string,
  after = TELL_MS,
): Telling {
  const send: Telling['send'] = async (progress, signal) => {
    const { paths, bytes } = progress;
    const left = secondsLeft(progress);
    const body = formatToldProgress({ manifest, paths, bytes, secondsLeft: left });
    const request = { method: 'POST', contentType: 'application/json', body, signal } as const;
    await server.document(`/v1/hosts/${host}/progress`, MAX_ANSWER_BYTES, request);
  };
  return { send, after };
}

export class Progress implements AsyncDisposable {
  readonly #file: string;
  readonly #toplevel: StorePath;
  readonly #total: number;
  readonly #bytes: { done: number; total: number };
  readonly #line: (() => Count) | null;
  readonly #given = new Map<StorePath, number>();
  readonly #served = new Set<StorePath>();
  readonly #began = performance.now();
  readonly #timer: NodeJS.Timeout;
  readonly #ended = new AbortController();
  #writing: Promise<void>;
  #telling: Promise<void> = Promise.resolve();

  /** Of `missing`; told of until it is disposed of. `line`: of an update pack, null without one. */
  constructor(
    {
      dir,
      toplevel,
      tell,
    }: { readonly dir: string; readonly toplevel: StorePath; readonly tell: Telling | null },
    missing: readonly PathInfo[],
    line: (() => Count) | null,
  ) {
    this.#file = memoryFiles(dir).progress;
    this.#toplevel = toplevel;
    this.#line = line;
    this.#total = missing.length;
    this.#bytes = { done: 0, total: narBytesOf(missing) };
    this.#writing = this.#write();
    this.#timer = setInterval(() => {
      this.#writing = this.#writing.then(() => this.#write());
    }, EVERY_MS);
    this.#timer.unref();
    if (tell !== null) this.#telling = this.#tell(tell);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    clearInterval(this.#timer);
    this.#ended.abort();
    await Promise.all([this.#writing, this.#telling]);
    await rm(this.#file, { force: true }).catch(() => {});
  }

  /** Nix has `bytes` of it; it may have had to begin again. */
  given(path: StorePath, bytes: number): void {
    this.#bytes.done += bytes - (this.#given.get(path) ?? 0);
    this.#given.set(path, bytes);
  }

  /** Nix has it. */
  served(path: StorePath, narSize: number): void {
    this.given(path, narSize);
    this.#served.add(path);
  }

  #now(): FetchProgress {
    return {
      toplevel: this.#toplevel,
      paths: { done: this.#served.size, total: this.#total },
      bytes: this.#bytes,
      line: this.#line?.() ?? null,
      elapsed: Math.round(performance.now() - this.#began),
    };
  }

  async #tell({ send, after }: Telling): Promise<void> {
    const { signal } = this.#ended;
    for (let wait = after; ; wait = Math.min(2 * wait, MOST_TELL_MS)) {
      await sleep(wait, undefined, { signal, ref: false }).catch(() => {});
      if (signal.aborted) return;
      await send(this.#now(), signal).catch(() => {});
    }
  }

  async #write(): Promise<void> {
    try {
      // Whoever reads it sees one or the other; after a power cut it says nothing.
      await writeFile(`${this.#file}.new`, formatRecord(this.#now()), { mode: 0o600 });
      await rename(`${this.#file}.new`, this.#file);
    } catch {
      // Nobody has to know.
    }
  }
}

/** null: nothing is being fetched. */
export async function readProgress(dir: string): Promise<FetchProgress | null> {
  const { progress: file } = memoryFiles(dir);
  try {
    const { mtimeMs } = await stat(file);
    const text = Date.now() - mtimeMs > STALE_MS ? null : await readState(file);
    return text === null ? null : parseRecord(text, file, PROGRESS);
  } catch {
    return null;
  }
}

/** Seconds that it goes on if it goes on like this; null: nobody can tell yet. */
export function secondsLeft({
  bytes,
  line,
  elapsed,
}: Pick<FetchProgress, 'bytes' | 'line' | 'elapsed'>): number | null {
  // Of a group of paths nothing can be unpacked before all of it is there; once the pack is, what is left is Nix's work.
  const { done, total } = line !== null && line.done < line.total ? line : bytes;
  return done === 0 ? null : Math.round(((total - done) / done) * (elapsed / 1000));
}
