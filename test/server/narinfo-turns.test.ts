// Narinfos past the framework: what a client gets and what is counted is the same as through it, also where
// many ask in one turn, ahead of the answers, with a body to come, or without leave; and nothing that this
// process changed is answered from memory a moment later.
import assert, { fail } from 'node:assert/strict';
import { connect } from 'node:net';
import { test } from 'node:test';
import { hashPartOf } from '../../src/nix/storepath.ts';
import { type AppOptions, buildApp } from '../../src/server/app.ts';
import type { StateDir } from '../../src/server/statedir.ts';
import { generateToken, hashToken } from '../../src/server/tokens.ts';
import { addPath, makeState } from '../helpers/state.ts';
import { temporaryDir } from '../helpers/temporary.ts';

const NOW = 1_800_000_000;
const ROUTE = 'method="GET",route="/:hash.narinfo"';

async function world(
  t: Parameters<typeof temporaryDir>[0],
  config: Partial<StateDir['config']> = {},
  options: AppOptions = {},
) {
  const made = await makeState(await temporaryDir(t), NOW);
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
  const infos = await Promise.all(
    Array.from({ length: 20 }, (_, i) => addPath(dir, `path-${i}`, Buffer.from(`text ${i}`))),
  );
  const urls = infos.map(({ path }) => `/${hashPartOf(path)}.narinfo`);
  const get = (path: string, bearer = token) =>
    fetch(url + path, { headers: { authorization: `Bearer ${bearer}` } });
  const counted = (line: string): number =>
    Number(
      new RegExp(`^${line.replace(/[{}.*+?^$|()[\]\\]/g, '\\$&')} (.+)$`, 'm').exec(
        app.metrics.requests(),
      )?.[1],
    );
  const port = Number(new URL(url).port);
  return { dir, infos, urls, get, counted, port, token, clock };
}

/** All that comes back for raw bytes, the last of whose requests ends the connection. */
async function exchange(port: number, text: string): Promise<string> {
  const socket = connect(port, '127.0.0.1');
  socket.write(text);
  return Buffer.concat(await Array.fromAsync<Buffer>(socket)).toString('latin1');
}

const request = (url: string | undefined, ...headers: string[]): string =>
  `${[`GET ${url} HTTP/1.1`, 'Host: x', ...headers].join('\r\n')}\r\n\r\n`;

test('many that ask at once, of what is there and what is not, with and without leave', async (t) => {
  const { urls, get, counted } = await world(t);
  const first = await Promise.all(urls.map(async (url) => (await get(url)).text()));
  for (let round = 0; round < 3; round++) {
    const asked = urls.flatMap((url) => [
      get(url),
      get(`/${'0'.repeat(32)}.narinfo`),
      get(url, 'fleet_wrong'),
    ]);
    const answers = await Promise.all(asked);
    for (const [i, answer] of answers.entries()) {
      // Wrong tokens are limited in number after a while.
      const wanted = [[200], [404], [401, 429]][i % 3] ?? [];
      assert.ok(wanted.includes(answer.status), `${i}: ${answer.status}`);
      const text = await answer.text();
      if (i % 3 === 0) assert.equal(text, first[Math.floor(i / 3)]);
      else assert.doesNotMatch(text, /^StorePath/);
    }
  }
  assert.equal(counted(`fleet_http_requests_total{${ROUTE},status="200"}`), 80);
  assert.equal(counted(`fleet_http_requests_total{${ROUTE},status="404"}`), 60);
});

test('what is counted is what came over the line', async (t) => {
  const { urls, counted, port } = await world(t, { public: true });
  let bytes = 0;
  // The first time through the framework or not, later from memory.
  for (let round = 0; round < 3; round++) {
    for (const url of urls.slice(0, 3)) {
      const got = await exchange(port, request(url, 'Connection: close'));
      assert.match(got, /^HTTP\/1\.1 200 OK\r\n/);
      assert.match(got, /\r\ncontent-type: text\/x-nix-narinfo\r\n/i);
      assert.match(got, /\r\ncache-control: private, max-age=86400\r\n/i);
      bytes += got.length;
    }
  }
  assert.equal(counted(`fleet_http_requests_total{${ROUTE},status="200"}`), 9);
  assert.equal(counted(`fleet_http_response_bytes_total{${ROUTE}}`), bytes);
});

test('requests sent ahead are answered in their order, whoever answers them', async (t) => {
  const { urls, port, infos, token } = await world(t);
  const asked = ['/healthz', urls[0], urls[1], `/${'0'.repeat(32)}.narinfo`, urls[2]];
  const bearer = `Authorization: Bearer ${token}`;
  const text = [
    ...asked.map((url) => request(url, bearer)),
    request('/healthz', 'Connection: close'),
  ];
  for (let round = 0; round < 3; round++) {
    const got = await exchange(port, text.join(''));
    const statuses = [...got.matchAll(/^HTTP\/1\.1 (\d{3})/gm)].map(([, status]) => status);
    assert.deepEqual(statuses, ['200', '200', '200', '404', '200', '200']);
    const paths = [...got.matchAll(/^StorePath: (.+)$/gm)].map(([, path]) => path);
    assert.deepEqual(
      paths,
      infos.slice(0, 3).map(({ path }) => path),
    );
  }
});

test('a request with a body is answered, and its connection goes on', async (t) => {
  const { urls, port } = await world(t, { public: true });
  await exchange(port, request(urls[0], 'Connection: close'));
  const text = `${request(urls[0], 'Content-Length: 5')}hello${request(urls[1], 'Connection: close')}`;
  const got = await exchange(port, text);
  assert.equal([...got.matchAll(/^HTTP\/1\.1 200/gm)].length, 2);
});

test('a token that ends, or is revoked, ends at once, though its narinfo is in memory', async (t) => {
  const { dir, urls, get, clock } = await world(t);
  const [url = ''] = urls;
  for (let round = 0; round < 3; round++) assert.equal((await get(url)).status, 200);
  clock.now = NOW + 1000;
  assert.equal((await get(url)).status, 401);
  clock.now = NOW;
  assert.equal((await get(url)).status, 200);
  await dir.state.revokeCredentials('reader');
  assert.equal((await get(url)).status, 401);
});

test('what this process removes is gone at once, and what it loses', async (t) => {
  const { dir, infos, urls, get } = await world(t, { public: true });
  for (let round = 0; round < 3; round++) {
    for (const url of urls) assert.equal((await get(url)).status, 200);
  }
  const lost = await dir.state.cachedPath(hashPartOf(infos[0]?.path ?? fail()));
  await dir.blobs.delete(lost?.blob ?? fail());
  assert.equal((await get(urls[0] ?? '')).status, 404);
  const later = Math.floor(Date.now() / 1000) + 10;
  await dir.state.beginSweep({ roots: [], cutoff: later, dryRun: false });
  await dir.state.sweepPaths(200, later);
  for (const url of urls) assert.equal((await get(url)).status, 404);
});

test('with an access log each is a line of it', async (t) => {
  const lines: string[] = [];
  const { urls, get } = await world(t, {}, { accessLog: (line) => lines.push(line) });
  for (let round = 0; round < 3; round++) await get(urls[0] ?? '');
  const entries = lines.map((line) => JSON.parse(line) as Record<string, unknown>);
  assert.deepEqual(
    entries.map(({ route, status, credential }) => [route, status, credential]),
    Array.from({ length: 3 }, () => ['/:hash.narinfo', 200, 'reader']),
  );
});
