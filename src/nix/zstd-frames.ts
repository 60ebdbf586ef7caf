// Chunks of zstd → the same bytes, cut where frames end (RFC 8878 §3.1), because Node's decoder takes
// one frame of a chunk and calls what follows junk, but goes on with the next chunk. So files of
// several frames (pzstd, `cat a.zst b.zst`) unpack whole, however the line cut them.
// It looks at headers only, and hands on what it does not understand: the decoder refuses that.
// Refuses more frames than real files have, for each costs a turn of the decoder.
import { FleetError } from '../errors.ts';

const MAGIC = 0xfd2fb528;
/** Any of 16, whose last digit is free. */
const SKIPPABLE = 0x184d2a50;
const MAX_FRAMES = 16_384;
/** Of a block's header, and of the magic number with the descriptor. */
const BLOCK_HEADER = 3;
const FRAME_START = 5;

/** @throws FleetError E_NAR_BAD for more than 16,384 frames */
export async function* splitFrames(
  chunks: AsyncIterable<Uint8Array>,
): AsyncGenerator<Uint8Array, void, undefined> {
  const walker = new FrameWalker();
  for await (const chunk of chunks) {
    let start = 0;
    for (const end of walker.frameEnds(chunk)) {
      yield chunk.subarray(start, end);
      start = end;
    }
    if (start < chunk.length) yield chunk.subarray(start);
  }
}

/** What is read next: pieces of a few bytes, between stretches that are passed over. */
type Stage = 'frame' | 'skippable' | 'block' | 'end' | 'unknown';

class FrameWalker {
  #stage: Stage = 'frame';
  /** Bytes to pass over before the stage's piece. */
  #skip = 0;
  readonly #piece = Buffer.alloc(FRAME_START + 3);
  #held = 0;
  #checksum = 0;
  #frames = 0;

  /** Where in `chunk` frames end. */
  *frameEnds(chunk: Uint8Array): Generator<number> {
    let at = 0;
    while (this.#stage !== 'unknown') {
      const passed = Math.min(this.#skip, chunk.length - at);
      at += passed;
      this.#skip -= passed;
      if (this.#skip > 0) return;
      if (this.#stage === 'end') {
        this.#stage = 'frame';
        this.#frames += 1;
        if (this.#frames > MAX_FRAMES) {
          throw new FleetError('E_NAR_BAD', `not a zstd stream: over ${MAX_FRAMES} frames`);
        }
        yield at;
      }
      if (at === chunk.length) return;
      this.#piece[this.#held++] = chunk[at++] ?? 0;
      if (this.#held === this.#wanted()) this.#take();
    }
  }

  #wanted(): number {
    if (this.#stage === 'block') return BLOCK_HEADER;
    return this.#stage === 'skippable' ? 8 : FRAME_START;
  }

  #take(): void {
    if (this.#stage === 'block') {
      const header = this.#piece.readUIntLE(0, BLOCK_HEADER);
      // A block of one byte repeated (type 1) has that byte; the others have as many as they say.
      this.#skip = ((header >> 1) & 3) === 1 ? 1 : header >> 3;
      const isLast = (header & 1) === 1;
      if (isLast) this.#skip += this.#checksum;
      this.#enter(isLast ? 'end' : 'block');
    } else if (this.#stage === 'skippable') {
      this.#skip = this.#piece.readUInt32LE(4);
      this.#enter('end');
    } else this.#takeFrameStart();
  }

  #takeFrameStart(): void {
    const magic = this.#piece.readUInt32LE(0);
    if ((magic & 0xfffffff0) >>> 0 === SKIPPABLE) {
      // Its size begins with the byte that was taken for a descriptor.
      this.#stage = 'skippable';
      return;
    }
    const descriptor = this.#piece[4] ?? 0;
    const isSingleSegment = (descriptor & 0x20) !== 0;
    const window = isSingleSegment ? 0 : 1;
    const dictionary = [0, 1, 2, 4][descriptor & 3] ?? 0;
    const size = [isSingleSegment ? 1 : 0, 2, 4, 8][descriptor >> 6] ?? 0;
    this.#skip = window + dictionary + size;
    this.#checksum = (descriptor & 4) === 0 ? 0 : 4;
    this.#enter(magic === MAGIC ? 'block' : 'unknown');
  }

  #enter(stage: Stage): void {
    this.#stage = stage;
    this.#held = 0;
  }
}
