// Blobs as files: `<dir>/ab/<62 more hex digits>`, written below `<dir>/tmp/` first. A blob is durable
// and whole before its name exists: write, fdatasync, rename, fsync of the directory. Many puts at
// once share the file system's journal commits, so callers should not wait for one before the next.
import { createHash } from 'node:crypto';
import { statSync } from 'node:fs';
import {
  type FileHandle,
  link,
  mkdir,
  open,
  opendir,
  readdir,
  rename,
  rm,
  stat,
} from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { Readable } from 'node:stream';
import { asDiskFull, makeDirectoryDurable, syncDirectory } from '../durable.ts';
import { errnoOf, FleetError } from '../errors.ts';
import { ownerOf, temporaryName } from '../temporary-names.ts';
import { openBlobReader } from './blob-reader.ts';
import {
  type BlobId,
  type BlobReader,
  type BlobRef,
  type Blobs,
  type ByteRange,
  parseBlobId,
} from './blobs.ts';
import { DirectorySync } from './directory-sync.ts';
import { SizeCache } from './size-cache.ts';

const TEMPORARY = 'tmp';
const QUARANTINE = 'quarantine';
/** Between the temporary name of a blob that is being removed and its own. */
const ASIDE = '-removes-';
const SHARDS = Array.from({ length: 256 }, (_, i) => i.toString(16).padStart(2, '0'));
const READ_BYTES = 128 * 1024;
// A temporary file whose process cannot be seen from here is taken for abandoned after a day.
const FOREIGN_AGE_MS = 24 * 3600 * 1000;

/**
 * Creates an empty blob directory, durably.
 * @throws FleetError E_STATE_EXISTS when `dir` is there already.
 */
export async function createFileBlobs(dir: string): Promise<void> {
  try {
    await mkdir(dir);
  } catch (error) {
    if (errnoOf(error) !== 'EEXIST') throw asDiskFull(error, dir);
    throw new FleetError('E_STATE_EXISTS', `${dir} exists already`, { cause: error });
  }
  for (const name of [TEMPORARY, ...SHARDS]) await mkdir(join(dir, name));
  await syncDirectory(dir);
  await syncDirectory(dirname(dir));
}

/**
 * Opens a blob directory and removes what killed writers left in its `tmp/`. `isWatched`: for a process
 * that asks for sizes all the time; they come from memory while nothing changes.
 * @throws FleetError E_STATE_INCOMPLETE when `dir` is not there.
 */
export async function openFileBlobs(dir: string, isWatched = false): Promise<Blobs> {
  try {
    if (!(await stat(dir)).isDirectory()) throw notThere(dir);
  } catch (error) {
    throw errnoOf(error) === 'ENOENT' ? notThere(dir, error) : error;
  }
  await removeAbandoned(dir);
  return new FileBlobs(dir, isWatched);
}

class FileBlobs implements Blobs {
  readonly #dir: string;
  readonly #directories = new DirectorySync();
  readonly #sizes: SizeCache | null;

  constructor(dir: string, isWatched: boolean) {
    this.#dir = dir;
    const shards = SHARDS.map((shard) => [shard, join(dir, shard)] as const);
    this.#sizes = isWatched ? new SizeCache(shards) : null;
  }

