// What came of an update pack so far, on disk: its bytes at their own places in one file with holes, and beside it which pack
// that is (about.json). There is no journal of what is there: whoever goes on after a crash compares digests. What is of
// another pack is removed, never mixed with.
import { constants, type FileHandle, mkdir, open, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { syncDirectory, writeDurable } from '../durable.ts';
import { readState } from './memory.ts';
import { digest, type Fields, formatRecord, nullable, parseRecord, string } from './record.ts';

/** Which pack is wanted. */
export type PackName = {
  /** Digests of closure files. */
  readonly closure: string;
  readonly base: string | null;
};

type About = PackName & { readonly etag: string };

const ABOUT: Fields<About> = { closure: digest, base: nullable(digest), etag: string };
const READ_BYTES = 128 * 1024;

export class PackStore implements AsyncDisposable {
  readonly #dir: string;
  readonly #name: PackName;
  readonly #body: FileHandle;
  /** Of the pack that `size` bytes are there of, with holes; null: of none. */
  etag: string | null;
  size: number;

  private constructor(dir: string, name: PackName, body: FileHandle, size: number) {
    this.#dir = dir;
    this.#name = name;
    this.#body = body;
    this.size = size;
    this.etag = null;
  }

  /** With what is there of that pack; all else in `dir` goes. */
  static async open(dir: string, name: PackName): Promise<PackStore> {
    const about = await readAbout(dir);
    const isIt = about?.closure === name.closure && about.base === name.base;
    if (!isIt) await removePack(dir);
    await mkdir(dir, { recursive: true, mode: 0o700 });
    // Not truncated: what is there is looked at.
    const body = await open(join(dir, 'body'), constants.O_RDWR | constants.O_CREAT, 0o600);
    const store = new PackStore(dir, name, body, (await body.stat()).size);
    store.etag = isIt ? about.etag : null;
    return store;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#body.close();
  }

  /** Another one begins. */
  async begin(etag: string): Promise<void> {
    this.etag = null;
    await rm(join(this.#dir, 'about.json'), { force: true });
    // What is there must not be taken for the new one's after a power cut.
    await syncDirectory(this.#dir);
    await this.#body.truncate(0);
    this.size = 0;
    const about: About = { ...this.#name, etag };
    await writeDurable(join(this.#dir, 'about.json'), formatRecord(about), 0o600);
    this.etag = etag;
  }

  async write(bytes: Uint8Array, at: number): Promise<void> {
    for (let done = 0; done < bytes.length; ) {
      const { bytesWritten } = await this.#body.write(bytes, done, bytes.length - done, at + done);
      done += bytesWritten;
    }
    this.size = Math.max(this.size, at + bytes.length);
  }

  /** What lies there; ends early where the file does. A chunk is valid until the next is asked for. */
  async *read(start: number, end: number): AsyncGenerator<Uint8Array, void, undefined> {
    const buffer = Buffer.allocUnsafeSlow(Math.min(READ_BYTES, Math.max(0, end - start)));
    for (let at = start; at < end; ) {
      const length = Math.min(buffer.length, end - at);
      const { bytesRead } = await this.#body.read(buffer, 0, length, at);
      if (bytesRead === 0) return;
      at += bytesRead;
      yield buffer.subarray(0, bytesRead);
    }
  }

  /** Bytes of disk that it takes. */
  async allocated(): Promise<number> {
    return (await this.#body.stat()).blocks * 512;
  }
}

/** As far as the disk allows: what stays is gone over by the next, and keeps no update away. */
export async function removePack(dir: string): Promise<void> {
  await rm(dir, { recursive: true, force: true }).catch(() => {});
}

async function readAbout(dir: string): Promise<About | null> {
  const file = join(dir, 'about.json');
  try {
    const text = await readState(file);
    return text === null ? null : parseRecord(text, file, ABOUT);
  } catch {
    return null;
  }
}
