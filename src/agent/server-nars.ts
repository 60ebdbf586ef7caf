// NARs as the server (or an upstream that a narinfo names) has them → unpacked, and exactly the signed bytes: it stops at the
// first byte too many, and caps the window. Streamed with backpressure, never held whole. What comes of it is counted.
import { FleetError, isFleetError, messageOf } from '../errors.ts';
import { decompress } from '../nix/decompress.ts';
import { checkNar } from '../nix/nar-check.ts';
import type { NarInfo } from '../nix/narinfo.ts';
import type { Source } from './source.ts';

export class ServerNars {
  /** Compressed bytes that came. */
  received = 0;
  readonly #source: Source;

  constructor(source: Source) {
    this.#source = source;
  }

  /** @throws FleetError E_NAR_REFUSED, E_FETCH, E_SERVER_… */
  async *nar(info: NarInfo, signal: AbortSignal): AsyncGenerator<Uint8Array, void, undefined> {
    // Incompressible data grows by at most 1/256 and a frame's header, zstd's and none's alike.
    const most = info.narSize + Math.ceil(info.narSize / 128) + 1024;
    const address = /^https?:/.test(info.url) ? info.url : `/${info.url}`;
    const body = this.#count(this.#source.stream(address, most, signal));
    try {
      yield* checkNar(decompress(body, info.compression), info);
    } catch (error) {
      throw refusal(info, error);
    }
  }

  async *#count(chunks: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array, void, undefined> {
    for await (const chunk of chunks) {
      this.received += chunk.length;
      yield chunk;
    }
  }
}

/** What the line did stays what it is; all else is the server's doing, and names the path. */
function refusal(info: NarInfo, error: unknown): unknown {
  if (isFleetError(error, 'E_SERVER_ANSWER')) {
    return new FleetError('E_FETCH', `the NAR of ${info.path}: ${error.message}`, { cause: error });
  }
  const bad =
    isFleetError(error, 'E_NAR_BAD', 'E_NAR_LIMIT', 'E_NAR_MISMATCH', 'E_NAR_TRUNCATED') ||
    isFleetError(error, 'E_BODY_LIMIT');
  if (!bad) return error;
  return new FleetError('E_NAR_REFUSED', `the NAR of ${info.path}: ${messageOf(error)}`, {
    cause: error,
  });
}
