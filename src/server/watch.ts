// Every request from its head to the end of its answer: counted by route, logged where asked for, and
// counted on its connection. A client that sends requests ahead without reading the answers is cut off:
// each would hold its file and buffers until the ones before it are read; so is one that has its answer
// and does not come to the end of its request. It costs a fifth of a narinfo, so those that are answered past the
// framework (narinfo-turns.ts) are counted there, and never wait here.
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import type { FastifyInstance } from 'fastify';
import type { Metrics } from './metrics.ts';
import { formatLogEntry } from './request-log.ts';

type Watched = ServerResponse & {
  [ROUTE]?: string;
  [START]?: number;
  [ID]?: number;
  /** What had been written to the connection before. */
  [BEFORE]?: number;
  [REMOTE]?: string;
  [CREDENTIAL]?: string;
};
type Counted = Socket & { [UNDER_WAY]?: number };

const ROUTE = Symbol('route');
const START = Symbol('start');
const ID = Symbol('id');
const BEFORE = Symbol('bytes before');
const REMOTE = Symbol('remote address');
const CREDENTIAL = Symbol('name of the credential');
const UNDER_WAY = Symbol('requests under way');

export type WatchOptions = {
  readonly observe: Metrics['observe'];
  /** Requests under way on one connection. */
  readonly most: number;
  /** How long a client may go on sending after it was answered, in milliseconds. */
  readonly drain: number;
  /** Takes one line for each request, without its end. */
  readonly log?: ((line: string) => void) | undefined;
};

/** Names the credential that let a request in. */
export function setCredential(response: ServerResponse, name: string): void {
  (response as Watched)[CREDENTIAL] = name;
}

/** The number that the log gives to the request of this answer. */
export function requestId(response: ServerResponse): number | null {
  return (response as Watched)[ID] ?? null;
}

/** @returns what is to be told of each request, before it is answered: it may be answered at once. */
export function watch(
  app: FastifyInstance,
  { observe, most, drain, log }: WatchOptions,
): (request: IncomingMessage, response: ServerResponse) => void {
  app.addHook('onRoute', (route) => {
    const { url } = route;
    // Within what runs first anyway: a hook of its own would cost more than the counting.
    const { handler, onRequest, preHandler } = route;
    route.handler = function (request, reply) {
      (reply.raw as Watched)[ROUTE] = url;
      return handler.call(this, request, reply);
    };
    if (typeof onRequest === 'function') {
      route.onRequest = function (request, reply, done) {
        (reply.raw as Watched)[ROUTE] = url;
        return onRequest.call(this, request, reply, done);
      };
    }
    if (typeof preHandler === 'function') {
      route.preHandler = function (request, reply, done) {
        (reply.raw as Watched)[ROUTE] = url;
        return preHandler.call(this, request, reply, done);
      };
    }
  });
  if (log !== undefined) {
    app.addHook('onRequest', (request, reply, done) => {
      (reply.raw as Watched)[REMOTE] = request.ip;
      done();
    });
  }

  function ended(this: Watched): void {
    const { req: request } = this;
    const socket = request.socket as Counted;
    socket[UNDER_WAY] = (socket[UNDER_WAY] ?? 1) - 1;
    if (!request.complete) endSoon(request, socket, drain);
    const ms = performance.now() - (this[START] ?? 0);
    // What has no route has one name: addresses come from clients.
    const { [ROUTE]: route = 'none', statusCode: status } = this;
    const { method = '', url = '' } = request;
    const bytes = socket.bytesWritten - (this[BEFORE] ?? 0);
    observe(method, route, status, ms / 1000, bytes);
    log?.(
      formatLogEntry({
        time: Date.now(),
        id: this[ID] ?? 0,
        remote: this[REMOTE] ?? socket.remoteAddress ?? '',
        method,
        url,
        route,
        status,
        whole: this.writableFinished,
        bytes,
        ms,
        credential: this[CREDENTIAL] ?? null,
      }),
    );
  }

  let requests = 0;
  return (request, response: Watched) => {
    const socket = request.socket as Counted;
    requests += 1;
    response[ID] = requests;
    response[START] = performance.now();
    response[BEFORE] = socket.bytesWritten;
    response.on('close', ended);
    socket[UNDER_WAY] = (socket[UNDER_WAY] ?? 0) + 1;
    if (socket[UNDER_WAY] > most) socket.destroy();
  };
}

/** Node reads the rest of a request that was answered early, and forgets it; but not for ever. */
function endSoon(request: IncomingMessage, socket: Socket, ms: number): void {
  const timer = setTimeout(() => socket.destroy(), ms);
  timer.unref();
  request.once('close', () => clearTimeout(timer));
}
