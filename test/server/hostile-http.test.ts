// Hostile HTTP: every kind that a cache on the open net gets to see, each by its name. Never a 5xx, never a
// file, never a process that hangs or grows. (Uploads: upload.test.ts. Ranges: app.test.ts.)
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { request as httpsRequest } from 'node:https';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { hashPartOf } from '../../src/nix/storepath.ts';
import { type AppOptions, buildApp } from '../../src/server/app.ts';
import { FailureLimit, networkOf } from '../../src/server/rate-limit.ts';
import type { StateDir } from '../../src/server/statedir.ts';
import { generateToken, hashToken } from '../../src/server/tokens.ts';
import { addPath, makeState } from '../helpers/state.ts';
import { temporaryDir } from '../helpers/temporary.ts';

const NOW = 1_800_000_000;
type Context = Parameters<typeof temporaryDir>[0] & { skip: (why: string) => void };

async function world(
  t: Context,
  options: AppOptions = {},
  config: Partial<StateDir['config']> = {},
) {
  const top = await temporaryDir(t);
  const made = await makeState(top, NOW);
  const dir = { ...made, config: { ...made.config, ...config } };
  const token = generateToken();
  const row = { tokenHash: hashToken(token), name: 'reader', scope: 'read', host: null } as const;
  await dir.state.addCredential({ ...row, createdAt: NOW, expiresAt: NOW + 1000 });
  const clock = { now: NOW };
  const app = buildApp(dir, { now: () => clock.now, ...options });
  const url = await app.listen({ host: '127.0.0.1', port: 0 });
  t.after(async () => {
    await app.close();
    await made[Symbol.asyncDispose]();
  });
  const port = Number(new URL(url).port);
  return { app, dir, url, port, token, clock, top };
}

/** Sends raw bytes; returns the answer's status, or 0 when the connection ended without one. */
async function raw(port: number, text: string, ms = 10_000): Promise<number> {
  const socket = connect(port, '127.0.0.1');
  let got = '';
  socket.on('data', (chunk) => {
    got += chunk.toString('latin1');
  });
  socket.on('error', () => {});
  socket.write(text);
  const closed = new Promise((resolve) => socket.once('close', resolve));
  const limit = sleep(ms, undefined, { ref: false });
  while (!/^HTTP\/1\.1 (?!100)\d{3}/.test(got)) {
    const next = await Promise.race([
      closed.then(() => 'closed'),
      sleep(10),
      limit.then(() => 'late'),
    ]);
    if (next === 'closed' || next === 'late') break;
  }
  socket.destroy();
  return Number(/^HTTP\/1\.1 (\d{3})/.exec(got)?.[1] ?? 0);
}

test('paths that lead elsewhere, in any spelling, are 404', async (t) => {
  const { port, token, dir } = await world(t);
  const { path } = await addPath(dir, 'one', Buffer.from('text'));
  const good = hashPartOf(path);
  const auth = `Authorization: Bearer ${token}\r\n`;
  for (const target of [
    '/%2e%2e%2f%2e%2e%2fetc%2fpasswd.ls',
    '/../../etc/passwd',
    '/..%2f..%2fetc/passwd.narinfo',
    '/log/..%2f..%2fetc%2fpasswd',
    '/log/../../etc/passwd',
    '/nar/..%2ffleet.db',
    '/nar/%00.nar.zst',
    '/debuginfo/..%2f..%2fx',
    `/${good.slice(1)}.narinfo`,
    `/${good}0.narinfo`,
    ...['e', 'o', 't', 'u', 'E', '%65'].map((letter) => `/${letter}${good.slice(1)}.narinfo`),
    `/${good}.narinfo/`,
    `//${good}.narinfo`,
    `/${good}.narinfo%00`,
    `/nar/${'0'.repeat(63)}.nar.zst`,
    `/nar/${'0'.repeat(65)}.nar.zst`,
    `/nar/${'A'.repeat(64)}.nar.zst`,
    '/v1/root/0.json',
    '/v1/root/..%2f1.json',
    `/${'a'.repeat(400)}.narinfo`,
  ]) {
    const status = await raw(port, `GET ${target} HTTP/1.1\r\nHost: x\r\n${auth}\r\n`);
    assert.ok(status >= 400 && status < 500, `${target}: ${status}`);
  }
  assert.equal(await raw(port, `GET /${good}.narinfo HTTP/1.1\r\nHost: x\r\n${auth}\r\n`), 200);
});

