// What a cache says about paths besides narinfos: listings, build logs, debug files, realisations.
// Each is looked up by a name that is parsed first; what has no name that could be, or is not there, is
// 404. Listings and logs are stored as zstd frames: sent as they are to who takes zstd, else unpacked.
import { pipeline, type Readable } from 'node:stream';
import { promisify } from 'node:util';
import { createZstdDecompress, zstdDecompress } from 'node:zlib';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { isRealisationKey } from '../nix/realisation.ts';
import {
  hashPartOf,
  isHashPart,
  parseStorePathBaseName,
  type StorePath,
} from '../nix/storepath.ts';
import type { Blobs } from '../storage/blobs.ts';
import type { CachedPath, StateReads } from '../storage/state.ts';
import { accepts } from './accept-encoding.ts';
import { missing } from './missing-reply.ts';
import { formatNarUrl } from './nar-url.ts';

export type MetadataRoutes = {
  readonly state: StateReads;
  readonly blobs: Blobs;
  /** What every one of these routes has in common: methods, guard. */
  readonly shared: Omit<Parameters<FastifyInstance['route']>[0], 'url' | 'handler'>;
};

const unpack = promisify<Uint8Array, Buffer>(zstdDecompress);
const LASTING = 'private, max-age=31536000, immutable';

export function registerMetadataRoutes(app: FastifyInstance, options: MetadataRoutes): void {
  const { state, blobs, shared } = options;
  const isThere = async (row: CachedPath | null): Promise<boolean> =>
    row !== null && (row.blob === null || (await blobs.size(row.blob)) === row.blobSize);

  app.route({
    ...shared,
    url: '/:hash.ls',
    handler: async (request, reply) => {
      const { hash } = request.params as { hash: string };
      const row = isHashPart(hash) ? await state.cachedPath(hash) : null;
      const frame = (await isThere(row)) ? await state.listing(hash) : null;
      if (frame === null) return missing(reply);
      reply.type('application/json').header('cache-control', 'private, max-age=86400');
      reply.header('vary', 'accept-encoding');
      if (!accepts(request.headers['accept-encoding'], 'zstd'))
        return reply.send(await unpack(frame));
      return reply.header('content-encoding', 'zstd').send(frame);
    },
  });

  app.route({
    ...shared,
    url: '/log/:drv',
    handler: async (request, reply) => {
      const drv = derivationOf((request.params as { drv: string }).drv);
      const blob = drv === null ? null : await state.buildLog(drv);
      const isWhole = blob !== null && (await blobs.size(blob.id)) === blob.size;
      const body = isWhole ? await blobs.get(blob.id) : null;
      if (body === null) return missing(reply);
      reply.type('text/plain; charset=utf-8').header('cache-control', LASTING);
      return sendFrame(body, request, reply);
    },
  });

  app.route({
    ...shared,
    url: '/debuginfo/:buildId',
    handler: async (request, reply) => {
      const { buildId } = request.params as { buildId: string };
      const id = /^([0-9a-f]{40})(\.debug)?$/.exec(buildId)?.[1];
      const found = id === undefined ? null : await state.debugFile(id);
      if (found === null || !(await isThere(found.row))) return missing(reply);
      const { row, member } = found;
      const archive = row.blob === null ? row.upstream.url : `../${formatNarUrl(row.blob)}`;
      return reply
        .type('application/json')
        .header('cache-control', 'private, max-age=86400')
        .send(JSON.stringify({ archive, member }));
    },
  });

  const realisation = async (request: FastifyRequest, reply: FastifyReply) => {
    const key = realisationKeyOf(request);
    const record = key === null ? null : await state.realisation(key);
    const row = record === null ? null : await state.cachedPath(hashPartOf(record.outPath));
    // A client that is told of an output here does not ask for it elsewhere.
    if (record === null || row?.path !== record.outPath || !(await isThere(row))) {
      return missing(reply);
    }
    return reply
      .type('application/json')
      .header('cache-control', 'private, no-cache')
      .send(record.json);
  };
  app.route({ ...shared, url: '/realisations/:id', handler: realisation });
  app.route({ ...shared, url: '/build-trace-v2/:drv/:output', handler: realisation });
}

/** The store path of a derivation from its base name, or null where it is none. */
export function derivationOf(name: string): StorePath | null {
  if (!name.endsWith('.drv')) return null;
  try {
    return parseStorePathBaseName(name);
  } catch {
    return null;
  }
}

/** The key of the realisation that a request is about, or null where it can be none. */
export function realisationKeyOf(request: FastifyRequest): string | null {
  const { id, drv, output } = request.params as { id?: string; drv?: string; output?: string };
  const key = id === undefined ? `build-trace-v2/${drv}/${output}` : `realisations/${id}`;
  return isRealisationKey(key) ? key : null;
}

/** Sends one zstd frame, unpacked where the client does not take zstd. */
function sendFrame(body: Readable, request: FastifyRequest, reply: FastifyReply): FastifyReply {
  reply.header('vary', 'accept-encoding');
  if (accepts(request.headers['accept-encoding'], 'zstd')) {
    return reply.header('content-encoding', 'zstd').send(body);
  }
  const decoder = createZstdDecompress();
  // Fastify ends the answer when the decoder fails.
  pipeline(body, decoder, () => {});
  return reply.send(decoder);
}
