// The transparency log over HTTP, as C2SP tlog-tiles has it: the checkpoint, tiles and entries, for auditors
// and their own tools. Of a tile only what the checkpoint covers is served, so nothing is seen before it is
// published. Open to all with `publicLog`, else to whoever may read.
import { promisify } from 'node:util';
import { gzip } from 'node:zlib';
import type { FastifyInstance } from 'fastify';
import { accepts } from '../cache/accept-encoding.ts';
import { formatBatch } from '../manifest/approval.ts';
import type { State } from '../storage/state.ts';
import { parseCheckpoint } from '../tlog/checkpoint.ts';
import { parseNote } from '../tlog/note.ts';
import { parseTilePath, widthOfTile } from '../tlog/tile.ts';
import { type Guard, guardedBy } from './auth.ts';
import type { PublishedLog } from './published.ts';
import { refuse } from './replies.ts';

const compress = promisify(gzip);

/** `mayRead`: null where everybody may. */
export function registerLog(
  app: FastifyInstance,
  published: Pick<PublishedLog, 'store' | 'view'>,
  state: Pick<State, 'approvals'>,
  mayRead: Guard | null,
): void {
  const guard = guardedBy(mayRead);

  app.get('/tlog/checkpoint', guard, async (_request, reply) => {
    await published.view();
    const text = await published.store.checkpoint();
    if (text === null) return refuse(reply, 404, 'E_NOT_FOUND', 'nothing was published yet');
    return reply.type('text/plain; charset=utf-8').header('cache-control', 'no-cache').send(text);
  });

  // Not of C2SP: what the approval at an entry is about, which the log holds the hash of.
  app.get<{ Params: { index: string } }>('/tlog/batch/:index', guard, async (request, reply) => {
    const index = Number(/^(0|[1-9]\d{0,14})$/.exec(request.params.index)?.[0] ?? Number.NaN);
    const view = await published.view();
    const isThere = view !== null && index < view.checkpoint.size;
    const [approval] = isThere ? await state.approvals(view.log, index, index + 1) : [];
    if (approval === undefined) {
      return refuse(reply, 404, 'E_NOT_FOUND', 'the log has no approval at this entry');
    }
    return reply.type('text/plain; charset=utf-8').send(formatBatch(approval.batch));
  });

  app.get<{ Params: { '*': string } }>('/tlog/tile/*', guard, async (request, reply) => {
    const id = parseTilePath(`tile/${request.params['*']}`);
    const { store } = published;
    const text = id === null ? null : await store.checkpoint();
    const size = text === null ? 0 : parseCheckpoint(parseNote(text).text).size;
    const isPublished = id !== null && id.width <= widthOfTile(id.level, id.index, size);
    const bytes = isPublished ? await store.tile(id) : null;
    if (id === null || bytes === null) {
      return refuse(reply, 404, 'E_NOT_FOUND', 'the log has no such tile');
    }
    reply
      .type('application/octet-stream')
      .header(
        'cache-control',
        `${mayRead === null ? 'public' : 'private'}, max-age=31536000, immutable`,
      );
    // Hashes do not get smaller; entries do, by half.
    if (id.level !== 'entries') return reply.send(bytes);
    reply.header('vary', 'accept-encoding');
    if (!accepts(request.headers['accept-encoding'], 'gzip')) return reply.send(bytes);
    return reply.header('content-encoding', 'gzip').send(await compress(bytes, { level: 6 }));
  });
}
