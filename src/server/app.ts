// Composes the server: Fastify with the cache's routes, the hosts' routes, roots, health and metrics.
// Limits stand here, in one place. Nothing is kept in memory between requests that a publication
// could make stale: every request asks the database, which is a local file.
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import type { Readable } from 'node:stream';
import Fastify, { type FastifyInstance, type FastifyRequest } from 'fastify';
import { registerCacheRoutes } from '../cache/routes.ts';
import { TurnVersion } from '../cache/turn-version.ts';
import { registerUploadRoutes } from '../cache/upload-routes.ts';
import { parseNixPublicKey } from '../nix/signature.ts';
import { guardedBy, makeAuth } from './auth.ts';
import { registerEnrolment } from './enrolment.ts';
import { registerEvents } from './events.ts';
import { registerFresh } from './fresh.ts';
import { registerHealth } from './health.ts';
import { registerHostRoutes } from './hosts.ts';
import { type Metrics, makeMetrics, registerMetrics } from './metrics.ts';
import { answerInTurns } from './narinfo-turns.ts';
import { PackKeeper } from './pack-keeper.ts';
import { countPacks } from './pack-metrics.ts';
import { registerPacks } from './pack-route.ts';
import { PublishedLog } from './published.ts';
import { registerTokenRenewal } from './renew-token.ts';
import { refuse, refuseError, statusOf } from './replies.ts';
import type { StateDir } from './statedir.ts';
import { registerLog } from './tlog.ts';
import { requestId, watch } from './watch.ts';

// An `import` would load all that node:http exports, Node's own undici among it: 13 MiB.
const http = process.getBuiltinModule('node:http');
const https = process.getBuiltinModule('node:https');

export type AppOptions = {
  /** PEM texts; without them the server speaks plain HTTP. */
  readonly tls?: { readonly cert: string; readonly key: string };
  /** Of the program, for metrics. */
  readonly version?: string;
  /** Takes one JSON line, without its end, for every request. */
  readonly accessLog?: (line: string) => void;
  /** Told of what went wrong inside, and in which request of the log. */
  readonly onError?: (error: unknown, requestId?: number | null) => void;
  /** Told when a host has a key that the log does not tell yet. */
  readonly onEnrolled?: () => void;
  /** POSIX seconds; tests set it. */
  readonly now?: () => number;
  /** Times in milliseconds; tests set less. */
  readonly limits?: Partial<Limits>;
};

type Limits = {
  /** For a request's head to arrive. */
  readonly headers: number;
  /** For a small body to arrive. Uploads are measured by their progress instead. */
  readonly body: number;
  /** For a connection on which nothing moves. */
  readonly standstill: number;
  /** For the rest of a request that was answered before its end. */
  readonly drain: number;
  /** How many connections. Each may hold a file and its read buffer open; most are hosts that wait for hints. */
  readonly connections: number;
};

const LIMITS: Limits = {
  headers: 30_000,
  body: 30_000,
  standstill: 120_000,
  drain: 10_000,
  connections: 10_000,
};

/** The largest body that any route takes: an envelope (60 KiB) and some room. */
const BODY_LIMIT = 64 * 1024;
/** Requests that a client may send ahead on one connection; none of ours or Nix's sends any. */
const MAX_PIPELINED = 8;

/** The server, what it counts, and what it does besides. */
export type App = FastifyInstance & {
  readonly metrics: Metrics;
  /** Makes packs once it is run. */
  readonly packs: PackKeeper;
};

type Handler = (request: IncomingMessage, response: ServerResponse) => void;

