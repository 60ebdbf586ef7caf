// The server's hints (SPEC §8.1): a connection that is held open, on which the server says that something newer
// was published. What a hint says is ignored, and nothing depends on one: where hints are blocked, kept back or
// cut off, the agent still asks from time to time. Built on node:http alone, as the process that waits is
// there all day: see run.ts.
import type { IncomingMessage } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';

// An `import` would load all that node:http exports, Node's own undici among it: 13 MiB and 30 ms.
const http = process.getBuiltinModule('node:http');
const https = process.getBuiltinModule('node:https');

/** Where hints come from; asked for anew at each connection, as the token changes. */
export type HintPlace = { readonly server: string; readonly host: string; readonly token: string };

export type HintOptions = {
  readonly place: () => Promise<HintPlace>;
  /** Something may be new; also after a connection that was lost is there again. */
  readonly onHint: () => void;
  /** Told when hints begin to come, and (with the reason) when they no longer do. */
  readonly onState?: (reason: string | null) => void;
  readonly signal: AbortSignal;
  /** 0 to 1; tests set it. */
  readonly random?: () => number;
  readonly limits?: Partial<Limits>;
};

/** All in milliseconds. */
type Limits = {
  /** The server says something every 25 s. */
  readonly silence: number;
  /** For a connection and the head of its answer. */
  readonly patience: number;
  /** Between attempts: at first, after a connection was lost, and after an answer that was no stream. */
  readonly first: number;
  readonly lost: number;
  readonly refused: number;
};

const LIMITS: Limits = {
  silence: 90_000,
  patience: 60_000,
  first: 1_000,
  lost: 60_000,
  refused: 600_000,
};

/** The longest line that is listened to. */
const MOST_LINE = 4096;

/** Hints came on this connection until it ended. */
type Ended = { readonly worked: boolean; readonly reason: string; readonly refused: boolean };

/** Listens until `signal` is aborted. */
export async function listenForHints(options: HintOptions): Promise<void> {
  const { signal, random = Math.random, onHint, onState } = options;
  const limits = { ...LIMITS, ...options.limits };
  let failures = 0;
  let wasLost = false;
  while (!signal.aborted) {
    const ended = await listenOnce(options, limits, () => {
      failures = 0;
      onState?.(null);
      // What was published while nobody listened.
      if (wasLost) onHint();
    });
    if (signal.aborted) return;
    if (ended.worked || !wasLost) onState?.(ended.reason);
    wasLost = true;
    const most = ended.refused ? limits.refused : limits.lost;
    const wait = Math.min(most, limits.first * 2 ** Math.min(failures, 20));
    failures += 1;
    // From half of it on: a fleet whose server started anew does not come all at once.
    await sleep(wait * (0.5 + random() / 2), undefined, { signal }).catch(() => {});
  }
}

async function listenOnce(
  { place, onHint, signal }: HintOptions,
  limits: Limits,
  onOpen: () => void,
): Promise<Ended> {
  let worked = false;
  try {
    const response = await connect(await place(), limits.patience, signal);
    const type = response.headers['content-type'] ?? '';
    if (response.statusCode !== 200 || !/^text\/event-stream\b/i.test(type)) {
      response.destroy();
      const reason = `the server answered ${response.statusCode} ${type}`.trim();
      return { worked, reason, refused: true };
    }
    const timer = setTimeout(() => response.destroy(new Error('silence')), limits.silence);
    try {
      const events = new EventLines();
      for await (const chunk of response as AsyncIterable<Buffer>) {
        timer.refresh();
        // Only now: a proxy may have made up the head, and keep the rest back.
        if (!worked) onOpen();
        worked = true;
        if (events.push(chunk.toString('latin1'))) onHint();
      }
    } finally {
      clearTimeout(timer);
      response.destroy();
    }
    return { worked, reason: 'the connection was closed', refused: false };
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    return { worked, reason, refused: false };
  }
}

async function connect(
  { server, host, token }: HintPlace,
  patience: number,
  signal: AbortSignal,
): Promise<IncomingMessage> {
  const url = new URL(`${server}/v1/hosts/${host}/events`);
  const isTls = url.protocol === 'https:';
  // Its own connection, through the proxy that the environment names.
  const settings = { keepAlive: false, proxyEnv: process.env };
  const request = (isTls ? https : http).request(url, {
    agent: isTls ? new https.Agent(settings) : new http.Agent(settings),
    headers: {
      accept: 'text/event-stream',
      authorization: `Bearer ${token}`,
      'cache-control': 'no-store',
      'user-agent': 'fleet-agent',
    },
    signal,
  });
  return await new Promise<IncomingMessage>((resolve, reject) => {
    const late = () => request.destroy(new Error(`no answer in ${patience / 1000} s`));
    const timer = setTimeout(late, patience);
    request.once('response', (response) => {
      clearTimeout(timer);
      resolve(response);
    });
    request.once('close', () => clearTimeout(timer));
    // Stays: a connection that breaks later says so here as well.
    request.on('error', reject);
    request.end();
  });
}

/** Finds the ends of events (WHATWG, "Server-sent events") in text that comes in pieces. */
class EventLines {
  #line = '';
  /** Whether the event at hand has any field; comments are none. */
  #hasField = false;

  /** Whether an event ended in `text`. @throws Error for a line without end. */
  push(text: string): boolean {
    let isEnded = false;
    const lines = `${this.#line}${text}`.split(/\r\n|\n|\r(?!$)/);
    this.#line = lines.pop() ?? '';
    if (this.#line.length > MOST_LINE) throw new Error('a line without end');
    for (const line of lines) {
      if (line === '') {
        isEnded ||= this.#hasField;
        this.#hasField = false;
      } else if (!line.startsWith(':')) this.#hasField = true;
    }
    return isEnded;
  }
}