  async put(chunks: AsyncIterable<Uint8Array> | Iterable<Uint8Array>): Promise<BlobRef> {
    const temporary = join(this.#dir, TEMPORARY, temporaryName());
    try {
      const blob = await writeHashed(temporary, chunks);
      await this.#place(temporary, blob.id);
      return blob;
    } catch (error) {
      await rm(temporary, { force: true });
      throw asDiskFull(error, this.#dir);
    }
  }

  knownSize(id: BlobId): number | null {
    return this.#sizes?.get(id) ?? null;
  }

  async size(id: BlobId): Promise<number | null> {
    const known = this.#sizes?.get(id);
    if (known !== undefined) return known;
    // Not through the thread pool: that takes 74 µs and this 2, and every narinfo asks.
    const found = statSync(this.fileOf(id), { throwIfNoEntry: false });
    if (!found?.isFile()) return null;
    this.#sizes?.set(id, found.size);
    return found.size;
  }

  async get(id: BlobId, range?: ByteRange): Promise<Readable | null> {
    // createReadStream's `end` is inclusive and cannot say "nothing".
    if (range !== undefined && range.start === range.end) {
      return (await this.size(id)) === null ? null : Readable.from([]);
    }
    try {
      const handle = await open(this.fileOf(id), 'r');
      const part = range === undefined ? {} : { start: range.start, end: range.end - 1 };
      return handle.createReadStream({ ...part, highWaterMark: READ_BYTES });
    } catch (error) {
      return absent(error);
    }
  }

  async open(id: BlobId): Promise<BlobReader | null> {
    try {
      return openBlobReader(this.fileOf(id));
    } catch (error) {
      return absent(error);
    }
  }

  async delete(id: BlobId): Promise<void> {
    this.#sizes?.forget(id);
    await rm(this.fileOf(id), { force: true });
  }

  async deleteOlder(
    id: BlobId,
    time: number,
    isNamed: () => Promise<boolean> = async () => false,
  ): Promise<boolean> {
    const file = this.fileOf(id);
    const isOld = async (path: string): Promise<boolean> => {
      const found = await stat(path).catch(absent);
      return found !== null && found.mtimeMs < time * 1000;
    };
    if (!(await isOld(file))) return false;
    const aside = await this.#setAside(id);
    if (aside === null) return false;
    let removed = false;
    try {
      removed = (await isOld(aside)) && !(await isNamed());
    } finally {
      if (!removed) await putBack(aside, file);
      await rm(aside, { force: true });
    }
    return removed;
  }

  async quarantine(id: BlobId, isFine?: (bytes: Readable) => Promise<boolean>): Promise<boolean> {
    const dir = join(this.#dir, QUARANTINE);
    await mkdir(dir, { recursive: true });
    const aside = await this.#setAside(id);
    if (aside === null) return false;
    let taken = false;
    try {
      if (isFine !== undefined) {
        const bytes = (await open(aside, 'r')).createReadStream({ highWaterMark: READ_BYTES });
        if (await isFine(bytes)) return false;
      }
      await rename(aside, join(dir, id));
      taken = true;
    } finally {
      if (!taken) await putBack(aside, this.fileOf(id));
      await rm(aside, { force: true });
    }
    return taken;
  }

  /**
   * Moves a blob out of everybody's sight, so that who puts it from now on makes a file of its own, and
   * what is said of this one stays true. Killed then, the process leaves it to be put back by whoever
   * opens the directory next. Null: there is none.
   */
  async #setAside(id: BlobId): Promise<string | null> {
    this.#sizes?.forget(id);
    const aside = join(this.#dir, TEMPORARY, asideName(id));
    try {
      await rename(this.fileOf(id), aside);
      return aside;
    } catch (error) {
      return absent(error);
    }
  }

  async *list(): AsyncIterable<BlobRef & { readonly putAt: number }> {
    for (const shard of SHARDS) {
      const entries = await opendir(join(this.#dir, shard)).catch(absent);
      if (entries === null) continue;
      for await (const entry of entries) {
        const id = parseBlobId(shard + entry.name);
        const found = id === null ? null : await stat(this.fileOf(id)).catch(absent);
        if (id === null || !found?.isFile()) continue;
        yield { id, size: found.size, putAt: Math.floor(found.mtimeMs / 1000) };
      }
    }
  }

  async #place(temporary: string, id: BlobId): Promise<void> {
    const file = this.fileOf(id);
    const shard = dirname(file);
    try {
      await rename(temporary, file);
    } catch (error) {
      // A backup may leave empty directories out.
      if (errnoOf(error) !== 'ENOENT') throw error;
      await makeDirectoryDurable(shard);
      await rename(temporary, file);
    }
    await this.#directories.sync(shard);
  }

  fileOf(id: BlobId): string {
    // Not join(): every narinfo comes by here.
    return `${this.#dir}/${id.slice(0, 2)}/${id.slice(2)}`;
  }
}

async function writeHashed(
  file: string,
  chunks: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
): Promise<BlobRef> {
  const hash = createHash('sha256');
  let size = 0;
  let handle: FileHandle | undefined;
  try {
    handle = await open(file, 'wx', 0o644);
    for await (const chunk of chunks) {
      hash.update(chunk);
      size += chunk.length;
      await writeAll(handle, chunk);
    }
    await handle.datasync();
  } finally {
    await handle?.close();
  }
  return { id: hash.digest('hex') as BlobId, size };
}

/** FileHandle.writeFile would cut the chunk into pieces; write(2) may still write less than all. */
async function writeAll(handle: FileHandle, chunk: Uint8Array): Promise<void> {
  for (let at = 0; at < chunk.length; ) {
    at += (await handle.write(chunk, at, chunk.length - at)).bytesWritten;
  }
}

/** Gives a file its place again, unless there is a newer one by now. */
async function putBack(aside: string, file: string): Promise<void> {
  try {
    await link(aside, file);
  } catch (error) {
    if (errnoOf(error) !== 'EEXIST') throw error;
  }
}

/** Name below `tmp/` of a blob that is being removed; it says which. */
function asideName(id: BlobId): string {
  return `${temporaryName()}${ASIDE}${id}`;
}

async function removeAbandoned(blobs: string): Promise<void> {
  const dir = join(blobs, TEMPORARY);
  await mkdir(dir, { recursive: true });
  for (const name of await readdir(dir)) {
    const file = join(dir, name);
    const [own = name, blob = ''] = name.split(ASIDE);
    const owner = await ownerOf(own);
    const id = parseBlobId(blob);
    if (owner === 'live') continue;
    if (owner === 'foreign') {
      const found = await stat(file).catch(absent);
      if (found === null || Date.now() - found.mtimeMs < FOREIGN_AGE_MS) continue;
    }
    // A killed removal: whether it is to go is decided again by the next collection.
    if (id !== null) await putBack(file, join(blobs, id.slice(0, 2), id.slice(2)));
    await rm(file, { recursive: true, force: true });
  }
}

function absent(error: unknown): null {
  if (errnoOf(error) === 'ENOENT') return null;
  throw error;
}

function notThere(dir: string, cause?: unknown): FleetError {
  return new FleetError('E_STATE_INCOMPLETE', `there is no directory ${dir}`, { cause });
}
