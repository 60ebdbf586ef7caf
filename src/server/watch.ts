// Every request from its head to the end of its answer: counted by route, and counted on its connection.
// A client that sends requests ahead without reading the answers is cut off: each would hold its file
// and buffers until the ones before it are read. One listener does both; each costs what a tenth of a
// narinfo does.
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import type { FastifyInstance } from 'fastify';
import type { Metrics } from './metrics.ts';

type Watched = ServerResponse & { [ROUTE]?: string; [START]?: number };
type Counted = Socket & { [UNDER_WAY]?: number };

const ROUTE = Symbol('route');
const START = Symbol('start');
const UNDER_WAY = Symbol('requests under way');

/** Names the route of an answer that no handler of the framework gives. */
export function setRoute(response: ServerResponse, route: string): void {
  (response as Watched)[ROUTE] = route;
}

/** `most`: requests under way on one connection. */
export function watch(app: FastifyInstance, observe: Metrics['observe'], most: number): void {
  app.addHook('onRoute', (route) => {
    const { url } = route;
    // Within what runs first anyway: a hook of its own would cost more than the counting.
    const { handler, preHandler } = route;
    route.handler = function (request, reply) {
      (reply.raw as Watched)[ROUTE] = url;
      return handler.call(this, request, reply);
    };
    if (typeof preHandler !== 'function') return;
    route.preHandler = function (request, reply, done) {
      (reply.raw as Watched)[ROUTE] = url;
      return preHandler.call(this, request, reply, done);
    };
  });

  function ended(this: Watched): void {
    const socket = this.req.socket as Counted;
    socket[UNDER_WAY] = (socket[UNDER_WAY] ?? 1) - 1;
    const seconds = (performance.now() - (this[START] ?? 0)) / 1000;
    // What has no route has one name: addresses come from clients.
    observe(this.req.method ?? '', this[ROUTE] ?? 'none', this.statusCode, seconds);
  }

  app.server.on('request', (request: IncomingMessage, response: Watched) => {
    const socket = request.socket as Counted;
    response[START] = performance.now();
    response.on('close', ended);
    socket[UNDER_WAY] = (socket[UNDER_WAY] ?? 0) + 1;
    if (socket[UNDER_WAY] > most) socket.destroy();
  });
}
