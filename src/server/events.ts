// Hints (SPEC §8.1): hosts that hold a connection open are told, as Server-Sent Events, that something newer was
// published for them. A hint carries no trust and nothing that matters: who gets one asks for its offer, and
// who gets none asks from time to time. So a hint may be lost, and nothing here is ever retried.
import type { ServerResponse } from 'node:http';
import type { FastifyInstance } from 'fastify';
import type { StateReads } from '../storage/state.ts';
import { type Auth, guardedBy } from './auth.ts';
import type { PublishedLog, View } from './published.ts';

/** What other processes publish is seen so much later at most, in milliseconds. */
const LOOK_EVERY = 250;
/** Proxies and routers forget connections on which nothing moves. In milliseconds; SPEC §8.1. */
const KEEP_ALIVE = 25_000;
/** Of one host: a machine that lost its line may come again before the old connection is known to be dead. */
const MOST_PER_HOST = 2;
/** What may wait on a connection; who does not read at all has no use for hints. */
const MOST_WAITING = 4096;

/** A host that listens, and the newest of its manifests that is known here. */
type Listener = {
  readonly response: ServerResponse;
  /** Of what it showed when it came: a token that is revoked ends its connection. */
  readonly tokenHash: string;
  shown: string | null;
};

export type EventOptions = {
  readonly lookEvery?: number;
  readonly keepAlive?: number;
  readonly onError?: ((error: unknown) => void) | undefined;
};

export function registerEvents(
  app: FastifyInstance,
  { state }: { readonly state: Pick<StateReads, 'credential'> },
  published: PublishedLog,
  auth: Auth,
  now: () => number,
  { lookEvery = LOOK_EVERY, keepAlive = KEEP_ALIVE, onError }: EventOptions = {},
): void {
  const hosts = new Map<string, Listener[]>();
  let seen: View | null = null;
  let isClosed = false;

  const look = async (): Promise<void> => {
    if (hosts.size === 0) return;
    const view = await published.view();
    // A checkpoint that was only renewed is of the same tree.
    if (isClosed || view === null || view.hosts === seen?.hosts) return;
    seen = view;
    for (const [host, listening] of hosts) {
      const newest = newestOf(view, host);
      for (const listener of listening) {
        if (newest === null || newest === listener.shown) continue;
        listener.shown = newest;
        listener.response.write('event: published\ndata: \n\n');
      }
    }
  };
  const beat = async (): Promise<void> => {
    for (const { response, tokenHash } of [...hosts.values()].flat()) {
      const credential = await state.credential(tokenHash);
      if (isClosed) return;
      const lives = credential !== null && (credential.expiresAt ?? Number.MAX_VALUE) > now();
      if (!lives) response.end();
      else if (response.writableLength > MOST_WAITING) response.destroy();
      else response.write(':\n\n');
    }
  };
  /** Does `work` again and again, each time so many milliseconds after the last. */
  const repeat = (ms: number, work: () => Promise<void>): void => {
    setTimeout(() => {
      if (isClosed) return;
      void work()
        .catch((error) => onError?.(error))
        .finally(() => repeat(ms, work));
    }, ms).unref();
  };
  app.addHook('onReady', async () => {
    repeat(lookEvery, look);
    repeat(keepAlive, beat);
  });
  app.addHook('preClose', async () => {
    isClosed = true;
    for (const { response } of [...hosts.values()].flat()) response.end();
  });

  app.get<{ Params: { host: string } }>(
    '/v1/hosts/:host/events',
    guardedBy(auth.isHost),
    async (request, reply) => {
      const { host } = request.params;
      const tokenHash = auth.holder(request)?.tokenHash ?? '';
      const view = await published.view();
      const response = reply.hijack().raw;
      // It may have gone while that was looked up, and so may this server.
      if (isClosed || response.destroyed || response.socket === null) {
        response.destroy();
        return;
      }
      const listener: Listener = { response, tokenHash, shown: view && newestOf(view, host) };
      const others = hosts.get(host) ?? [];
      while (others.length >= MOST_PER_HOST) others.shift()?.response.end();
      hosts.set(host, [...others, listener]);
      response.once('close', () => {
        const left = (hosts.get(host) ?? []).filter((one) => one !== listener);
        if (left.length === 0) hosts.delete(host);
        else hosts.set(host, left);
      });
      response.writeHead(200, {
        'content-type': 'text/event-stream',
        'cache-control': 'no-store',
        // nginx would gather an answer before it passes it on.
        'x-accel-buffering': 'no',
      });
      // So that the client knows that nothing on the way keeps answers back.
      response.write(':\n\n');
    },
  );
}

/** What tells a host's newest manifest from others. */
function newestOf(view: View, host: string): string | null {
  const place = view.places.get(host);
  const leaf = place === undefined ? undefined : view.hosts.leaf(place);
  return leaf === undefined ? null : Buffer.from(leaf).toString('base64');
}
