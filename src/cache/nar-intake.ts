// The bytes of a NAR from a client, of which nothing is known yet → a blob in our form, and all that has
// to be known of it, in one pass: form, hash, size, listing, debug files, which paths it mentions, and
// for a single file its own hash. Nothing is kept of what is refused.
import { createHash, type Hash } from 'node:crypto';
import { FleetError } from '../errors.ts';
import { formatNarHash, type NarHash } from '../nix/hash.ts';
import { MentionScanner } from '../nix/mentions.ts';
import { NarListing } from '../nix/nar-listing.ts';
import { NarParser } from '../nix/nar-read.ts';
import type { Blobs } from '../storage/blobs.ts';
import type { StagedNar } from '../storage/state.ts';
import { compressedStream } from './compress.ts';
import { contentsOf } from './nar-contents.ts';

export type IntakeOptions = {
  readonly blobs: Blobs;
  /** zstd's, 1 to 19. */
  readonly level: number;
  /** A NAR of more bytes is refused. */
  readonly maxBytes: number;
};

export type TakenNar = Omit<StagedNar, 'file' | 'fileHash' | 'fileSize'>;

/**
 * Stores the NAR that `chunks` are, unpacked.
 * @throws FleetError E_NAR_BAD, E_NAR_TRUNCATED, E_UPLOAD_LIMIT, E_DISK_FULL; or what `chunks` throws.
 */
export async function takeNar(
  chunks: AsyncIterable<Uint8Array>,
  { blobs, level, maxBytes }: IntakeOptions,
): Promise<TakenNar> {
  const inspection = new Inspection(maxBytes);
  const blob = await blobs.put(compressedStream(inspection.pass(chunks), level));
  return {
    narHash: formatNarHash(inspection.hash.digest()),
    narSize: inspection.size,
    blob: blob.id,
    blobSize: blob.size,
    flatHash: inspection.flatHash(),
    mentions: [...inspection.mentions.found],
    contents: await contentsOf(inspection.listing),
  };
}

/**
 * Whether the bytes are there, asked of the disk: sizes from memory may be a moment old. Asked after they
 * were named it holds for good: a collection looks for names once more before it removes a file.
 */
export async function isOnDisk(
  { blob, blobSize }: Pick<StagedNar, 'blob' | 'blobSize'>,
  blobs: Blobs,
): Promise<boolean> {
  await using open = await blobs.open(blob);
  return open?.size === blobSize;
}

/** All that looks at the bytes while they pass. */
class Inspection {
  size = 0;
  readonly hash = createHash('sha256');
  readonly listing = new NarListing();
  readonly mentions = new MentionScanner();
  readonly #parser = new NarParser();
  readonly #maxBytes: number;
  /** Of the contents, while the NAR is one file that is not executable (Nix calls no other flat). */
  #flat: Hash | null = null;

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  async *pass(chunks: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
    for await (const chunk of chunks) {
      this.size += chunk.length;
      if (this.size > this.#maxBytes) {
        throw new FleetError('E_UPLOAD_LIMIT', `the NAR is larger than ${this.#maxBytes} bytes`);
      }
      for (const event of this.#parser.push(chunk)) {
        this.listing.add(event);
        if (event.type === 'file' && event.name === null && !event.executable) {
          this.#flat = createHash('sha256');
        }
        if (event.type === 'contents') this.#flat?.update(event.data);
      }
      this.hash.update(chunk);
      this.mentions.push(chunk);
      yield chunk;
    }
    this.#parser.finish();
  }

  flatHash(): NarHash | null {
    return this.#flat === null ? null : formatNarHash(this.#flat.digest());
  }
}
