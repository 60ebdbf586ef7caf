// The body of an upload as it arrives: counted and hashed, and given up when it stops arriving. There is
// no limit on the whole time, which would kill large NARs on slow lines; what counts is progress.
import { createHash, type Hash } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import { Readable } from 'node:stream';
import { createBrotliDecompress, createGunzip, createZstdDecompress } from 'node:zlib';
import { FleetError, messageOf } from '../errors.ts';

/** A body must bring at least so many bytes in every so many milliseconds. */
export type Pace = { readonly bytes: number; readonly ms: number };

const DEFAULT_PACE: Pace = { bytes: 12_000, ms: 60_000 };

/** A body on its way; afterwards its size and SHA-256. */
export class UploadBody {
  size = 0;
  readonly hash: Hash = createHash('sha256');
  readonly #request: IncomingMessage;
  readonly #pace: Pace;

  constructor(request: IncomingMessage, pace: Pace = DEFAULT_PACE) {
    this.#request = request;
    this.#pace = pace;
  }

  /** @throws FleetError E_UPLOAD_NAR when the client goes away or stands still before the end. */
  async *chunks(): AsyncGenerator<Uint8Array, void, undefined> {
    const { ms, bytes } = this.#pace;
    let before = 0;
    // Only while we wait for the client: what we ourselves take long to store is not its fault.
    let waiting = false;
    const watch = setInterval(() => {
      if (waiting && this.size - before < bytes) {
        this.#request.destroy(new Error(`fewer than ${bytes} bytes in ${ms / 1000} s`));
      }
      before = this.size;
    }, ms);
    try {
      waiting = true;
      // Not destroyed when we stop early: the client is still to be told why.
      for await (const chunk of this.#request.iterator({ destroyOnReturn: false })) {
        waiting = false;
        this.size += (chunk as Uint8Array).length;
        this.hash.update(chunk as Uint8Array);
        yield chunk as Uint8Array;
        waiting = true;
      }
      if (!this.#request.complete) throw new Error('it was cut');
    } catch (cause) {
      throw new FleetError('E_UPLOAD_NAR', `the body did not arrive: ${messageOf(cause)}`, {
        cause,
      });
    } finally {
      clearInterval(watch);
    }
  }
}

/**
 * A small body, whole, as text-like bytes: at most `most` of them once a Content-Encoding (gzip, br, zstd)
 * is undone.
 * @throws FleetError E_UPLOAD_LIMIT, E_UPLOAD_COMPRESSION, E_UPLOAD_NAR
 */
export async function smallBody(
  request: IncomingMessage,
  most: number,
  pace?: Pace,
): Promise<Buffer> {
  const parts: Buffer[] = [];
  let size = 0;
  for await (const chunk of decodedBody(request, pace)) {
    size += chunk.length;
    if (size > most)
      throw new FleetError('E_UPLOAD_LIMIT', `the body is larger than ${most} bytes`);
    parts.push(Buffer.from(chunk));
  }
  return Buffer.concat(parts);
}

/** The body with its Content-Encoding undone, streamed. @throws as smallBody, but E_UPLOAD_LIMIT. */
export async function* decodedBody(
  request: IncomingMessage,
  pace?: Pace,
): AsyncGenerator<Uint8Array, void, undefined> {
  const coding = (request.headers['content-encoding'] ?? 'identity').trim().toLowerCase();
  const body = new UploadBody(request, pace).chunks();
  const decoder = coding === 'identity' ? null : decoderOf(coding);
  if (decoder === null) {
    yield* body;
    return;
  }
  const source = Readable.from(body, { objectMode: false });
  source.once('error', (error) => decoder.destroy(error));
  source.pipe(decoder);
  try {
    yield* decoder;
  } catch (error) {
    if (error instanceof FleetError) throw error;
    throw new FleetError('E_UPLOAD_NAR', `the body is no ${coding}: ${messageOf(error)}`, {
      cause: error,
    });
  } finally {
    decoder.destroy();
    source.destroy();
  }
}

function decoderOf(coding: string) {
  if (coding === 'gzip' || coding === 'x-gzip') return createGunzip();
  if (coding === 'br') return createBrotliDecompress();
  if (coding === 'zstd') return createZstdDecompress();
  throw new FleetError('E_UPLOAD_COMPRESSION', `Content-Encoding ${coding} is not known here`, {
    hint: 'send it as it is, or with gzip, br or zstd',
  });
}
