// The Nix binary cache over HTTP: nix-cache-info, narinfo, NAR. Index and blobs → what Nix expects
// (the clients' rules: a missing thing is 404, never 5xx; never 200 before the bytes are known to be
// there; bytes behind one URL never change, so NARs may be kept for ever and resumed by range).
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import type { NixSecretKey } from '../nix/signature.ts';
import { isHashPart, STORE_DIR } from '../nix/storepath.ts';
import type { Blobs } from '../storage/blobs.ts';
import type { StateReads } from '../storage/state.ts';
import { parseNarUrl } from './nar-url.ts';
import { narInfoFor } from './narinfo-view.ts';
import { parseRange } from './range.ts';

export type CacheRoutes = {
  readonly state: StateReads;
  readonly blobs: Blobs;
  readonly keys: readonly NixSecretKey[];
  readonly priority: number;
  /** Refuses a request that may not read the cache. */
  readonly mayRead: (request: FastifyRequest, reply: FastifyReply) => Promise<unknown>;
};

const YEAR = 31_536_000;

export function registerCacheRoutes(app: FastifyInstance, options: CacheRoutes): void {
  const { state, blobs, keys, priority, mayRead } = options;
  const guarded = { method: ['GET', 'HEAD'], preHandler: mayRead, exposeHeadRoute: false };

  // Open to all: a client asks for it before it sends credentials, and 403 here would be fatal to it.
  app.route({
    method: ['GET', 'HEAD'],
    url: '/nix-cache-info',
    exposeHeadRoute: false,
    handler: async (_request, reply) =>
      reply
        .type('text/x-nix-cache-info')
        .header('cache-control', 'public, max-age=3600')
        .send(`StoreDir: ${STORE_DIR}\nWantMassQuery: 1\nPriority: ${priority}\n`),
  });

  app.route<{ Params: { hash: string } }>({
    ...guarded,
    url: '/:hash.narinfo',
    handler: async (request, reply) => {
      const { hash } = request.params;
      if (!isHashPart(hash)) return missing(reply);
      const row = await state.cachedPath(hash);
      // An index row without its bytes must not make a client skip another substituter.
      const isThere =
        row !== null && (row.blob === null || (await blobs.size(row.blob)) === row.blobSize);
      if (!isThere) return missing(reply);
      return reply
        .type('text/x-nix-narinfo')
        .header('cache-control', 'private, max-age=86400')
        .send(narInfoFor(row, keys));
    },
  });

  app.route<{ Params: { file: string } }>({
    ...guarded,
    url: '/nar/:file',
    handler: async (request, reply) => {
      const id = parseNarUrl(request.params.file);
      const size = id === null ? null : await state.narBlobSize(id);
      // Never 200 for a file that was cut or grew: what is behind a URL cannot change.
      if (id === null || size === null || (await blobs.size(id)) !== size) return missing(reply);
      const etag = `"${id}"`;
      reply
        .type('application/x-nix-nar')
        .header('etag', etag)
        .header('accept-ranges', 'bytes')
        .header('cache-control', `private, max-age=${YEAR}, immutable`);
      if (request.headers['if-none-match'] === etag) return reply.code(304).send();

      // RFC 9110 §13.1.5: a range counts only while the validator still matches.
      const ifRange = request.headers['if-range'];
      const range =
        ifRange === undefined || ifRange === etag
          ? parseRange(request.headers.range, size)
          : 'whole';
      if (range === 'unsatisfiable') {
        return reply
          .code(416)
          .header('content-range', `bytes */${size}`)
          .header('cache-control', 'no-store')
          .send();
      }
      const part = range === 'whole' ? { start: 0, end: size } : range;
      if (range !== 'whole') {
        reply.code(206).header('content-range', `bytes ${part.start}-${part.end - 1}/${size}`);
      }
      reply.header('content-length', part.end - part.start);
      if (request.method === 'HEAD') return reply.send();
      const body = await blobs.get(id, part);
      if (body === null) return missing(reply);
      return reply.send(body);
    },
  });
}

function missing(reply: FastifyReply): FastifyReply {
  return reply
    .code(404)
    .removeHeader('content-length')
    .removeHeader('content-range')
    .removeHeader('etag')
    .header('cache-control', 'no-store')
    .type('text/plain')
    .send('not in this cache\n');
}
