// A NAR's listing → what the index keeps of its insides: the document as one zstd frame, and its debug
// files.
import { promisify } from 'node:util';
import { zstdCompress, zstdCompressSync } from 'node:zlib';
import type { NarListing } from '../nix/nar-listing.ts';
import type { NarContents } from '../storage/state.ts';

const compressAside = promisify<Uint8Array, Buffer>(zstdCompress);
/** Below, the way to the thread pool and back takes longer than the work. */
const SMALL = 32 * 1024;

export async function contentsOf(listing: NarListing): Promise<NarContents> {
  const json = listing.finish();
  const { debugFiles } = listing;
  if (json === null) return { listing: null, debugFiles };
  const bytes = Buffer.from(json);
  const frame = bytes.length <= SMALL ? zstdCompressSync(bytes) : await compressAside(bytes);
  return { listing: frame, debugFiles };
}
