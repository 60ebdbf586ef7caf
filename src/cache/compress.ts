// NAR bytes → one zstd frame with content size and checksum. One frame always: node:zlib decodes
// only the first of several. Work is spread over paths, never within one: ZSTD_c_nbWorkers on many
// streams crashes Node 24. Small NARs are compressed in one call, which costs less than a stream.
import { promisify } from 'node:util';
import {
  constants,
  createZstdCompress,
  type ZstdCompress,
  type ZstdOptions,
  zstdCompress,
  zstdCompressSync,
} from 'node:zlib';

const compressWhole = promisify<Uint8Array, ZstdOptions, Buffer>(zstdCompress);

/** NARs up to this many bytes are held in memory whole. */
export const SMALL_NAR = 4 * 1024 * 1024;

// Buffers for whole NARs are used again: fresh ones by the hundred drive the garbage collector.
// There are never more than NARs were compressed at one time.
const spares: Buffer[] = [];

const CHUNK_BYTES = 256 * 1024;

/**
 * Compresses `chunks`, however many bytes they are; the frame tells its size when that is at most
 * SMALL_NAR. Otherwise as `compressed`.
 */
export async function* compressedStream(
  chunks: AsyncIterable<Uint8Array>,
  level: number,
): AsyncGenerator<Uint8Array> {
  const iterator = chunks[Symbol.asyncIterator]();
  try {
    const parts: Uint8Array[] = [];
    let size = 0;
    while (size <= SMALL_NAR) {
      const { done, value } = await iterator.next();
      if (done === true) {
        yield* compressed(from(parts), size, level);
        return;
      }
      // A copy: the producer may use its chunk again.
      parts.push(Uint8Array.from(value));
      size += value.length;
    }
    yield* compressed(from(parts, iterator), null, level);
  } finally {
    await iterator.return?.();
  }
}

async function* from(
  parts: readonly Uint8Array[],
  rest?: AsyncIterator<Uint8Array>,
): AsyncGenerator<Uint8Array> {
  yield* parts;
  for (let next = await rest?.next(); next?.done === false; next = await rest?.next()) {
    yield next.value;
  }
}

/**
 * Compresses exactly `size` bytes (null: any number of them, which the frame then does not tell). Memory: `2 × SMALL_NAR`, or a stream's buffers, whatever `size` is.
 * `level`: 1 (quickest) to 19. A chunk may be reused by its producer once the next one is asked for.
 * Throws what `chunks` throws.
 */
export async function* compressed(
  chunks: AsyncIterable<Uint8Array>,
  size: number | null,
  level: number,
): AsyncGenerator<Uint8Array> {
  const options = optionsOf(size, level);
  if (size !== null && size <= SMALL_NAR) {
    const buffer = spares.pop() ?? Buffer.allocUnsafeSlow(SMALL_NAR);
    const whole = buffer.subarray(0, await gather(chunks, buffer));
    // Else every 16 KiB are a round trip to the pool.
    const frame = await compressWhole(whole, { ...options, chunkSize: roomFor(size) });
    spares.push(buffer);
    yield frame;
    return;
  }
  const encoder = createZstdCompress({ ...options, chunkSize: CHUNK_BYTES });
  const feeding = feed(chunks, encoder).catch((error: Error) => void encoder.destroy(error));
  try {
    for await (const chunk of encoder) yield chunk;
  } finally {
    encoder.destroy();
    await feeding;
  }
}

/**
 * `bytes` as one frame, on the caller's thread; a fifth quicker than aside, as zstd is told at once that this is
 * all, and needs no window of its own. The frame has an ArrayBuffer to itself.
 */
export function compressedNow(bytes: Uint8Array, level: number): Buffer<ArrayBuffer> {
  const options = { ...optionsOf(bytes.length, level), chunkSize: roomFor(bytes.length) };
  return zstdCompressSync(bytes, options);
}

function optionsOf(size: number | null, level: number): ZstdOptions {
  return {
    ...(size === null ? {} : { pledgedSrcSize: size }),
    params: {
      [constants.ZSTD_c_compressionLevel]: level,
      [constants.ZSTD_c_checksumFlag]: 1,
      [constants.ZSTD_c_contentSizeFlag]: 1,
    },
  };
}

/** Room for the frame in the worst case (ZSTD_COMPRESSBOUND), and never a piece of a buffer of Node's. */
function roomFor(size: number): number {
  return Math.max(size + Math.ceil(size / 256) + 1024, Buffer.poolSize);
}

/** Fills `buffer` from its start; returns the number of bytes. */
async function gather(chunks: AsyncIterable<Uint8Array>, buffer: Buffer): Promise<number> {
  let at = 0;
  for await (const chunk of chunks) {
    buffer.set(chunk, at);
    at += chunk.length;
  }
  return at;
}

/** Writes `chunks` from two buffers in turn, so that reading the next overlaps compressing the last. */
async function feed(chunks: AsyncIterable<Uint8Array>, encoder: ZstdCompress): Promise<void> {
  // A stream that is destroyed forgets the callback of the write at hand.
  let release: (() => void) | undefined;
  encoder.once('close', () => release?.());
  const write = (bytes: Buffer): Promise<void> =>
    new Promise((resolve) => {
      release = resolve;
      encoder.write(bytes, () => resolve());
    });

  let [buffer, spare] = [Buffer.allocUnsafeSlow(CHUNK_BYTES), Buffer.allocUnsafeSlow(CHUNK_BYTES)];
  let writing: Promise<void> | undefined;
  for await (const chunk of chunks) {
    if (chunk.length > buffer.length) buffer = Buffer.allocUnsafeSlow(chunk.length);
    buffer.set(chunk);
    await writing;
    if (encoder.destroyed) return;
    writing = write(buffer.subarray(0, chunk.length));
    [buffer, spare] = [spare, buffer];
  }
  await writing;
  encoder.end();
}
