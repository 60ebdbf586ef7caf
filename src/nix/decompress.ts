// Compressed bytes from an untrusted place → what they unpack to, streamed with backpressure, so that
// whoever stops reading stops the unpacking: a bomb ends where its reader's patience ends. The zstd
// window is bounded. Several frames or streams in a row unpack to all they hold, as the programs do it;
// an early end and bytes that are neither are refused, never left out.
// Refuses br and bzip2, which nobody uploads.
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { constants, createZstdDecompress } from 'node:zlib';
import { errnoOf, FleetError, messageOf } from '../errors.ts';
import type { Compression } from './narinfo.ts';
import { unxz } from './xz.ts';
import { splitFrames } from './zstd-frames.ts';

/** 32 MiB, as for deltas; zstd's levels 1 to 19 stay below. */
const DEFAULT_WINDOW_LOG = 25;
/** Node's own 16 KiB would cost sixteen times as many turns of the event loop. */
const OUTPUT_BYTES = 256 * 1024;

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
    chunkSize: OUTPUT_BYTES,
    rejectGarbageAfterEnd: true,
    params: { [constants.ZSTD_d_windowLogMax]: windowLog },
  });
  const feeding = pipeline(Readable.from(splitFrames(chunks), { objectMode: false }), decoder);
  // Whatever fails on the way destroys the decoder, with that as its error.
  feeding.catch(() => {});
  try {
    yield* decoder;
  } catch (error) {
    throw isBadZstd(error)
      ? new FleetError('E_NAR_BAD', `not a zstd stream: ${messageOf(error)}`, { cause: error })
      : error;
  } finally {
    decoder.destroy();
  }
}

/** Whether zlib says so of the bytes, and it is not something else that failed. */
export function isBadZstd(error: unknown): boolean {
  return /^(Z_|ZSTD_|ERR_TRAILING)/.test(errnoOf(error) ?? '');
}
