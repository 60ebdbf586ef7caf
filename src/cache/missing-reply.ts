// What a cache says of what it does not have: 404, never kept, whatever had been prepared before.
import type { FastifyReply } from 'fastify';

export function missing(reply: FastifyReply): FastifyReply {
  return reply
    .code(404)
    .removeHeader('content-length')
    .removeHeader('content-range')
    .removeHeader('content-encoding')
    .removeHeader('etag')
    .header('cache-control', 'no-store')
    .type('text/plain')
    .send('not in this cache\n');
}
