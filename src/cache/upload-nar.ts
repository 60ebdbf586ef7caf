// `PUT /nar/<file>`: a NAR, compressed as its name says, arrives, is unpacked and taken in (nar-intake.ts),
// and is kept under the client's name for it, for the narinfos that name it. Where that name is a hash, as Nix
// names its files, the bytes must have it: a later HEAD then vouches for them.
import type { IncomingMessage } from 'node:http';
import { FleetError, isFleetError } from '../errors.ts';
import { decompress } from '../nix/decompress.ts';
import { formatNarHash } from '../nix/hash.ts';
import type { Compression } from '../nix/narinfo.ts';
import type { Blobs } from '../storage/blobs.ts';
import type { State } from '../storage/state.ts';
import { isOnDisk, takeNar } from './nar-intake.ts';
import { type Pace, UploadBody } from './upload-body.ts';

/** What zstd's highest levels use: 128 MiB, for as long as one upload takes. */
const WINDOW_LOG = 27;

const ENDINGS: ReadonlyMap<string, Compression> = new Map([
  ['.nar', 'none'],
  ['.nar.zst', 'zstd'],
  ['.nar.xz', 'xz'],
]);

/** How a file of this name is compressed; null when it cannot be unpacked here. */
export function compressionOf(file: string): Compression | null {
  return ENDINGS.get(/\.nar(\.[a-z0-9]+)?$/.exec(file)?.[0] ?? '') ?? null;
}

export type NarUpload = {
  readonly state: State;
  readonly blobs: Blobs;
  readonly level: number;
  readonly maxBytes: number;
  readonly pace?: Pace;
  /** POSIX seconds; asked when the NAR has arrived, which may take hours. */
  readonly now: () => number;
};

/** @throws FleetError E_UPLOAD_NAR, E_UPLOAD_MISMATCH, E_UPLOAD_LIMIT, E_UPLOAD_COMPRESSION, E_DISK_FULL, E_STATE_BUSY */
export async function acceptNar(
  file: string,
  request: IncomingMessage,
  { state, blobs, level, maxBytes, pace, now }: NarUpload,
): Promise<void> {
  const compression = compressionOf(file);
  if (compression === null || (request.headers['content-encoding'] ?? 'identity') !== 'identity') {
    throw new FleetError(
      'E_UPLOAD_COMPRESSION',
      `${file} is not compressed with zstd, xz or nothing`,
    );
  }
  if (!/^[0-9A-Za-z][0-9A-Za-z._-]{0,200}$/.test(file)) {
    throw new FleetError('E_UPLOAD_MISMATCH', 'that cannot be the name of a NAR');
  }
  const body = new UploadBody(request, pace);
  try {
    const chunks = decompress(body.chunks(), compression, { windowLog: WINDOW_LOG });
    const nar = await takeNar(chunks, { blobs, level, maxBytes });
    const fileHash = formatNarHash(body.hash.digest());
    const named = /^([0-9a-z]{52})\.nar/.exec(file)?.[1];
    if (named !== undefined && fileHash !== `sha256:${named}`) {
      throw new FleetError('E_UPLOAD_MISMATCH', `${file} has the hash ${fileHash}`);
    }
    await state.stageNar({ ...nar, file, fileHash, fileSize: body.size }, now());
    // A collection that was under way may have taken it as nobody's before it was named.
    if (!(await isOnDisk(nar, blobs))) {
      throw new FleetError('E_STATE_BUSY', `${file} was removed before it could be named`, {
        hint: 'send it again',
      });
    }
  } catch (cause) {
    if (!isFleetError(cause, 'E_NAR_BAD', 'E_NAR_TRUNCATED')) throw cause;
    throw new FleetError('E_UPLOAD_NAR', `${file}: ${cause.message}`, { cause });
  }
}
