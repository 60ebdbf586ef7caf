// NARs, one after another → one zstd frame (SPEC §12.3, whole). It is unpacked like any NAR.
import { constants, createZstdCompress, type ZstdCompress } from 'node:zlib';

const LEVEL = 9;
/** 8 MiB: four times as much would make it 2 % smaller. */
const MOST_WINDOW_LOG = 23;
const CHUNK_BYTES = 256 * 1024;

/** The frame of `nars`, which have `bytes` bytes together. Memory: some eight windows. */
export async function* packWhole(
  nars: AsyncIterable<Uint8Array>,
  bytes: number,
): AsyncGenerator<Uint8Array, void, undefined> {
  const encoder = createZstdCompress({
    chunkSize: CHUNK_BYTES,
    pledgedSrcSize: bytes,
    params: {
      [constants.ZSTD_c_compressionLevel]: LEVEL,
      [constants.ZSTD_c_windowLog]: windowLogOf(bytes),
      [constants.ZSTD_c_checksumFlag]: 1,
    },
  });
  const feeding = (async () => {
    for await (const chunk of nars) {
      // Whoever takes the frame may have given up while this chunk was made; then nothing will be drained.
      if (encoder.destroyed) return;
      // A copy: the producer may use its chunk again.
      if (!encoder.write(Uint8Array.from(chunk))) await drained(encoder);
    }
    encoder.end();
  })().catch((error: Error) => void encoder.destroy(error));
  try {
    yield* encoder;
  } finally {
    encoder.destroy();
    await feeding;
  }
}

/** Until it takes more, or never will. */
async function drained(encoder: ZstdCompress): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  encoder.once('drain', resolve).once('close', resolve);
  await promise;
  encoder.off('drain', resolve).off('close', resolve);
}

/** Bytes of memory that unpacking the frame takes. */
export function wholeMemory(bytes: number): number {
  return 2 ** windowLogOf(bytes) + 1024 * 1024;
}

function windowLogOf(bytes: number): number {
  return Math.min(MOST_WINDOW_LOG, Math.max(10, Math.ceil(Math.log2(bytes))));
}
