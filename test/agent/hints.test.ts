// Listening for hints, against servers and proxies that behave in every way seen in the field.
import assert from 'node:assert/strict';
import type { RequestListener, ServerResponse } from 'node:http';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { listenForHints } from '../../src/agent/hints.ts';
import { serveHttp } from '../helpers/http.ts';

const QUICK = {
  silence: 300,
  patience: 300,
  steady: 15,
  look: 200,
  first: 20,
  lost: 80,
  refused: 80,
};

/** Listens to `listener` until `until` says that it is enough; returns what was heard. */
async function listen(
  listener: RequestListener,
  until: (heard: { hints: number; states: (string | null)[]; requests: number }) => boolean,
  limits: Partial<typeof QUICK> = {},
) {
  const heard = { hints: 0, states: [] as (string | null)[], requests: 0, authorizations: [''] };
  await using server = await serveHttp((request, response) => {
    heard.requests += 1;
    heard.authorizations.push(request.headers.authorization ?? '');
    listener(request, response);
  });
  const stop = new AbortController();
  let tokens = 0;
  const listening = listenForHints({
    place: async () => ({ server: server.url, host: 'alpha', token: `token-${++tokens}` }),
    onHint: () => {
      heard.hints += 1;
    },
    onState: (reason) => heard.states.push(reason),
    signal: stop.signal,
    limits: { ...QUICK, ...limits },
  });
  const deadline = performance.now() + 10_000;
  while (!until(heard)) {
    assert.ok(performance.now() < deadline, JSON.stringify(heard));
    await sleep(5);
  }
  stop.abort();
  await listening;
  return heard;
}

function open(response: ServerResponse): void {
  response.writeHead(200, { 'content-type': 'text/event-stream; charset=utf-8' });
  response.write(':\n\n');
}

test('an event is a hint, whatever it says and however it is cut', async () => {
  const pieces = [
    'event: pub',
    'lished\nda',
    'ta: {"run": "rm"}\n',
    '\n',
    ': still here\n\n',
    'data\r',
    '\n\r\n',
    'id:1\n\n',
  ];
  const heard = await listen(
    (request, response) => {
      assert.equal(request.url, '/v1/hosts/alpha/events');
      open(response);
      void (async () => {
        for (const piece of pieces) {
          await sleep(10);
          response.write(piece);
        }
      })();
    },
    ({ hints }) => hints >= 4,
  );
  // The first is that it is there at all.
  assert.deepEqual([heard.hints, heard.requests, heard.states], [4, 1, [null]]);
  assert.equal(heard.authorizations[1], 'Bearer token-1');
});

test('comments alone keep the connection, and are no hints', async () => {
  let beats = 0;
  const heard = await listen(
    (_request, response) => {
      open(response);
      const beat = setInterval(() => {
        beats += 1;
        response.write(':\n\n');
      }, 50);
      response.on('close', () => clearInterval(beat));
    },
    () => beats >= 20,
  );
  assert.deepEqual([heard.hints, heard.requests], [1, 1]);
});

test('after a lost connection there is a new one, with the token of now, and a look at what was missed', async () => {
  const heard = await listen(
    (_request, response) => {
      open(response);
      setTimeout(() => response.destroy(), 20);
    },
    ({ requests, hints }) => requests >= 4 && hints >= 2,
  );
  assert.equal(heard.authorizations[2], 'Bearer token-2');
  assert.ok(heard.states.includes(null) && heard.states.some((state) => state !== null));
});

const USELESS: [string, RequestListener, RegExp][] = [
  ['refuses', (_request, response) => response.writeHead(404).end(), /answered 404/],
  [
    'redirects',
    (_request, response) => response.writeHead(302, { location: '/x' }).end(),
    /answered 302/,
  ],
  [
    'answers with a page of its own',
    (_request, response) => response.writeHead(200, { 'content-type': 'text/html' }).end('<p>'),
    /answered 200 text\/html/,
  ],
  ['hangs up', (request) => request.socket.destroy(), /hang up|ECONNRESET/],
  ['never answers', () => {}, /no answer in/],
  [
    'keeps the answer back',
    (_request, response) => {
      response.writeHead(200, { 'content-type': 'text/event-stream' });
      response.flushHeaders();
    },
    /nothing was heard/,
  ],
];
for (const [name, listener, reason] of USELESS) {
  test(`a server or proxy that ${name} is asked again, ever later, and told of once`, async () => {
    const heard = await listen(listener, ({ requests }) => requests >= 3);
    assert.equal(heard.hints, 0);
    assert.equal(heard.states.length, 1);
    assert.match(heard.states[0] ?? '', reason);
  });
}

test('a line that is cut again and again is tried ever later, and makes no hint each time', async () => {
  const at: number[] = [];
  const heard = await listen(
    (_request, response) => {
      at.push(performance.now());
      open(response);
      setTimeout(() => response.destroy(), 1);
    },
    ({ requests }) => requests >= 8,
    // However busy this machine is, none of them lives so long.
    { steady: 10_000 },
  );
  const waits = at.slice(1).map((time, i) => time - (at[i] ?? 0));
  assert.ok(Math.max(...waits.slice(3)) >= 40, waits.join());
  assert.ok(heard.hints < heard.requests - 2, `${heard.hints} of ${heard.requests}`);
  assert.ok(heard.states.filter((state) => state === null).length <= 3, heard.states.join());
});

test('a line without end ends the connection', async () => {
  const heard = await listen(
    (_request, response) => {
      open(response);
      response.write('data: '.padEnd(10_000, 'x'));
    },
    ({ requests }) => requests >= 2,
  );
  assert.equal(heard.states[0], null);
  assert.match(heard.states[1] ?? '', /line without end/);
});

test('silence after the beginning is a lost connection', async () => {
  const heard = await listen(
    (_request, response) => open(response),
    ({ requests }) => requests >= 2,
  );
  assert.match(heard.states[1] ?? '', /nothing was heard/);
});
