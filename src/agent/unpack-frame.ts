// One zstd frame (a segment of whole NARs, SPEC §12.3) → what it unpacks to, while somebody reads it. Unlike decompress.ts, which takes what
// others made, it is done with each chunk before it asks for the next: so a gigabyte needs the buffers of a chunk.
import { constants, createZstdDecompress } from 'node:zlib';
import { FleetError, messageOf } from '../errors.ts';
import { isBadZstd } from '../nix/decompress.ts';

const OUTPUT_BYTES = 128 * 1024;

/**
 * A chunk of `chunks` is done with when the next is asked for. `windowLog`: of the largest window that is taken.
 * @throws FleetError E_PACK_BAD; what `chunks` throws
 */
export async function* unpackFrame(
  chunks: AsyncIterable<Uint8Array>,
  windowLog: number,
): AsyncGenerator<Uint8Array, void, undefined> {
  const decoder = createZstdDecompress({
    chunkSize: OUTPUT_BYTES,
    rejectGarbageAfterEnd: true,
    params: { [constants.ZSTD_d_windowLogMax]: windowLog },
  });
  const feeding = (async () => {
    for await (const chunk of chunks) {
      const { promise, resolve } = Promise.withResolvers<void>();
      decoder.once('close', resolve);
      decoder.write(chunk, () => resolve());
      await promise;
      decoder.off('close', resolve);
      if (decoder.destroyed) return;
    }
    decoder.end();
  })().catch((error: Error) => void decoder.destroy(error));
  try {
    yield* decoder;
  } catch (error) {
    throw isBadZstd(error)
      ? new FleetError('E_PACK_BAD', `not a zstd frame: ${messageOf(error)}`, { cause: error })
      : error;
  } finally {
    decoder.destroy();
    await feeding;
  }
}
