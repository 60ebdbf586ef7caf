// A NAR to a tree on disk, with the modes that `nix-store --restore` gives (0644, 0755), whatever
// the umask. Everything is created, nothing opened or followed: a parent is always a directory
// made a moment before, because the reader admits each name once.
// Refuses a target that exists, in any form (E_NAR_EXISTS), and what the reader refuses. A failure
// leaves nothing behind.

import {
  chmodSync,
  closeSync,
  fchmodSync,
  mkdirSync,
  openSync,
  symlinkSync,
  write,
  writeSync,
} from 'node:fs';
import { rm } from 'node:fs/promises';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { promisify } from 'node:util';
import { asDiskFull } from '../durable.ts';
import { errnoOf, FleetError } from '../errors.ts';
import { badNar, type NarEvent, showBytes } from './nar-format.ts';
import { NarParser } from './nar-read.ts';

/** How long the event loop may be kept waiting. */
const TURN_MS = 4;
/** Contents longer than this are written off the main thread. */
const LONG_BYTES = 64 * 1024;

const writeAsync = promisify(write);

/**
 * Creates `target` and all below it.
 * @throws FleetError E_NAR_EXISTS, E_NAR_BAD, E_NAR_TRUNCATED, E_DISK_FULL
 */
export async function restoreNar(chunks: AsyncIterable<Uint8Array>, target: string): Promise<void> {
  const parser = new NarParser();
  await using tree = new Tree(target);
  let turn = performance.now();
  for await (const chunk of chunks) {
    for (const event of parser.push(chunk)) {
      if (event.type === 'contents') await tree.write(event.data);
      else tree.node(event);
      if (performance.now() - turn > TURN_MS) {
        await nextTurn();
        turn = performance.now();
      }
    }
  }
  parser.finish();
  tree.keep();
}

/** A tree in the making, which vanishes unless it is kept. */
class Tree implements AsyncDisposable {
  readonly #target: string;
  /** Paths of the open directories, as byte strings. */
  readonly #open: string[] = [];
  #fd: number | undefined;
  #begun = false;
  #kept = false;

  constructor(target: string) {
    this.#target = target;
  }

  node(event: Exclude<NarEvent, { type: 'contents' }>): void {
    this.#close();
    if (event.type === 'leave') {
      this.#open.pop();
      return;
    }
    const path =
      event.name === null
        ? Buffer.from(this.#target).toString('latin1')
        : `${this.#open.at(-1)}/${event.name}`;
    const bytes = Buffer.from(path, 'latin1');
    try {
      if (event.type === 'directory') {
        mkdirSync(bytes);
        this.#begun = true;
        chmodSync(bytes, 0o755);
        this.#open.push(path);
      } else if (event.type === 'symlink') {
        symlinkSync(Buffer.from(event.target, 'latin1'), bytes);
      } else {
        this.#fd = openSync(bytes, 'wx');
        this.#begun = true;
        fchmodSync(this.#fd, event.executable ? 0o755 : 0o644);
      }
      this.#begun = true;
    } catch (error) {
      throw this.#explain(error, path);
    }
  }

  async write(data: Uint8Array): Promise<void> {
    const fd = this.#fd;
    if (fd === undefined) throw new Error('contents without a file');
    try {
      for (let at = 0; at < data.length; ) {
        const left = data.length - at;
        if (left > LONG_BYTES) at += (await writeAsync(fd, data, at, left)).bytesWritten;
        else at += writeSync(fd, data, at, left);
      }
    } catch (error) {
      throw asDiskFull(error, this.#target);
    }
  }

  keep(): void {
    this.#close();
    this.#kept = true;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#close();
    if (this.#begun && !this.#kept) await rm(this.#target, { recursive: true, force: true });
  }

  #close(): void {
    if (this.#fd === undefined) return;
    const fd = this.#fd;
    this.#fd = undefined;
    closeSync(fd);
  }

  #explain(error: unknown, path: string): unknown {
    if (errnoOf(error) !== 'EEXIST') return asDiskFull(error, this.#target);
    if (!this.#begun) {
      return new FleetError('E_NAR_EXISTS', `${this.#target} exists already`, { cause: error });
    }
    return badNar(`this file system cannot tell ${showBytes(path)} from its neighbour`);
  }
}
