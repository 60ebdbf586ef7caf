// A segment of several whole NARs → those that are wanted, unpacked to a file that has no name any more, each checked before
// anybody gets it; so Nix may ask for them in its own order while the segment is unpacked once. The file is as long as they are
// together, and gone with the process.
import { randomBytes } from 'node:crypto';
import { type FileHandle, mkdir, open, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { PathInfo } from '../nix/closure.ts';
import { checkNar } from '../nix/nar-check.ts';
import type { StorePath } from '../nix/storepath.ts';
import type { NarRow } from './nar-row.ts';

type Spooled = PromiseWithResolvers<{ readonly start: number }>;

const READ_BYTES = 128 * 1024;

export class PackSpool {
  readonly #file: FileHandle;
  readonly #nars: ReadonlyMap<StorePath, Spooled>;
  #size = 0;
  #users = 1;

  private constructor(file: FileHandle, wanted: ReadonlySet<StorePath>) {
    this.#file = file;
    this.#nars = new Map(
      [...wanted].map((path) => {
        const nar: Spooled = Promise.withResolvers();
        nar.promise.catch(() => {});
        return [path, nar];
      }),
    );
  }

  /** Begins to unpack `row`, which has the NARs of `infos`, as far as `wanted` are among them; `onEnd`, once it did. */
  static async open(
    dir: string,
    row: NarRow,
    infos: readonly PathInfo[],
    wanted: ReadonlySet<StorePath>,
    onEnd: () => void,
  ): Promise<PackSpool> {
    try {
      const spool = new PackSpool(await openNameless(dir), wanted);
      void spool.#unpack(row, infos).finally(onEnd);
      return spool;
    } catch (error) {
      onEnd();
      await row[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** Takes no readers any more; the file goes with the last one. */
  close(): void {
    this.#leave();
  }

  /** What of it was unpacked, whole and right. @throws FleetError E_NAR_…; what the segment's chunks throw */
  async *nar(info: PathInfo): AsyncGenerator<Uint8Array, void, undefined> {
    this.#users += 1;
    try {
      const nar = this.#nars.get(info.path);
      if (nar === undefined) throw new RangeError(`not in this segment: ${info.path}`);
      const { start } = await nar.promise;
      const end = start + info.narSize;
      const buffer = Buffer.allocUnsafeSlow(Math.min(READ_BYTES, info.narSize));
      for (let at = start; at < end; ) {
        const length = Math.min(buffer.length, end - at);
        const { bytesRead } = await this.#file.read(buffer, 0, length, at);
        if (bytesRead === 0) throw new Error('the spool is shorter than it was');
        at += bytesRead;
        yield buffer.subarray(0, bytesRead);
      }
    } finally {
      this.#leave();
    }
  }

  async #unpack(row: NarRow, infos: readonly PathInfo[]): Promise<void> {
    this.#users += 1;
    try {
      await using nars = row;
      let left = this.#nars.size;
      for (const info of infos) {
        const spooled = this.#nars.get(info.path);
        const nar = nars.next(info.narSize);
        if (spooled === undefined) {
          // Passed over with the next one.
          await nar.next();
          continue;
        }
        left -= 1;
        await this.#write(nar, info).then(
          (start) => spooled.resolve({ start }),
          (error: unknown) => spooled.reject(error),
        );
        if (left === 0) break;
      }
    } catch (error) {
      for (const { reject } of this.#nars.values()) reject(error);
    } finally {
      this.#leave();
    }
  }

  async #write(nar: AsyncIterable<Uint8Array>, info: PathInfo): Promise<number> {
    const start = this.#size;
    let at = start;
    for await (const chunk of checkNar(nar, info)) {
      for (let done = 0; done < chunk.length; ) {
        const { bytesWritten } = await this.#file.write(chunk, done, chunk.length - done, at);
        done += bytesWritten;
        at += bytesWritten;
      }
    }
    this.#size = at;
    return start;
  }

  #leave(): void {
    this.#users -= 1;
    if (this.#users === 0) void this.#file.close().catch(() => {});
  }
}

async function openNameless(dir: string): Promise<FileHandle> {
  await mkdir(dir, { recursive: true, mode: 0o700 });
  const name = join(dir, `spool-${randomBytes(6).toString('hex')}`);
  const file = await open(name, 'wx+', 0o600);
  await rm(name);
  return file;
}