test('heads and addresses without end, and what is no HTTP, are refused', async (t) => {
  const { port } = await world(t);
  const line = 'X-Long: ';
  for (const [text, expected] of [
    [`GET /${'a'.repeat(100_000)} HTTP/1.1\r\nHost: x\r\n\r\n`, [414, 431, 400, 404, 0]],
    [`GET / HTTP/1.1\r\nHost: x\r\n${line}${'x'.repeat(100_000)}\r\n\r\n`, [431, 0]],
    [`GET / HTTP/1.1\r\nHost: x\r\n${`${line}1\r\n`.repeat(5_000)}\r\n`, [431, 0]],
    ['hello\r\n\r\n', [400, 0]],
    [
      'GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n',
      [400, 0],
    ],
    ['GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n', [400, 0]],
    ['PROPFIND / HTTP/1.1\r\nHost: x\r\n\r\n', [404, 405, 400, 501]],
    ['GET /healthz HTTP/1.1\r\n\r\n', [400]],
  ] as const) {
    const status = await raw(port, text);
    assert.ok((expected as readonly number[]).includes(status), `${text.slice(0, 40)}: ${status}`);
  }
  assert.equal(await raw(port, 'GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n'), 200);
});

test('slow-loris on the head, on the body and after a refusal: the connection ends, others are served', async (t) => {
  const { port, url } = await world(t, {
    limits: { headers: 600, body: 600, standstill: 60_000, drain: 600 },
  });
  const kinds = [
    ['GET /healthz HTTP/1.1\r\nHost: x\r\n', 'X-A: b\r\n'],
    ['POST /v1/enroll HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n', 'x'],
    // 401 at once, and then it goes on.
    [`PUT /nar/${'0'.repeat(52)}.nar HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n`, 'x'],
  ] as const;
  const dripping: Socket[] = [];
  const ended: Promise<unknown>[] = [];
  const timers: NodeJS.Timeout[] = [];
  for (let i = 0; i < 40; i++) {
    const socket = connect(port, '127.0.0.1');
    socket.on('error', () => {});
    socket.resume();
    const [head, drip] = kinds[i % 3] ?? kinds[0];
    socket.write(head);
    timers.push(setInterval(() => socket.writable && socket.write(drip), 50));
    ended.push(new Promise((resolve) => socket.once('close', resolve)));
    dripping.push(socket);
  }
  assert.equal((await fetch(`${url}/healthz`)).status, 200);
  const all = await Promise.race([
    Promise.all(ended).then(() => 'ended'),
    sleep(15_000, 'still there', { ref: false }),
  ]);
  for (const timer of timers) clearInterval(timer);
  for (const socket of dripping) socket.destroy();
  assert.equal(all, 'ended');
});

test('thousands of idle connections: more than the limit are turned away, and the rest is served', async (t) => {
  const { port, url } = await world(t, { limits: { connections: 2_000 } });
  const sockets: Socket[] = [];
  let closed = 0;
  for (let i = 0; i < 2_300; i++) {
    const socket = connect(port, '127.0.0.1');
    socket.on('error', () => {});
    socket.resume();
    socket.once('close', () => {
      closed += 1;
    });
    sockets.push(socket);
    // As many as the kernel queues: more would be tried again only after a second.
    if (i % 100 === 99) await new Promise((resolve) => socket.once('connect', resolve));
  }
  for (let i = 0; i < 500 && closed < 300; i++) await sleep(20);
  assert.ok(closed >= 300 && closed < 400, `${closed} were turned away`);
  for (const socket of sockets.slice(0, 500)) socket.destroy();
  await sleep(200);
  assert.equal((await fetch(`${url}/healthz`)).status, 200);
  for (const socket of sockets) socket.destroy();
});

test('documents of 100 MB, of depth 10,000, or with __proto__, change nothing', async (t) => {
  const { url, port } = await world(t);
  const before = process.memoryUsage().rss;
  const huge = await raw(
    port,
    `POST /v1/enroll HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n${'['.repeat(200_000)}`,
  );
  assert.ok(huge >= 400 && huge < 500, String(huge));
  assert.ok(process.memoryUsage().rss - before < 100e6);
  for (const body of ['['.repeat(10_000), '{"__proto__":{"admin":true}}', '{"a":'.repeat(5_000)]) {
    const answer = await fetch(`${url}/v1/enroll`, { method: 'POST', body });
    assert.ok(answer.status >= 400 && answer.status < 500, String(answer.status));
  }
  assert.equal(({} as { admin?: boolean }).admin, undefined);
});

