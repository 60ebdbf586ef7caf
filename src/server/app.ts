// Composes the server: Fastify with the cache's routes, the hosts' routes, roots and health.
// Limits stand here, in one place. Nothing is kept in memory between requests that a publication
// could make stale: every request asks the database, which is a local file.
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import Fastify, { type FastifyInstance, type FastifyServerOptions } from 'fastify';
import { registerCacheRoutes } from '../cache/routes.ts';
import { makeAuth } from './auth.ts';
import { registerEnrolment } from './enrolment.ts';
import { registerHostRoutes } from './hosts.ts';
import { refuse, refuseError, statusOf } from './replies.ts';
import type { StateDir } from './statedir.ts';

export type AppOptions = {
  /** PEM texts; without them the server speaks plain HTTP. */
  readonly tls?: { readonly cert: string; readonly key: string };
  /** Where the request log goes; false for none. */
  readonly logger: FastifyServerOptions['logger'];
  /** POSIX seconds; tests set it. */
  readonly now?: () => number;
};

/** The largest body that any route takes: an envelope (60 KiB) and some room. */
const BODY_LIMIT = 64 * 1024;
/** Each may hold a file and its read buffer open. */
const MAX_CONNECTIONS = 2_000;
/** Requests that a client may send ahead on one connection; none of ours or Nix's sends any. */
const MAX_PIPELINED = 8;

export function buildApp(dir: StateDir, options: AppOptions): FastifyInstance {
  const now = options.now ?? (() => Math.floor(Date.now() / 1000));
  // Without it, requestTimeout would be looked at only every 30 s.
  const checks = { connectionsCheckingInterval: 5_000 };
  const app = Fastify({
    logger: options.logger ?? false,
    bodyLimit: BODY_LIMIT,
    // The longest of our path parameters has 80 characters.
    routerOptions: { maxParamLength: 128, ignoreTrailingSlash: false },
    // How long a client may take to send its request, and how long a connection may stand still.
    requestTimeout: 30_000,
    connectionTimeout: 120_000,
    keepAliveTimeout: 65_000,
    frameworkErrors: (error, _request, reply) => void refuseError(reply, error),
    // Stopping does not wait for readers: a NAR that is cut is resumed by its client.
    forceCloseConnections: true,
    ...(options.tls === undefined ? { http: checks } : { https: { ...options.tls, ...checks } }),
  }) as FastifyInstance;
  // Idle and half-open connections are cheap, but not without end.
  app.server.maxConnections = MAX_CONNECTIONS;
  limitPipelining(app);

  // Bodies are signed bytes: they are parsed by their own strict parsers, never by Fastify's.
  app.removeAllContentTypeParsers();
  app.addContentTypeParser('*', { parseAs: 'buffer' }, (_request, body, done) => done(null, body));

  app.setErrorHandler((error, request, reply) => {
    if (statusOf(error) >= 500) request.log.error(error);
    return refuseError(reply, error);
  });
  app.setNotFoundHandler((_request, reply) =>
    refuse(reply, 404, 'E_NOT_FOUND', 'there is nothing at this address'),
  );

  const auth = makeAuth(dir.state, dir.config.public, now);
  registerCacheRoutes(app, {
    state: dir.state,
    blobs: dir.blobs,
    keys: dir.cacheKeys,
    priority: dir.config.cachePriority,
    mayRead: auth.mayRead,
  });
  registerHostRoutes(app, dir, auth, now);
  registerEnrolment(app, dir, now);

  app.get<{ Params: { file: string } }>(
    '/v1/root/:file',
    { preHandler: auth.mayRead },
    async (request, reply) => {
      const version = Number(/^([1-9]\d{0,6})\.json$/.exec(request.params.file)?.[1] ?? 0);
      const signed = dir.roots[version - 1];
      if (signed === undefined) {
        return refuse(reply, 404, 'E_NOT_FOUND', 'there is no root of that version');
      }
      return reply.type('application/json; charset=utf-8').send(signed.envelope);
    },
  );

  app.get('/healthz', async (_request, reply) => reply.type('text/plain').send('ok\n'));
  app.get('/readyz', async (_request, reply) => {
    // Ready means that what every answer needs can be read.
    await dir.state.credential('');
    return reply.type('text/plain').send('ready\n');
  });
  return app;
}

/**
 * Ends connections on which a client sends requests without reading the answers: each would hold its
 * file and buffers until the ones before it are read.
 */
function limitPipelining(app: FastifyInstance): void {
  const underWay = new WeakMap<Socket, number>();
  app.server.on('request', ({ socket }: IncomingMessage, response: ServerResponse) => {
    const count = (underWay.get(socket) ?? 0) + 1;
    underWay.set(socket, count);
    response.once('close', () => underWay.set(socket, (underWay.get(socket) ?? 1) - 1));
    if (count > MAX_PIPELINED) socket.destroy();
  });
}
