// The read side of the Nix binary cache over HTTP. Index and blobs → what Nix expects (the clients' rules:
// a missing thing is 404, never 5xx; never 200 before the bytes are known to be there; bytes behind one
// URL never change, so NARs may be kept for ever and resumed by range).
import type { ServerResponse } from 'node:http';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import type { NixSecretKey } from '../nix/signature.ts';
import { isHashPart, STORE_DIR } from '../nix/storepath.ts';
import type { Blobs } from '../storage/blobs.ts';
import type { StateReads } from '../storage/state.ts';
import { ClosureNarInfos } from './closure-narinfos.ts';
import { registerMetadataRoutes } from './metadata-routes.ts';
import { missing } from './missing-reply.ts';
import { narHandler } from './nar-route.ts';
import { NarInfoCache } from './narinfo-cache.ts';
import type { TurnVersion } from './turn-version.ts';

export type CacheRoutes = {
  readonly state: StateReads;
  readonly blobs: Blobs;
  /** Another list once others are to sign. */
  readonly keys: () => readonly NixSecretKey[];
  readonly priority: number;
  readonly version: TurnVersion;
  /** Refuses a request that may not read the cache; null: all may. */
  readonly mayRead: ((request: FastifyRequest, reply: FastifyReply) => Promise<unknown>) | null;
};

/** @returns the narinfos, for the way past the framework, which takes two thirds of the time. */
export function registerCacheRoutes(app: FastifyInstance, options: CacheRoutes): NarInfoCache {
  const { state, blobs, keys, priority, mayRead, version } = options;
  const shared = {
    method: ['GET', 'HEAD'],
    ...(mayRead === null ? {} : { preHandler: mayRead }),
    exposeHeadRoute: false,
  };
  const narinfos = new NarInfoCache(state, blobs, keys, version);

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
    ...shared,
    url: NARINFO_ROUTE,
    handler: async (request, reply) => {
      const { hash } = request.params;
      const text = isHashPart(hash) ? await narinfos.get(hash) : null;
      if (text === null) return missing(reply);
      return reply.headers(NARINFO_HEADERS).send(text);
    },
  });
  app.route({ ...shared, url: '/nar/:file', handler: narHandler({ state, blobs }) });
  registerMetadataRoutes(app, { state, blobs, shared });

  const closures = new ClosureNarInfos(state, blobs, narinfos, version);
  app.route({
    ...shared,
    url: '/v1/closures/:closure/narinfos',
    handler: (request, reply) => closures.ofClosure(request, reply),
  });
  app.route({
    ...shared,
    url: '/v1/paths/:hash/narinfos',
    handler: (request, reply) => closures.ofPath(request, reply),
  });

  return narinfos;
}

/** Says a narinfo without the framework, in one write. @returns how many bytes, with the head. */
export function sendNarInfo(response: ServerResponse, text: string): number {
  response.writeHead(200, [...NARINFO_HEADER_LIST, 'content-length', String(text.length)]);
  // Narinfos are ASCII.
  response.end(text, 'latin1');
  // Not public, and what everybody counts by; the socket's own count takes a copy of its queue each time.
  const head = (response as { readonly _header?: string })._header;
  return text.length + (head?.length ?? 0);
}

const NARINFO_URL = '/'.length + 32 + '.narinfo'.length;

/** The hash part that an URL asks the narinfo of; null for every other URL. */
export function narInfoOf(url: string): string | null {
  if (url.length !== NARINFO_URL || !url.endsWith('.narinfo')) return null;
  const hashPart = url.slice(1, 33);
  return isHashPart(hashPart) ? hashPart : null;
}

export const NARINFO_ROUTE = '/:hash.narinfo';

const NARINFO_HEADERS = {
  'content-type': 'text/x-nix-narinfo',
  'cache-control': 'private, max-age=86400',
};

const NARINFO_HEADER_LIST = Object.entries(NARINFO_HEADERS).flat();