test('a token in the wrong place is no token', async (t) => {
  const { url, token, clock, dir } = await world(t);
  const { path } = await addPath(dir, 'one', Buffer.from('text'));
  const target = `${url}/${hashPartOf(path)}.narinfo`;
  const basic = (text: string): string => `Basic ${Buffer.from(text).toString('base64')}`;
  const status = async (to: string, headers: Record<string, string>): Promise<number> =>
    (await fetch(to, { headers })).status;
  for (const authorization of [
    `Bearer ${token}`,
    `bearer ${token}`,
    basic(`anyone:${token}`),
    basic(`:${token}`),
  ]) {
    assert.equal(await status(target, { authorization }), 200, authorization.slice(0, 8));
  }
  for (const [where, to, headers] of [
    ['query', `${target}?token=${token}`, {}],
    ['query, access_token', `${target}?access_token=${token}`, {}],
    ['cookie', target, { cookie: `token=${token}` }],
    ['user name', target, { authorization: basic(`${token}:`) }],
    ['user name and another password', target, { authorization: basic(`${token}:x`) }],
    ['no colon', target, { authorization: basic(token) }],
    ['bare', target, { authorization: token }],
    ['digest', target, { authorization: `Digest ${token}` }],
    ['with more', target, { authorization: `Bearer ${token} x` }],
    ['its hash', target, { authorization: `Bearer ${hashToken(token)}` }],
    ['another header', target, { 'x-api-key': token, 'proxy-authorization': `Bearer ${token}` }],
  ] as const) {
    assert.equal(await status(to, headers), 401, where);
  }
  clock.now += 2_000;
  assert.equal(await status(target, { authorization: `Bearer ${token}` }), 401, 'expired');
});

test('no comparison takes time that depends on a secret: tokens are looked up by their hash', () => {
  for (const file of ['auth', 'tokens', 'enrolment']) {
    const source = readFileSync(`src/server/${file}.ts`, 'utf8');
    assert.doesNotMatch(source, /(token|secret)\s*===(?!\s*null)|===\s*(token|secret)\b/);
  }
});

test('bad tokens and enrolments are limited by address; a good token always passes', async (t) => {
  const { url, token, clock } = await world(t, {}, { trustedProxies: ['127.0.0.1'] });
  const ask = (authorization: string, address: string) =>
    fetch(`${url}/${'0'.repeat(32)}.narinfo`, {
      headers: { authorization, 'x-forwarded-for': address },
    });
  for (let i = 0; i < 20; i++) assert.equal((await ask('Bearer wrong', '192.0.2.1')).status, 401);
  const limited = await ask('Bearer wrong', '192.0.2.1');
  assert.equal(limited.status, 429);
  assert.equal(limited.headers.get('retry-after'), '3');
  assert.equal(((await limited.json()) as { error: string }).error, 'E_RATE_LIMITED');
  assert.equal((await ask(`Bearer ${token}`, '192.0.2.1')).status, 404);
  assert.equal((await ask('Bearer wrong', '192.0.2.2')).status, 401);
  const enrol = await fetch(`${url}/v1/enroll`, {
    method: 'POST',
    body: '{}',
    headers: { authorization: 'Bearer wrong', 'x-forwarded-for': '192.0.2.1' },
  });
  assert.equal(enrol.status, 429);
  // Nix asks without credentials first: that is no attempt.
  for (let i = 0; i < 30; i++) {
    assert.equal((await fetch(`${url}/${'0'.repeat(32)}.narinfo`)).status, 401);
  }
  clock.now += 4;
  assert.equal((await ask('Bearer wrong', '192.0.2.1')).status, 401);
  assert.equal((await ask('Bearer wrong', '192.0.2.1')).status, 429);
});

test('who goes away with a bad token before the answer is nobody’s failure but its own', async (t) => {
  for (const trustedProxies of [[], ['127.0.0.1']]) {
    const errors: unknown[] = [];
    const { port } = await world(t, { onError: (error) => errors.push(error) }, { trustedProxies });
    for (const path of ['/v1/root/1.json', '/nix-cache-info.narinfo', '/tlog/checkpoint']) {
      for (let i = 0; i < 20; i++) {
        const socket = connect(port, '127.0.0.1');
        socket.on('error', () => {});
        const request = `GET ${path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer wrong\r\n\r\n`;
        await new Promise((resolve) => socket.write(request, resolve));
        socket.resetAndDestroy();
      }
    }
    await sleep(100);
    assert.deepEqual(errors, []);
  }
});

