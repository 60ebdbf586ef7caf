// Can this server do its work? Process up is /healthz; ready is more: the database answers, and the files
// of both stores are there. For a load balancer or an alarm, so 503 and one line that says what is wrong,
// without any path of ours. A full disk is not here: hosts can still be served, and a metric tells of it.
import { access, constants } from 'node:fs/promises';
import type { FastifyInstance } from 'fastify';
import type { StateDir } from './statedir.ts';

export function registerHealth(
  app: FastifyInstance,
  { state, layout }: Pick<StateDir, 'state' | 'layout'>,
  onError: ((error: unknown) => void) | undefined,
): void {
  const needs = [
    ['the database cannot be read', () => state.credential('')],
    ['the database cannot be written', () => access(layout.database, constants.W_OK)],
    ['the store of blobs cannot be read', () => access(layout.blobs, constants.R_OK)],
  ] as const;
  app.get('/healthz', async (_request, reply) => reply.type('text/plain').send('ok\n'));
  app.get('/readyz', async (_request, reply) => {
    reply.type('text/plain').header('cache-control', 'no-store');
    for (const [what, check] of needs) {
      try {
        await check();
      } catch (error) {
        onError?.(error);
        return reply.code(503).header('retry-after', '10').send(`not ready: ${what}\n`);
      }
    }
    return reply.send('ready\n');
  });
}
