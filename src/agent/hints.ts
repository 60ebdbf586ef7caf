// The server's hints (SPEC §8.1): a connection that is held open, on which the server says that something newer
// was published. What a hint says is ignored, and nothing depends on one: where hints are blocked, kept back or
// cut off, the agent still asks from time to time. Built on node:http alone, as the process that waits is
// there all day: see run.ts.
import type { IncomingMessage } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { readProxies } from './proxy.ts';

// An `import` would load all that node:http exports, Node's own undici among it: 13 MiB and 30 ms.
const http = process.getBuiltinModule('node:http');
const https = process.getBuiltinModule('node:https');

/** Where hints come from; asked for anew at each connection, as the token changes. */
export type HintPlace = { readonly server: string; readonly host: string; readonly token: string };

export type HintOptions = {
  readonly place: () => Promise<HintPlace>;
  /** Something may be new; also each time a connection is there. */
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
  /** A connection that lives so long has worked; one that does not is tried again ever later. */
  readonly steady: number;
  /** Between two connections that are taken for hints, where none lives long. */
  readonly look: number;
  /** Between attempts: at first, after a connection was lost, and after an answer that was no stream. */
  readonly first: number;
  readonly lost: number;
  readonly refused: number;
};

const LIMITS: Limits = {
  silence: 90_000,
  patience: 60_000,
  steady: 60_000,
  look: 300_000,
  first: 1_000,
  lost: 60_000,
  refused: 600_000,
};

/** The longest line that is listened to. */
const MOST_LINE = 4096;

/** How a connection ended; `refused`: it never was one for hints. `lived`: in milliseconds, from its first byte on. */
type Ended = { readonly reason: string; readonly refused: boolean; readonly lived: number };

/** Listens until `signal` is aborted. */
export async function listenForHints(options: HintOptions): Promise<void> {
  const { signal, random = Math.random, onHint, onState } = options;
  const limits = { ...LIMITS, ...options.limits };
  let failures = 0;
  /** When a connection that was there was last taken for a hint; null: never. */
  let lookedAt: number | null = null;
  /** What was said last, so that a line that comes and goes is not told of each time. */
  let told: 'open' | 'lost' | null = null;
  while (!signal.aborted) {
    const ended = await listenOnce(options, limits, () => {
      if (told !== 'open' && failures < 3) {
        told = 'open';
        onState?.(null);
      }
      // What was published while nobody listened, also before the first time. Not so often where the line cuts
      // every connection off: the usual pace does as well.
      if (lookedAt !== null && performance.now() - lookedAt < limits.look) return;
      lookedAt = performance.now();
      onHint();
    });
    if (signal.aborted) return;
    if (ended.lived >= limits.steady) {
      failures = 0;
      lookedAt = null;
    }
    if (told !== 'lost') {
      told = 'lost';
      onState?.(ended.reason);
    }
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
  let openedAt: number | null = null;
  const end = (reason: string, refused = false): Ended => {
    const lived = openedAt === null ? 0 : performance.now() - openedAt;
    return { reason, refused, lived };
  };
  try {
    const response = await connect(await place(), limits.patience, signal);
    const type = response.headers['content-type'] ?? '';
    if (response.statusCode !== 200 || !/^text\/event-stream\b/i.test(type)) {
      response.destroy();
      return end(`the server answered ${response.statusCode} ${type}`.trim(), true);
    }
    const silence = new Error(`nothing was heard for ${limits.silence / 1000} s`);
    const timer = setTimeout(() => response.destroy(silence), limits.silence);
    try {
      const events = new EventLines();
      for await (const chunk of response as AsyncIterable<Buffer>) {
        timer.refresh();
        // Only now: a proxy may have made up the head, and keep the rest back.
        if (openedAt === null) {
          openedAt = performance.now();
          onOpen();
        }
        if (events.push(chunk.toString('latin1'))) onHint();
      }
    } finally {
      clearTimeout(timer);
      response.destroy();
    }
    return end('the connection was closed');
  } catch (error) {
    return end(error instanceof Error ? error.message : String(error));
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
  const settings = { keepAlive: false, proxyEnv: { ...readProxies() } };
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