export function buildApp(dir: StateDir, options: AppOptions): App {
  const now = options.now ?? (() => Math.floor(Date.now() / 1000));
  const limits = { ...LIMITS, ...options.limits };
  // Without it, headersTimeout would be looked at only every 30 s.
  const checks = {
    // Not of the whole request: a large upload on a slow line takes hours.
    requestTimeout: 0,
    connectionsCheckingInterval: Math.min(5_000, limits.headers),
    headersTimeout: limits.headers,
  };
  let answer: Handler = () => {};
  let framework: Handler = () => {};
  const app = Fastify({
    // Ours is another (watch.ts): this one would log queries, and costs as much as a narinfo's look-up.
    logger: false,
    bodyLimit: BODY_LIMIT,
    // The longest of our path parameters is the name of a realisation.
    routerOptions: { maxParamLength: 300, ignoreTrailingSlash: false },
    trustProxy: dir.config.trustedProxies.length === 0 ? false : [...dir.config.trustedProxies],
    frameworkErrors: (error, _request, reply) => void refuseError(reply, error),
    // Stopping does not wait for readers: a NAR that is cut is resumed by its client.
    forceCloseConnections: true,
    serverFactory: (handler) => {
      framework = handler;
      const listener: Handler = (request, response) => answer(request, response);
      const { tls } = options;
      return tls === undefined
        ? http.createServer(checks, listener)
        : https.createServer({ ...tls, ...checks, handshakeTimeout: limits.headers }, listener);
    },
  }) as FastifyInstance;
  // Idle and half-open connections are cheap, but not without end.
  app.server.maxConnections = limits.connections;
  app.server.keepAliveTimeout = 0;
  app.server.setTimeout(limits.standstill);
  if (options.tls !== undefined) endHandshakes(app);

  // Bodies are signed bytes: they are parsed by their own strict parsers, never by Fastify's.
  app.removeAllContentTypeParsers();
  app.addContentTypeParser('*', (request: FastifyRequest, payload: Readable) =>
    smallBody(payload, Number(request.headers['content-length'] ?? 0), limits.body),
  );

  app.setErrorHandler((error, _request, reply) => {
    if (statusOf(error) >= 500) options.onError?.(error, requestId(reply.raw));
    return refuseError(reply, error);
  });
  app.setNotFoundHandler((_request, reply) =>
    refuse(reply, 404, 'E_NOT_FOUND', 'there is nothing at this address'),
  );

  const version = new TurnVersion(dir.state);
  const auth = makeAuth(dir.state, dir.config.public, now, version);
  const metrics = makeMetrics(dir, auth.counts, options.version ?? '');
  const begin = watch(app, {
    observe: metrics.observe,
    most: MAX_PIPELINED,
    drain: limits.drain,
    log: options.accessLog,
  });
  const narinfos = registerCacheRoutes(app, {
    state: dir.state,
    blobs: dir.blobs,
    keys: () => dir.cacheKeys,
    priority: dir.config.cachePriority,
    version,
    mayRead: auth.mayRead,
  });
  const handler: Handler = (request, response) => {
    begin(request, response);
    framework(request, response);
  };
  // The log wants more of each request than is cheap to know.
  answer =
    options.accessLog !== undefined
      ? handler
      : answerInTurns({ narinfos, auth, version, observe: metrics.observe, handler });
  registerUploadRoutes(app, {
    state: dir.state,
    blobs: dir.blobs,
    mayPush: auth.mayPush,
    level: dir.config.zstdLevel,
    maxNarBytes: dir.config.uploadMaxBytes,
    trustedKeys: dir.config.uploadKeys.map(parseNixPublicKey),
    references: dir.config.uploadReferences,
    now,
    onUpload: metrics.onUpload,
  });
  registerMetrics(app, metrics, auth.mayAdmin);
  const published = new PublishedLog(dir);
  registerHostRoutes(app, dir, published, auth, now, options.onError);
  registerFresh(app, dir, published, auth, now);
  registerEvents(app, dir, published, auth, now, { onError: options.onError });
  registerLog(app, published, dir.state, dir.config.publicLog ? null : auth.mayRead);
  const packs = new PackKeeper(dir, { now, onError: (error) => options.onError?.(error) });
  countPacks(metrics.registry, packs);
  registerPacks(app, dir, packs, auth);
  registerEnrolment(app, dir, auth, now, options.onEnrolled);
  registerTokenRenewal(app, dir, auth, now);

  app.get<{ Params: { file: string } }>(
    '/v1/root/:file',
    guardedBy(auth.mayRead),
    async (request, reply) => {
      await dir.refreshRoots();
      const version = Number(/^([1-9]\d{0,6})\.json$/.exec(request.params.file)?.[1] ?? 0);
      const signed = dir.roots[version - 1];
      if (signed === undefined) {
        return refuse(reply, 404, 'E_NOT_FOUND', 'there is no root of that version');
      }
      return reply.type('application/json; charset=utf-8').send(signed.envelope);
    },
  );

  registerHealth(app, dir, options.onError);
  return Object.assign(app, { metrics, packs });
}

/** http knows of a connection only after its handshake: closing would wait for those that are in it, or never come to it. */
function endHandshakes(app: FastifyInstance): void {
  const sockets = new Set<Socket>();
  let isClosing = false;
  app.server.on('connection', (socket: Socket) => {
    if (isClosing) socket.destroy();
    else sockets.add(socket);
    socket.once('close', () => sockets.delete(socket));
  });
  app.addHook('preClose', async () => {
    isClosing = true;
    for (const socket of sockets) socket.destroy();
  });
}

/** The whole of a body, within BODY_LIMIT and in time. `announced`: its Content-Length, or 0. */
async function smallBody(payload: Readable, announced: number, ms: number): Promise<Buffer> {
  const refused = (statusCode: number, why: string): Error =>
    Object.assign(new Error(why), { statusCode });
  const tooLarge = (): Error => refused(413, `the body is larger than ${BODY_LIMIT} bytes`);
  if (announced > BODY_LIMIT) throw tooLarge();
  const tooLate = setTimeout(() => payload.destroy(refused(408, 'the body took too long')), ms);
  try {
    const parts: Buffer[] = [];
    let size = 0;
    for await (const part of payload.iterator({ destroyOnReturn: false })) {
      size += part.length;
      if (size > BODY_LIMIT) throw tooLarge();
      parts.push(part);
    }
    return Buffer.concat(parts);
  } catch (error) {
    // Who went away in mid-body is no fault of ours.
    throw error instanceof Error && 'statusCode' in error
      ? error
      : refused(400, 'the body was cut');
  } finally {
    clearTimeout(tooLate);
  }
}
