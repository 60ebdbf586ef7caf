// How far a fetch is ↔ progress.json, for `fleet agent status` on this machine alone: nothing of it goes to the server. Written
// at most every second, without waiting for the disk; what a killed run left is told by its age.
import { rename, rm, stat, writeFile } from 'node:fs/promises';
import { narBytesOf, type PathInfo } from '../nix/closure.ts';
import { parseStorePath, type StorePath } from '../nix/storepath.ts';
import { memoryFiles, readState } from './memory.ts';
import { type Fields, formatRecord, integer, parsedBy, parseRecord, record } from './record.ts';

type Count = { readonly done: number; readonly total: number };

export type FetchProgress = {
  readonly toplevel: StorePath;
  readonly paths: Count;
  /** Of NARs, unpacked. */
  readonly bytes: Count;
  /** ms since it began. */
  readonly elapsed: number;
};

const COUNT = record<Count>({ done: integer(0), total: integer(0) });
const PROGRESS: Fields<FetchProgress> = {
  toplevel: parsedBy(parseStorePath),
  paths: COUNT,
  bytes: COUNT,
  elapsed: integer(0),
};

const EVERY_MS = 1000;
/** What nobody wrote on for so long is of a run that is gone; a line may be silent for `patienceSeconds`. */
const STALE_MS = 10_000;

export class Progress implements AsyncDisposable {
  readonly #file: string;
  readonly #toplevel: StorePath;
  readonly #paths: { done: number; total: number };
  readonly #bytes: { done: number; total: number };
  readonly #served = new Set<StorePath>();
  readonly #began = performance.now();
  readonly #timer: NodeJS.Timeout;
  #writing: Promise<void>;

  /** Of `missing`; told of until it is disposed of. */
  constructor(dir: string, toplevel: StorePath, missing: readonly PathInfo[]) {
    this.#file = memoryFiles(dir).progress;
    this.#toplevel = toplevel;
    this.#paths = { done: 0, total: missing.length };
    this.#bytes = { done: 0, total: narBytesOf(missing) };
    this.#writing = this.#write();
    this.#timer = setInterval(() => {
      this.#writing = this.#writing.then(() => this.#write());
    }, EVERY_MS);
    this.#timer.unref();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    clearInterval(this.#timer);
    await this.#writing;
    await rm(this.#file, { force: true }).catch(() => {});
  }

  /** Nix has it. */
  served(path: StorePath, narSize: number): void {
    if (this.#served.has(path)) return;
    this.#served.add(path);
    this.#paths.done += 1;
    this.#bytes.done += narSize;
  }

  async #write(): Promise<void> {
    const progress: FetchProgress = {
      toplevel: this.#toplevel,
      paths: this.#paths,
      bytes: this.#bytes,
      elapsed: Math.round(performance.now() - this.#began),
    };
    try {
      // Whoever reads it sees one or the other; after a power cut it says nothing.
      await writeFile(`${this.#file}.new`, formatRecord(progress), { mode: 0o600 });
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
export function secondsLeft({ bytes, elapsed }: FetchProgress): number | null {
  if (bytes.done === 0) return null;
  return Math.round(((bytes.total - bytes.done) / bytes.done) * (elapsed / 1000));
}
