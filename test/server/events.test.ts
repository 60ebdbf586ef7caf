// Hints over HTTP: to the host alone, at each publication that is news to it, and at nothing else.
import assert from 'node:assert/strict';
import { type IncomingMessage, request } from 'node:http';
import { type TestContext, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import Fastify from 'fastify';
import { TurnVersion } from '../../src/cache/turn-version.ts';
import { renewCheckpoint } from '../../src/manifest/append.ts';
import { buildApp } from '../../src/server/app.ts';
import { makeAuth } from '../../src/server/auth.ts';
import { registerEvents } from '../../src/server/events.ts';
import { openLogWriter } from '../../src/server/log-writer.ts';
import { PublishedLog } from '../../src/server/published.ts';
import { generateToken, hashToken } from '../../src/server/tokens.ts';
import { waitFor } from '../helpers/hosts.ts';
import { makeState, publishHost, publishHosts } from '../helpers/state.ts';
import { temporaryDir } from '../helpers/temporary.ts';

const NOW = 1_800_000_000;
const HINT = 'event: published\ndata: \n\n';

/** Everything that a connection said so far, and whether it was ended. */
type Heard = { text: string; ended: boolean; readonly response: IncomingMessage };

async function world(
  t: TestContext,
  timing: { lookEvery: number; keepAlive: number } | null = null,
  slow = 0,
) {
  const dir = await makeState(await temporaryDir(t), NOW);
  const now = () => NOW;
  const app = timing === null ? buildApp(dir, { now }) : Fastify();
  if (timing !== null) {
    const auth = makeAuth(dir.state, false, now, new TurnVersion(dir.state));
    const published = new PublishedLog(dir);
    const view = published.view.bind(published);
    published.view = async () => {
      await sleep(slow);
      return await view();
    };
    registerEvents(app, dir, published, auth, now, timing);
  }
  const url = await app.listen({ host: '127.0.0.1', port: 0 });
  t.after(async () => {
    await app.close();
    await dir[Symbol.asyncDispose]();
  });
  const tokens = new Map<string, string>();
  for (const host of ['alpha', 'beta']) {
    const token = generateToken();
    tokens.set(host, token);
    const secretHash = hashToken(generateToken());
    await dir.state.invite({ secretHash, host, expiresAt: NOW + 1 });
    await dir.state.addCredential({
      ...{ tokenHash: hashToken(token), name: `host:${host}`, scope: 'host', host },
      ...{ createdAt: NOW, expiresAt: null },
    });
  }
  const listen = async (host: string): Promise<Heard> => {
    const response = await new Promise<IncomingMessage>((resolve, reject) => {
      const headers = { authorization: `Bearer ${tokens.get(host)}` };
      const asked = request(`${url}/v1/hosts/${host}/events`, { headers, agent: false }, resolve);
      asked.on('error', reject);
      asked.end();
      t.after(() => asked.destroy());
    });
    const heard: Heard = { text: '', ended: false, response };
    response.on('data', (data) => {
      heard.text += data;
    });
    response.on('close', () => {
      heard.ended = true;
    });
    response.on('error', () => {});
    await waitFor(() => heard.text !== '');
    return heard;
  };
  return { app, dir, url, tokens, listen };
}

test('a hint follows each publication for the host, and none of another host', async (t) => {
  const { dir, listen } = await world(t);
  const [alpha, beta] = [await listen('alpha'), await listen('beta')];
  assert.equal(alpha.response.statusCode, 200);
  assert.equal(alpha.response.headers['content-type'], 'text/event-stream');
  assert.equal(alpha.response.headers['cache-control'], 'no-store');
  assert.deepEqual([alpha.text, beta.text], [':\n\n', ':\n\n']);
  await publishHost(dir, 'alpha', 'one', NOW);
  await waitFor(() => alpha.text === `:\n\n${HINT}`);
  await publishHosts(dir, ['alpha', 'beta'], 'two', NOW);
  await waitFor(() => alpha.text === `:\n\n${HINT}${HINT}` && beta.text === `:\n\n${HINT}`);
  // A renewed checkpoint says nothing that is new.
  await renewCheckpoint(await openLogWriter(dir), NOW + 60);
  await publishHost(dir, 'beta', 'three', NOW);
  await waitFor(() => beta.text === `:\n\n${HINT}${HINT}`);
  assert.equal(alpha.text, `:\n\n${HINT}${HINT}`);
});

test('who listens again is not told of what was there before', async (t) => {
  const { dir, listen } = await world(t);
  await publishHost(dir, 'alpha', 'one', NOW);
  const alpha = await listen('alpha');
  await publishHost(dir, 'alpha', 'two', NOW);
  await waitFor(() => alpha.text !== ':\n\n');
  assert.equal(alpha.text, `:\n\n${HINT}`);
});

test('two connections of a host may be there; the oldest makes room for a third', async (t) => {
  const { dir, listen } = await world(t);
  const [first, second, third] = [
    await listen('alpha'),
    await listen('alpha'),
    await listen('alpha'),
  ];
  await waitFor(() => first.ended);
  await publishHost(dir, 'alpha', 'one', NOW);
  await waitFor(() => second.text.endsWith(HINT) && third.text.endsWith(HINT));
  assert.ok(!first.text.endsWith(HINT));
  second.response.destroy();
  const fourth = await listen('alpha');
  await sleep(50);
  assert.deepEqual([third.ended, fourth.ended], [false, false]);
});

test('a comment from time to time keeps a connection from being forgotten', async (t) => {
  const { listen } = await world(t, { lookEvery: 1000, keepAlive: 20 });
  const alpha = await listen('alpha');
  await waitFor(() => alpha.text.length >= 15);
  assert.match(alpha.text, /^(?::\n\n)+$/);
});

test('a stopping server ends the connections of those who listen', async (t) => {
  const { app, listen } = await world(t);
  const alpha = await listen('alpha');
  await app.close();
  await waitFor(() => alpha.ended);
});

test('a connection that comes while the server stops is ended as well', async (t) => {
  const { app, url, tokens } = await world(t, { lookEvery: 10, keepAlive: 1000 }, 300);
  const headers = { authorization: `Bearer ${tokens.get('alpha')}` };
  const asked = fetch(`${url}/v1/hosts/alpha/events`, { headers }).then(
    () => 'answered',
    () => 'ended',
  );
  await sleep(100);
  const closed = app.close().then(() => 'closed');
  assert.equal(await Promise.race([closed, sleep(5000, 'still open', { ref: false })]), 'closed');
  assert.equal(await asked, 'ended');
});

test('who leaves before the answer takes nobody’s place', async (t) => {
  const { dir, url, tokens, listen } = await world(t, { lookEvery: 10, keepAlive: 1000 }, 100);
  const first = await listen('alpha');
  const headers = { authorization: `Bearer ${tokens.get('alpha')}` };
  for (let i = 0; i < 4; i++) {
    const gone = new AbortController();
    const asked = fetch(`${url}/v1/hosts/alpha/events`, { headers, signal: gone.signal });
    setTimeout(() => gone.abort(), 30);
    await assert.rejects(asked, /abort/);
  }
  await sleep(200);
  assert.equal(first.ended, false);
  await publishHost(dir, 'alpha', 'one', NOW);
  await waitFor(() => first.text.endsWith(HINT));
});

test('a token that is revoked ends the connections that were opened with it', async (t) => {
  const { dir, listen } = await world(t, { lookEvery: 1000, keepAlive: 20 });
  const [alpha, beta] = [await listen('alpha'), await listen('beta')];
  await dir.state.revokeCredentials('host:alpha');
  await waitFor(() => alpha.ended);
  assert.equal(beta.ended, false);
});

test('hints are for the host itself', async (t) => {
  const { url, tokens } = await world(t);
  const ask = async (host: string, token?: string) => {
    const headers = token === undefined ? {} : { authorization: `Bearer ${token}` };
    const response = await fetch(`${url}/v1/hosts/${host}/events`, { headers });
    return [response.status, ((await response.json()) as { error: string }).error];
  };
  assert.deepEqual(await ask('alpha'), [401, 'E_UNAUTHORIZED']);
  assert.deepEqual(await ask('alpha', 'fleet_wrong'), [401, 'E_UNAUTHORIZED']);
  assert.deepEqual(await ask('alpha', tokens.get('beta')), [403, 'E_FORBIDDEN']);
});
