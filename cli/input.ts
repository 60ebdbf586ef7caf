// Files that someone names on the command line → their bytes. Only regular files (a pipe would hang,
// a device never end), and only up to a size.
import { constants } from 'node:fs';
import { open } from 'node:fs/promises';
import { errnoOf, FleetError, isFleetError } from '../src/errors.ts';

/** Larger than any closure file that a root's limits allow by default. */
const MAX_BYTES = 128 * 2 ** 20;

/** @throws FleetError E_USAGE naming the file and what is wrong with it. */
export async function readInput(file: string, hint?: string): Promise<Buffer> {
  try {
    // Without O_NONBLOCK, opening a pipe would wait for its writer.
    await using handle = await open(file, constants.O_RDONLY | constants.O_NONBLOCK);
    const stat = await handle.stat();
    if (!stat.isFile()) throw new FleetError('E_USAGE', `${file} is not a file`);
    if (stat.size > MAX_BYTES)
      throw new FleetError('E_USAGE', `${file} is too large to be one of ours`);
    return await handle.readFile();
  } catch (cause) {
    if (isFleetError(cause)) throw cause;
    throw new FleetError('E_USAGE', `cannot read ${file}: ${errnoOf(cause) ?? 'unknown error'}`, {
      hint: hint ?? 'give the path of a file that you may read',
      cause,
    });
  }
}

/** A file of any size, to be read once. What its device fails at is told as readInput tells it. @throws FleetError E_USAGE */
export async function streamInput(
  file: string,
  hint: string,
): Promise<
  AsyncDisposable & { readonly bytes: number; readonly chunks: AsyncIterable<Uint8Array> }
> {
  const unreadable = (cause: unknown): FleetError => {
    const why = errnoOf(cause) ?? 'unknown error';
    return new FleetError('E_USAGE', `cannot read ${file}: ${why}`, { hint, cause });
  };
  const flags = constants.O_RDONLY | constants.O_NONBLOCK;
  const handle = await open(file, flags).catch((cause) => {
    throw unreadable(cause);
  });
  const stat = await handle.stat();
  if (!stat.isFile()) {
    await handle.close();
    throw new FleetError('E_USAGE', `${file} is not a file`, { hint });
  }
  async function* read(): AsyncGenerator<Uint8Array> {
    const stream = handle.createReadStream({ autoClose: false, highWaterMark: 256 * 1024 });
    try {
      yield* stream as AsyncIterable<Uint8Array>;
    } catch (cause) {
      throw unreadable(cause);
    }
  }
  return {
    bytes: stat.size,
    chunks: read(),
    [Symbol.asyncDispose]: async () => await handle.close(),
  };
}

/** The first bytes of a file, at most 512; nothing of what is no file, which `readInput` refuses. */
export async function readHead(file: string): Promise<Buffer> {
  try {
    await using handle = await open(file, constants.O_RDONLY | constants.O_NONBLOCK);
    if (!(await handle.stat()).isFile()) return Buffer.of();
    const { buffer, bytesRead } = await handle.read(Buffer.alloc(512), 0, 512, 0);
    return buffer.subarray(0, bytesRead);
  } catch {
    return Buffer.of();
  }
}
