// GET and HEAD of `/nar/<blob>.nar.zst`: whole, or for GET one range of it. Never 200 before the
// bytes are open and of the right size. HEAD also says what a client has uploaded, under the client's
// own name for it, so that an interrupted upload is not sent again, nor are the same bytes for another path.
import type { FastifyReply, FastifyRequest } from 'fastify';
import type { Blobs } from '../storage/blobs.ts';
import type { StateReads } from '../storage/state.ts';
import { replyBytes } from './byte-reply.ts';
import { missing } from './missing-reply.ts';
import { parseNarUrl } from './nar-url.ts';

const CACHE_CONTROL = 'private, max-age=31536000, immutable';
const TYPE = 'application/x-nix-nar';

export function narHandler({ state, blobs }: { state: StateReads; blobs: Blobs }) {
  const staged = async (file: string): Promise<number | null> => {
    const nar = await state.stagedNar(file);
    return nar !== null && (await blobs.size(nar.blob)) === nar.blobSize ? nar.fileSize : null;
  };

  return async (request: FastifyRequest, reply: FastifyReply): Promise<FastifyReply> => {
    const { file } = request.params as { file: string };
    const id = parseNarUrl(file);
    const size = id === null ? null : await state.narBlobSize(id);
    await using open = id === null || size === null ? null : await blobs.open(id);
    // Never 200 for a file that was cut or grew: what is behind a URL cannot change.
    if (open === null || size === null || open.size !== size) {
      const length = request.method === 'HEAD' ? await staged(file) : null;
      return length === null
        ? missing(reply)
        : reply
            .type(TYPE)
            .header('content-length', length)
            .header('cache-control', 'no-store')
            .send();
    }
    const etag = `"${id}"`;
    const body = { reader: open, etag, type: TYPE, cacheControl: CACHE_CONTROL };
    return await replyBytes(request, reply, body);
  };
}
