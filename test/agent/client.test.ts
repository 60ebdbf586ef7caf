import assert from 'node:assert/strict';
import type { RequestListener } from 'node:http';
import { test } from 'node:test';
import { limitBody } from '../../src/agent/body.ts';
import { Client } from '../../src/agent/client.ts';
import { messageOf } from '../../src/errors.ts';
import { serveHttp } from '../helpers/http.ts';

const TOKEN = 'fleet_secret-token-of-this-test';

function clientOf(server: string, options: { patienceSeconds?: number } = {}): Client {
  return new Client({
    server,
    token: TOKEN,
    leastBytesPerSecond: 1000,
    patienceSeconds: options.patienceSeconds ?? 5,
  });
}

async function ask(listener: RequestListener, maxBytes = 100, patienceSeconds = 5) {
  await using server = await serveHttp(listener);
  await using client = clientOf(server.url, { patienceSeconds });
  return await client.document('/doc', maxBytes);
}

test('a document comes with status and ETag, asked for with the token', async () => {
  let authorization: string | undefined;
  const answer = await ask((request, response) => {
    authorization = request.headers.authorization;
    response.setHeader('etag', '"x"').end('hello');
  });
  assert.deepEqual(answer, { status: 200, etag: '"x"', body: Buffer.from('hello') });
  assert.equal(authorization, `Bearer ${TOKEN}`);
});

test('a body of exactly the limit passes, one byte more does not, announced or not', async () => {
  const body = Buffer.alloc(100);
  assert.equal((await ask((_, response) => void response.end(body))).body.length, 100);
  const over = Buffer.alloc(101);
  await assert.rejects(
    ask((_, response) => void response.end(over)),
    { code: 'E_BODY_LIMIT' },
  );
  await assert.rejects(
    ask((_, response) => {
      response.write(over.subarray(0, 50));
      response.end(over.subarray(50));
    }),
    { code: 'E_BODY_LIMIT' },
  );
});

test('an endless body is cut off', async () => {
  const closed = Promise.withResolvers<void>();
  await assert.rejects(
    ask((_, response) => {
      const timer = setInterval(() => response.write(Buffer.alloc(1000)), 1);
      response.on('close', () => {
        closed.resolve();
        clearInterval(timer);
      });
    }, 50_000),
    { code: 'E_BODY_LIMIT' },
  );
  await closed.promise;
});

test('a server that sends a byte at a time is too slow', async () => {
  const start = performance.now();
  await assert.rejects(
    ask(
      (_, response) => {
        const timer = setInterval(() => response.write('x'), 50);
        response.on('close', () => clearInterval(timer));
      },
      10_000,
      1,
    ),
    { code: 'E_SERVER_SLOW' },
  );
  assert.ok(performance.now() - start < 5000);
});

test('a server that says nothing is too slow', async () => {
  await assert.rejects(
    ask(() => {}, 100, 1),
    { code: 'E_SERVER_SLOW' },
  );
  await assert.rejects(
    ask((_, response) => void response.writeHead(200).flushHeaders(), 100, 1),
    { code: 'E_SERVER_SLOW' },
  );
});

test('a server that only ever announces an answer is too slow', async () => {
  await assert.rejects(
    ask(
      (_, response) => {
        const timer = setInterval(
          () => response.writeEarlyHints({ link: '</x>; rel=preload' }),
          100,
        );
        response.on('close', () => clearInterval(timer));
      },
      100,
      1,
    ),
    { code: 'E_SERVER_SLOW' },
  );
});

test('a signal of the caller is no fault of the server', async () => {
  await using server = await serveHttp(() => {});
  await using client = clientOf(server.url);
  const signal = AbortSignal.abort();
  await assert.rejects(client.document('/', 100, { signal }), { name: 'AbortError' });
});

test('an ETag that could not be sent back is none', async () => {
  for (const etag of ['x', '"a b"', `"${'x'.repeat(300)}"`, '"é"', '']) {
    const answer = await ask((_, response) => void response.setHeader('etag', etag).end());
    assert.equal(answer.etag, null, etag);
  }
  const weak = await ask((_, response) => void response.setHeader('etag', 'W/"x-1"').end());
  assert.equal(weak.etag, 'W/"x-1"');
});

test('a consumer that takes its time is no fault of the server', async () => {
  async function* quick() {
    for (let i = 0; i < 5; i++) yield Buffer.alloc(10);
  }
  const limits = { maxBytes: 100, leastBytesPerSecond: 1000, patience: 100, what: 'x' };
  let bytes = 0;
  for await (const chunk of limitBody(quick(), limits)) {
    bytes += chunk.length;
    await new Promise((resolve) => setTimeout(resolve, 60));
  }
  assert.equal(bytes, 50);
});

test('a connection that breaks off in the middle is unreachable, not short', async () => {
  await assert.rejects(
    ask((_, response) => {
      response.writeHead(200, { 'content-length': 50 }).write('abc');
      setTimeout(() => response.destroy(), 20);
    }),
    { code: 'E_SERVER_UNREACHABLE' },
  );
  await assert.rejects(
    ask((_, response) => {
      response.write('abc');
      setTimeout(() => response.destroy(), 20);
    }),
    { code: 'E_SERVER_UNREACHABLE' },
  );
});

test('nobody there is unreachable', async () => {
  const server = await serveHttp(() => {});
  await server[Symbol.asyncDispose]();
  await using client = clientOf(server.url);
  await assert.rejects(client.document('/', 100), { code: 'E_SERVER_UNREACHABLE' });
});

test('statuses become errors that repeat the server in short', async () => {
  const cases: [number, string][] = [
    [401, 'E_SERVER_AUTH'],
    [403, 'E_SERVER_AUTH'],
    [404, 'E_SERVER_ANSWER'],
    [429, 'E_SERVER_BUSY'],
    [500, 'E_SERVER_ANSWER'],
    [503, 'E_SERVER_BUSY'],
  ];
  for (const [status, code] of cases) {
    const reply = JSON.stringify({ error: 'E_X', message: 'm'.repeat(2000) });
    await assert.rejects(
      ask((_, response) => void response.writeHead(status).end(reply)),
      (error) => {
        assert.equal((error as { code?: string }).code, code);
        assert.match(messageOf(error), /E_X/);
        return messageOf(error).length < 500;
      },
    );
  }
});

test('a redirect is not followed', async () => {
  let asked = 0;
  await using other = await serveHttp((_, response) => {
    asked++;
    response.end();
  });
  await assert.rejects(
    ask((_, response) => void response.writeHead(302, { location: other.url }).end()),
    { code: 'E_SERVER_ANSWER' },
  );
  assert.equal(asked, 0);
});

test('no error holds the token', async () => {
  const errors: unknown[] = [];
  const keep = (error: unknown) => errors.push(error);
  await ask((_, response) => void response.writeHead(401).end()).catch(keep);
  await ask((_, response) => void response.destroy()).catch(keep);
  assert.equal(errors.length, 2);
  const { inspect } = await import('node:util');
  for (const error of errors) assert.doesNotMatch(inspect(error, { depth: 9 }), /secret-token/);
});
