// Stored bytes, open and whole, as the answer to a GET or HEAD: whole, or for GET one range of them (RFC 9110 §13, §14).
import type { FastifyReply, FastifyRequest } from 'fastify';
import type { BlobReader } from '../storage/blobs.ts';
import { sendBlob } from './nar-stream.ts';
import { parseRange } from './range.ts';

export type StoredBody = {
  readonly reader: BlobReader;
  /** In quotes. It never names other bytes. */
  readonly etag: string;
  readonly type: string;
  readonly cacheControl: string;
};

/** Answers; fulfilled when the last byte has been sent, or the client went away. */
export async function replyBytes(
  request: FastifyRequest,
  reply: FastifyReply,
  { reader, etag, type, cacheControl }: StoredBody,
): Promise<FastifyReply> {
  const { headers } = request;
  const { size } = reader;
  const isHead = request.method === 'HEAD';
  if (matches(headers['if-none-match'], etag)) {
    return reply.code(304).header('etag', etag).header('cache-control', cacheControl).send();
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
    'content-type': type,
    'content-length': part.end - part.start,
    'accept-ranges': 'bytes',
    etag,
    'cache-control': cacheControl,
    ...(range === 'whole'
      ? {}
      : { 'content-range': `bytes ${part.start}-${part.end - 1}/${size}` }),
  };
  if (isHead) return reply.code(200).headers(head).send();
  reply.hijack();
  // Nothing but the socket is between the buffers and the client.
  reply.raw.writeHead(range === 'whole' ? 200 : 206, head);
  await sendBlob(reader, part, reply.raw);
  return reply;
}

/** RFC 9110 §13.1.2, weak comparison: any of the tags listed, or `*`. */
function matches(header: string | undefined, etag: string): boolean {
  if (header === undefined) return false;
  const tags = header.split(',').map((tag) => tag.trim().replace(/^W\//, ''));
  return tags.includes(etag) || tags.includes('*');
}
