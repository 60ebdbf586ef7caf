// GET and HEAD of `/v1/packs/<closure>?base=<base>` (SPEC §12.1): a pack, whole or a range of it; 404 where there is none, with
// Retry-After while it is being made. Never 200 before all that it consists of is there with its right size.
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { replyBytes } from '../cache/byte-reply.ts';
import { joinBlobs } from '../cache/joined-blobs.ts';
import { type BlobId, parseBlobId } from '../storage/blobs.ts';
import type { PackStep } from '../storage/packs.ts';
import { type Auth, guardedBy } from './auth.ts';
import type { PackKeeper } from './pack-keeper.ts';
import { refuse } from './replies.ts';
import type { StateDir } from './statedir.ts';

/** The ETag tells one pack of a step from the next, so it may be kept and has to be asked about. */
const CACHE_CONTROL = 'private, no-cache';

export function registerPacks(
  app: FastifyInstance,
  { blobs }: Pick<StateDir, 'blobs'>,
  keeper: PackKeeper,
  auth: Auth,
): void {
  const answer = async (request: FastifyRequest, reply: FastifyReply): Promise<FastifyReply> => {
    const step = parseStep(request);
    const who = auth.holder(request)?.name ?? '';
    const asked = step === null ? null : await keeper.ask(step, who);
    if (asked?.kind === 'coming') {
      reply.header('retry-after', asked.seconds);
      return refuse(reply, 404, 'E_NOT_FOUND', 'this update pack is being made');
    }
    const [index] = asked?.kind === 'ready' ? asked.pack.parts : [];
    if (asked?.kind !== 'ready' || index === undefined) {
      return refuse(reply, 404, 'E_NOT_FOUND', 'there is no such update pack');
    }
    await using reader = joinBlobs(asked.pack.parts, blobs);
    return await replyBytes(request, reply, {
      reader,
      etag: `"${index.id}"`,
      type: 'application/octet-stream',
      cacheControl: CACHE_CONTROL,
    });
  };
  app.route({
    method: ['GET', 'HEAD'],
    url: '/v1/packs/:closure',
    exposeHeadRoute: false,
    ...guardedBy(auth.mayRead),
    handler: answer,
  });
}

/** null: nothing that could be a step. */
function parseStep({ params, query }: FastifyRequest): PackStep | null {
  const closure = parseBlobId((params as { closure: string }).closure);
  const { base } = query as { base?: string | string[] };
  if (closure === null) return null;
  if (base === undefined) return { closure, base: null };
  const parsed: BlobId | null = typeof base === 'string' ? parseBlobId(base) : null;
  return parsed === null ? null : { closure, base: parsed };
}
