// The file name of a NAR in the cache's URLs: `<sha256 of the compressed bytes, hex>.nar.zst`.
// Content-addressed, so what is behind a URL can never change.
import { type BlobId, parseBlobId } from '../storage/blobs.ts';

const SUFFIX = '.nar.zst';

/** `nar/<blob>.nar.zst`, relative to the cache's base URL, as a narinfo's URL field has it. */
export function formatNarUrl(blob: BlobId): string {
  return `nar/${blob}${SUFFIX}`;
}

/** The blob that the last segment of a NAR's URL names, or null when it names none. */
export function parseNarUrl(file: string): BlobId | null {
  return file.endsWith(SUFFIX) ? parseBlobId(file.slice(0, -SUFFIX.length)) : null;
}