test('a small body that is cut, or does not come, is nobody’s failure but its own', async (t) => {
  const errors: unknown[] = [];
  const options = { onError: (error: unknown) => errors.push(error), limits: { body: 200 } };
  const { port } = await world(t, options);
  const head = 'POST /v1/enroll HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n';
  const half = `${head}Content-Length: 100\r\n\r\n{"half":`;
  for (let i = 0; i < 20; i++) {
    const socket = connect(port, '127.0.0.1');
    socket.on('error', () => {});
    await new Promise((resolve) => socket.write(half, resolve));
    await sleep(5);
    if (i % 2 === 0) socket.resetAndDestroy();
    else socket.destroy();
  }
  // Cut off by us, in time.
  assert.equal(await raw(port, half), 0);
  assert.deepEqual(errors, []);
});

test('a state that cannot be read is not ready, and said so without its paths', async (t) => {
  const told: unknown[] = [];
  const top = await temporaryDir(t);
  const made = await makeState(top, NOW);
  const state = { ...made.state, credential: () => Promise.reject(new Error(`no ${top}`)) };
  const app = buildApp({ ...made, state }, { onError: (error) => told.push(error) });
  t.after(async () => {
    await app.close();
    await made[Symbol.asyncDispose]();
  });
  const url = await app.listen({ host: '127.0.0.1', port: 0 });
  const answer = await fetch(`${url}/readyz`);
  assert.equal(answer.status, 503);
  assert.equal(await answer.text(), 'not ready: the database cannot be read\n');
  assert.equal(told.length, 1);
  assert.equal((await fetch(`${url}/healthz`)).status, 200);
});

test('X-Forwarded-For is believed from nobody unless it is configured', async (t) => {
  const { url } = await world(t);
  const statuses = [];
  for (let i = 0; i < 25; i++) {
    const headers = { authorization: 'Bearer wrong', 'x-forwarded-for': `192.0.2.${i}` };
    statuses.push((await fetch(`${url}/${'0'.repeat(32)}.narinfo`, { headers })).status);
  }
  assert.deepEqual(statuses.slice(20), [429, 429, 429, 429, 429]);
});

test('the limit’s memory is bounded, a /64 is one customer, and a clock that goes back fills nothing', () => {
  const limit = new FailureLimit();
  for (let i = 0; i < 20_000; i++) limit.failed(`10.${i >> 16}.${(i >> 8) & 255}.${i & 255}`, NOW);
  assert.equal(limit.size, 10_000);
  assert.equal(networkOf('2001:db8::1'), networkOf('2001:0db8:0:0:ffff::2'));
  assert.notEqual(networkOf('2001:db8:0:1::1'), networkOf('2001:db8:0:2::1'));
  assert.equal(networkOf('::ffff:192.0.2.1'), '192.0.2.1');
  for (let i = 0; i < 20; i++) assert.equal(limit.failed('a', NOW), 0);
  assert.equal(limit.failed('a', NOW - 1000), 3);
});

test('HTTPS: the same answers and the same limits', async (t) => {
  const dir = await temporaryDir(t);
  const [certFile, keyFile] = [join(dir, 'cert.pem'), join(dir, 'key.pem')];
  try {
    execFileSync(
      'openssl',
      [
        ...['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'],
        ...['-keyout', keyFile, '-out', certFile, '-days', '2', '-subj', '/CN=localhost'],
      ],
      { stdio: 'ignore' },
    );
  } catch {
    t.skip('no openssl here');
    return;
  }
  const tls = { cert: readFileSync(certFile, 'utf8'), key: readFileSync(keyFile, 'utf8') };
  const { port } = await world(t, { tls, limits: { headers: 500 } });
  const status = await new Promise<number>((resolve, reject) => {
    httpsRequest(
      { host: '127.0.0.1', port, path: '/nix-cache-info', ca: tls.cert, servername: 'localhost' },
      (response) => {
        response.resume();
        resolve(response.statusCode ?? 0);
      },
    )
      .on('error', reject)
      .end();
  });
  assert.equal(status, 200);
  assert.ok([0, 400].includes(await raw(port, 'GET / HTTP/1.1\r\nHost: x\r\n\r\n')));
  const silent = connect(port, '127.0.0.1');
  silent.on('error', () => {});
  silent.destroy();
  // Closing waits for nobody who never shakes hands.
  const other = await world(t, { tls });
  const waiting = Array.from({ length: 3 }, () => connect(other.port, '127.0.0.1'));
  for (const socket of waiting) socket.on('error', () => {});
  await Promise.all(waiting.map((socket) => once(socket, 'connect')));
  await sleep(50);
  const ended = Promise.all(waiting.map((socket) => once(socket, 'close')));
  await Promise.race([other.app.close(), sleep(5_000).then(() => assert.fail('not closed'))]);
  await ended;
});
