// GET and HEAD of `/nar/<blob>.nar.zst`: whole, or for GET one range of it (RFC 9110 §14). Never 200 before the
// bytes are open and of the right size. HEAD also says what a client has uploaded, under the client's
// own name for it, so that an interrupted upload is not sent again, nor are the same bytes for another path.
import type { FastifyReply, FastifyRequest } from 'fastify';
import type { Blobs } from '../storage/blobs.ts';
import type { StateReads } from '../storage/state.ts';
import { missing } from './missing-reply.ts';
import { sendBlob } from './nar-stream.ts';
import { parseNarUrl } from './nar-url.ts';
import { parseRange } from './range.ts';

const CACHE_CONTROL = 'private, max-age=31536000, immutable';
const TYPE = 'application/x-nix-nar';

export function narHandler({ state, blobs }: { state: StateReads; blobs: Blobs }) {
  const staged = async (file: string): Promise<number | null> => {
    const nar = await state.stagedNar(file);
    return nar !== null && (await blobs.size(nar.blob)) === nar.blobSize ? nar.fileSize : null;
  };

  return async (request: FastifyRequest, reply: FastifyReply): Promise<FastifyReply> => {
    const { file } = request.params as { file: string };
    const isHead = request.method === 'HEAD';
    const id = parseNarUrl(file);
    const size = id === null ? null : await state.narBlobSize(id);
    await using open = id === null || size === null ? null : await blobs.open(id);
    // Never 200 for a file that was cut or grew: what is behind a URL cannot change.
    if (open === null || size === null || open.size !== size) {
      const length = isHead ? await staged(file) : null;
      return length === null
        ? missing(reply)
        : reply
            .type(TYPE)
            .header('content-length', length)
            .header('cache-control', 'no-store')
            .send();
    }
    const etag = `"${id}"`;
    const { headers } = request;
    if (matches(headers['if-none-match'], etag)) {
      return reply.code(304).header('etag', etag).header('cache-control', CACHE_CONTROL).send();
    }
    // RFC 9110 §13.1.5 and §14.2: a range counts only while the validator still matches, and only for GET.
    const ifRange = headers['if-range'];
    const mayBePart = !isHead && (ifRange === undefined || ifRange === etag);
    const range = mayBePart ? parseRange(headers.range, size) : 'whole';
    if (range === 'unsatisfiable') {
      return reply
        .code(416)
        .header('content-range', `bytes */${size}`)
        .header('cache-control', 'no-store')
        .send();
    }
    const part = range === 'whole' ? { start: 0, end: size } : range;
    const head = {
      'content-type': TYPE,
      'content-length': part.end - part.start,
      'accept-ranges': 'bytes',
      etag,
      'cache-control': CACHE_CONTROL,
      ...(range === 'whole'
        ? {}
        : { 'content-range': `bytes ${part.start}-${part.end - 1}/${size}` }),
    };
    if (isHead) return reply.code(200).headers(head).send();
    reply.hijack();
    // Nothing but the socket is between the buffers and the client.
    reply.raw.writeHead(range === 'whole' ? 200 : 206, head);
    await sendBlob(open, part, reply.raw);
    return reply;
  };
}

/** RFC 9110 §13.1.2, weak comparison: any of the tags listed, or `*`. */
function matches(header: string | undefined, etag: string): boolean {
  if (header === undefined) return false;
  const tags = header.split(',').map((tag) => tag.trim().replace(/^W\//, ''));
  return tags.includes(etag) || tags.includes('*');
}
