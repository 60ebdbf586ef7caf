// Requests for narinfos that arrive in one turn of the event loop → their answers, past the framework, all
// together at the turn's end: a write that finds its client asleep has to wake it, which costs the kernel
// more than all the rest, and a client that gets several answers in a row sleeps less. Where the turn
// before had one request only, the first is not kept waiting. What needs more than memory to answer, or is
// to be refused, goes on to the framework, which answers the same.
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { NarInfoCache } from '../cache/narinfo-cache.ts';
import { NARINFO_ROUTE, narInfoOf, sendNarInfo } from '../cache/routes.ts';
import type { TurnVersion } from '../cache/turn-version.ts';
import type { Auth } from './auth.ts';
import type { Metrics } from './metrics.ts';

type Handler = (request: IncomingMessage, response: ServerResponse) => void;
type Asked = { request: IncomingMessage; response: ServerResponse; hashPart: string };

export type TurnOptions = {
  readonly narinfos: NarInfoCache;
  readonly auth: Pick<Auth, 'mayReadAt'>;
  readonly version: TurnVersion;
  readonly observe: Metrics['observe'];
  /** The framework. */
  readonly handler: Handler;
};

/** Takes every request; those for narinfos it answers itself where it can. */
export function answerInTurns(options: TurnOptions): Handler {
  const { narinfos, auth, version, observe, handler } = options;
  /** Requests in this turn, and in the one before. */
  let count = 0;
  let before = 0;
  /** When this turn's first request came. */
  let began = 0;
  let waiting: Asked[] = [];

  const answer = (asked: Asked, now: number): void => {
    const { request, response, hashPart } = asked;
    // What waits behind another answer, or has yet to send a body, is the framework's, which counts them.
    const isAlone = response.socket !== null && request.complete;
    if (!isAlone || !auth.mayReadAt(request, now)) {
      handler(request, response);
      return;
    }
    const text = narinfos.at(hashPart, now);
    if (text === null) void lookUp(asked);
    else send(response, text);
  };
  const send = (response: ServerResponse, text: string): void => {
    const bytes = sendNarInfo(response, text);
    observe('GET', NARINFO_ROUTE, 200, (performance.now() - began) / 1000, bytes);
  };
  const lookUp = async ({ request, response, hashPart }: Asked): Promise<void> => {
    const text = await narinfos.get(hashPart).catch(() => null);
    // Missing, or trouble: how that is said is the framework's business.
    if (text === null) handler(request, response);
    else send(response, text);
  };
  const endTurn = (): void => {
    before = count;
    count = 0;
    if (waiting.length === 0) return;
    const all = waiting;
    waiting = [];
    void answerAll(all);
  };
  const answerAll = async (all: readonly Asked[]): Promise<void> => {
    const now = await version.read().catch(() => null);
    for (const asked of all) {
      if (now === null) handler(asked.request, asked.response);
      else answer(asked, now);
    }
  };

  return (request, response) => {
    const hashPart = request.method === 'GET' ? narInfoOf(request.url ?? '') : null;
    if (hashPart === null) {
      handler(request, response);
      return;
    }
    const asked = { request, response, hashPart };
    count += 1;
    if (count === 1) {
      began = performance.now();
      setImmediate(endTurn);
    }
    if (count === 1 && before <= 1) void answerAll([asked]);
    else waiting.push(asked);
  };
}
