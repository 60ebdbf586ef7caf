// Compressed bytes from an untrusted place → what they unpack to, streamed with backpressure, so that
// whoever stops reading stops the unpacking: a bomb ends where its reader's patience ends. The zstd
// window is bounded, and nothing may follow the frame; of several frames only the first counts, so the
// reader must know when it has all (a NAR does).
// xz is unpacked by WebAssembly: the caches of others use it, and Nix uploads it by default.
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { ReadableStream } from 'node:stream/web';
import { constants, createZstdDecompress } from 'node:zlib';
import { errnoOf, FleetError, messageOf } from '../errors.ts';
import type { Compression } from './narinfo.ts';

/** 32 MiB: zstd's levels 1 to 19 stay below. */
const DEFAULT_WINDOW_LOG = 25;

/**
 * @param options.windowLog base-2 logarithm of the largest zstd window, in bytes (default 25)
 * @throws FleetError E_UPLOAD_COMPRESSION for br and bzip2, E_NAR_BAD for bytes that do not unpack;
 *   or what `chunks` throws
 */
export async function* decompress(
  chunks: AsyncIterable<Uint8Array>,
  compression: Compression,
  { windowLog = DEFAULT_WINDOW_LOG }: { readonly windowLog?: number } = {},
): AsyncGenerator<Uint8Array, void, undefined> {
  if (compression === 'none') yield* chunks;
  else if (compression === 'zstd') yield* unzstd(chunks, windowLog);
  else if (compression === 'xz') yield* unxz(chunks);
  else throw new FleetError('E_UPLOAD_COMPRESSION', `${compression} cannot be unpacked here`);
}

async function* unzstd(
  chunks: AsyncIterable<Uint8Array>,
  windowLog: number,
): AsyncGenerator<Uint8Array, void, undefined> {
  const decoder = createZstdDecompress({
    rejectGarbageAfterEnd: true,
    params: { [constants.ZSTD_d_windowLogMax]: windowLog },
  });
  const feeding = pipeline(Readable.from(chunks, { objectMode: false }), decoder);
  // Whatever fails on the way destroys the decoder, with that as its error.
  feeding.catch(() => {});
  try {
    yield* decoder;
  } catch (error) {
    throw /^(Z_|ZSTD_|ERR_TRAILING)/.test(errnoOf(error) ?? '')
      ? notUnpackable('zstd', error)
      : error;
  } finally {
    decoder.destroy();
  }
}

async function* unxz(
  chunks: AsyncIterable<Uint8Array>,
): AsyncGenerator<Uint8Array, void, undefined> {
  // Only here: most processes never see xz.
  const { default: xz } = (await import('xz-decompress')) as unknown as {
    default: typeof import('xz-decompress');
  };
  const source = new Source(chunks);
  const reader = new xz.XzReadableStream(source.stream as never).getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      if (value !== undefined && value.length > 0) yield value;
    }
    // The decoder stops at the end of what it knows; what follows must be nothing.
    if (!(await source.isAtEnd())) throw new Error('bytes after its end');
  } catch (error) {
    throw source.failure ?? notUnpackable('xz', error);
  } finally {
    await reader.cancel().catch(() => {});
    await source.close();
  }
}

/** A web stream over an iterable that keeps what the iterable threw, and can be asked if it is over. */
class Source {
  failure: unknown;
  readonly stream: ReadableStream<Uint8Array>;
  readonly #chunks: AsyncIterator<Uint8Array>;

  constructor(chunks: AsyncIterable<Uint8Array>) {
    this.#chunks = chunks[Symbol.asyncIterator]();
    this.stream = new ReadableStream<Uint8Array>(
      {
        pull: async (controller) => {
          try {
            const { done, value } = await this.#chunks.next();
            if (done === true) controller.close();
            else controller.enqueue(value);
          } catch (error) {
            this.failure = error;
            controller.error(error);
          }
        },
      },
      { highWaterMark: 0 },
    );
  }

  async isAtEnd(): Promise<boolean> {
    const { done } = await this.#chunks.next();
    return done === true;
  }

  async close(): Promise<void> {
    await this.#chunks.return?.();
  }
}

function notUnpackable(compression: string, cause: unknown): FleetError {
  return new FleetError('E_NAR_BAD', `not a ${compression} stream: ${messageOf(cause)}`, { cause });
}
