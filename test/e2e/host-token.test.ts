// A host's token over months, through the real server and the real agent: followed in time, across lost answers,
// deaths at any step, wrong clocks and restored backups; and by nobody else.
import assert from 'node:assert/strict';
import { copyFile, cp, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { readMemory } from '../../src/agent/memory.ts';
import { readChain } from '../../src/agent/receipts.ts';
import { NO_RENEWAL, readRenewal, writeRenewal } from '../../src/agent/renew-token.ts';
import { resetTrust } from '../../src/agent/reset.ts';
import { agentStatus } from '../../src/agent/status.ts';
import { advanceTrust, trustedRoot } from '../../src/agent/trusted.ts';
import { generateSecretKey } from '../../src/ed25519.ts';
import { signEnvelope } from '../../src/manifest/dsse.ts';
import { MAX_OFFER_ROOTS } from '../../src/manifest/offer.ts';
import { signTokenRequest } from '../../src/manifest/token-request.ts';
import { importRoot } from '../../src/server/import-root.ts';
import { hostStatus } from '../../src/server/status.ts';
import { hashToken } from '../../src/server/tokens.ts';
import { DAY, type Live, type LiveAgent, live } from '../helpers/live.ts';
import { signNext } from '../helpers/rotation.ts';
import { publishHost } from '../helpers/state.ts';

const TOKEN = /\/token$/;
const HOUR = 3600;

const tokenOf = async ({ state }: LiveAgent) => (await readMemory(state)).token;

/** The state's tokens of a host, oldest first. */
async function tokensOf({ dir }: Live, host: string) {
  const all = (await dir.state.credentials()).filter((one) => one.name === `host:${host}`);
  return all.sort((a, b) => a.createdAt - b.createdAt);
}

/** How the server answers a host that asks for its offer with `token`. */
async function statusOf({ url }: Live, host: string, token: string): Promise<number> {
  const headers = { authorization: `Bearer ${token}` };
  return (await fetch(`${url}/v1/hosts/${host}/offer`, { headers })).status;
}

/** One run that ends well, of a host for which nothing is published. */
async function fine(agent: LiveAgent, clock?: number): Promise<void> {
  const { error, outcome } = await agent.once(clock);
  assert.deepEqual([error, outcome], [null, null], `${error}`);
}

async function conflictOf({ dir, now }: Live, host: string) {
  const row = (await dir.state.status()).find(({ record }) => record.host === host);
  assert.ok(row);
  return hostStatus(row, now).conflict;
}

/** Sends a renewal by hand. */
async function renew({ url }: Live, host: string, token: string, body: string) {
  const headers = { authorization: `Bearer ${token}` };
  const answer = await fetch(`${url}/v1/hosts/${host}/token`, { method: 'POST', headers, body });
  const { error = null, expiresIn = null } = (await answer.json()) as Record<string, unknown>;
  return { status: answer.status, error, expiresIn };
}

test('after two thirds of its life a token is followed, and the old one ends an hour later', async (t) => {
  const w = await live(t);
  const agent = await w.agent('a');
  const first = await tokenOf(agent);
  const began = w.now;
  assert.deepEqual((await tokensOf(w, 'a'))[0]?.expiresAt, began + 90 * DAY);
  for (const days of [1, 59]) {
    w.now = began + days * DAY;
    await fine(agent);
    assert.equal(await tokenOf(agent), first);
  }
  w.now = began + 60 * DAY;
  await fine(agent);
  const second = await tokenOf(agent);
  assert.notEqual(second, first);
  assert.deepEqual(
    (await tokensOf(w, 'a')).map(({ tokenHash, expiresAt }) => [tokenHash, expiresAt]),
    [
      [hashToken(first), w.now + HOUR],
      [hashToken(second), w.now + 90 * DAY],
    ],
  );
  assert.deepEqual([await statusOf(w, 'a', first), await statusOf(w, 'a', second)], [404, 404]);
  w.now += HOUR;
  assert.deepEqual([await statusOf(w, 'a', first), await statusOf(w, 'a', second)], [401, 404]);
  // And no token is anywhere but at the host.
  const files = ['fleet.db', 'fleet.db-wal'].map((name) => join(w.dir.layout.top, name));
  for (const bytes of await Promise.all(files.map((file) => readFile(file)))) {
    for (const token of [first, second]) assert.equal(bytes.includes(token), false);
  }
});

test('a clock that is wrong: the server says when, and the machine’s own jump costs one renewal', async (t) => {
  const w = await live(t);
  const agent = await w.agent('a');
  const began = w.now;
  const first = await tokenOf(agent);
  w.now = began + 61 * DAY;
  await fine(agent, began - 3650 * DAY);
  const second = await tokenOf(agent);
  assert.notEqual(second, first);
  // From here on the machine lives ten years ahead.
  const ahead = 3650 * DAY;
  await fine(agent, w.now + ahead);
  const third = await tokenOf(agent);
  assert.notEqual(third, second);
  for (const days of [1, 59]) await fine(agent, w.now + ahead + days * DAY);
  assert.equal(await tokenOf(agent), third);
});

test('a token without an end, as older servers gave, is followed by one with an end', async (t) => {
  const w = await live(t);
  const agent = await w.agent('a');
  const token = 'fleet_a-token-of-an-older-server-without-any-end';
  const old = { name: 'host:a', scope: 'host', host: 'a', createdAt: w.now } as const;
  await w.dir.state.addCredential({ ...old, tokenHash: hashToken(token), expiresAt: null });
  await writeFile(join(agent.state, 'token'), `${token}\n`);
  await fine(agent);
  assert.notEqual(await tokenOf(agent), token);
  const { expiresAt } =
    (await tokensOf(w, 'a')).find((one) => one.tokenHash === hashToken(token)) ?? {};
  assert.equal(expiresAt, w.now + HOUR);
});

test('a machine that was off for half a year comes back by itself', async (t) => {
  const w = await live(t);
  const agent = await w.agent('a');
  const first = await tokenOf(agent);
  w.now += 183 * DAY;
  assert.equal(await statusOf(w, 'a', first), 401);
  await fine(agent);
  assert.notEqual(await tokenOf(agent), first);
  assert.equal(w.sent.filter(({ path }) => TOKEN.test(path)).length, 1);
});

test('a request or an answer that is lost: the same is asked for again, an hour or a year later', async (t) => {
  for (const pause of [0, 2 * HOUR, 365 * DAY]) {
    for (const lost of ['request', 'answer'] as const) {
      const w = await live(t);
      const agent = await w.agent('a');
      const first = await tokenOf(agent);
      w.now += 61 * DAY;
      w.lose[lost] = TOKEN;
      await fine(agent);
      assert.match(agent.said.join(), /the token was not renewed/);
      assert.equal(await tokenOf(agent), first);
      assert.equal((await tokensOf(w, 'a')).length, lost === 'request' ? 1 : 2);
      const { next } = await readRenewal(agent.state);
      w.lose[lost] = null;
      w.now += pause;
      await fine(agent);
      const second = await tokenOf(agent);
      if (pause < 90 * DAY) assert.equal(second, next);
      assert.equal(await statusOf(w, 'a', second), 404, `${lost}, ${pause} s`);
      assert.equal(await conflictOf(w, 'a'), null);
      await fine(agent);
      assert.equal(await tokenOf(agent), second);
    }
  }
});

test('an agent that dies between any two of its writes gets in again', async (t) => {
  const w = await live(t);
  const agent = await w.agent('a');
  const files = ['renewal.json', 'token'].map((name) => join(agent.state, name));
  const read = () => Promise.all(files.map((file) => readFile(file, 'utf8')));
  const before = await read();
  w.now += 61 * DAY;
  w.lose.request = TOKEN;
  await fine(agent);
  const asked = await read();
  w.lose.request = null;
  w.lose.answer = TOKEN;
  await fine(agent);
  w.lose.answer = null;
  await fine(agent);
  const after = await read();
  assert.notEqual(after[1], before[1]);
  // Each write as it stood when the process died: nothing; the next token kept; the answer kept; all.
  for (const [renewal = '', token = ''] of [asked, [after[0], before[1]], after] as string[][]) {
    for (const pause of [0, 2 * HOUR]) {
      await writeFile(files[0] ?? '', renewal);
      await writeFile(files[1] ?? '', token);
      w.now += pause;
      await fine(agent);
      assert.equal(await statusOf(w, 'a', await tokenOf(agent)), 404);
      if (pause > 0) assert.deepEqual((await read())[1], after[1]);
    }
  }
  assert.equal(await conflictOf(w, 'a'), null);
  assert.equal((await tokensOf(w, 'a')).length, 2);
});

test('a request that is sent again gives nothing new, and never brings a token back', async (t) => {
  const w = await live(t);
  const agent = await w.agent('a');
  const first = await tokenOf(agent);
  w.now += 61 * DAY;
  await fine(agent);
  const { body = '' } = w.sent.find(({ path }) => TOKEN.test(path)) ?? {};
  const second = await tokenOf(agent);
  w.now += 61 * DAY;
  await fine(agent);
  const before = await tokensOf(w, 'a');
  assert.equal(before.length, 3);
  // With the token that it came with, long over; it is told what it was told, and nothing lives longer for it.
  const again = await renew(w, 'a', first, body);
  assert.deepEqual([again.status, again.expiresIn], [200, HOUR]);
  assert.deepEqual(await tokensOf(w, 'a'), before);
  w.now += 2 * HOUR;
  assert.deepEqual(await renew(w, 'a', first, body), { status: 200, error: null, expiresIn: 0 });
  assert.deepEqual([await statusOf(w, 'a', first), await statusOf(w, 'a', second)], [401, 401]);
  // With a token that it is not about.
  assert.equal((await renew(w, 'a', second, body)).error, 'E_TOKEN_REQUEST');
});

test('a stolen token alone gets no successor; nor does another host, or what was signed for something else', async (t) => {
  const w = await live(t);
  const [agent, other] = [await w.agent('a'), await w.agent('b')];
  const token = await tokenOf(agent);
  const { hostKey } = await readMemory(agent.state);
  const { fleet } = w.dir.root;
  const request = { fleet, host: 'a', replaces: hashToken(token), token: hashToken('next') };
  const codeOf = async (body: string, host = 'a', shown = token) => {
    const { status, error } = await renew(w, host, shown, body);
    return [status, error];
  };
  for (const key of [generateSecretKey(), (await readMemory(other.state)).hostKey]) {
    assert.deepEqual(await codeOf(signTokenRequest(request, key)), [
      422,
      'E_SIGNATURE_UNKNOWN_KEY',
    ]);
  }
  const payload = Buffer.from(JSON.stringify(request));
  const receipt = signEnvelope('application/vnd.fleet.receipt+json', payload, [hostKey]);
  assert.deepEqual(await codeOf(receipt), [422, 'E_TOKEN_REQUEST']);
  const wrong = [
    [{ ...request, fleet: 'other.test' }, 'E_FLEET_MISMATCH'],
    [{ ...request, host: 'b' }, 'E_HOST_MISMATCH'],
    [{ ...request, replaces: hashToken('other') }, 'E_TOKEN_REQUEST'],
  ] as const;
  for (const [said, code] of wrong) {
    assert.deepEqual(await codeOf(signTokenRequest(said, hostKey)), [422, code]);
  }
  const good = signTokenRequest(request, hostKey);
  assert.deepEqual(await codeOf(good, 'b'), [403, 'E_FORBIDDEN']);
  assert.deepEqual(await codeOf(good, 'a', 'fleet_unknown'), [401, 'E_UNAUTHORIZED']);
  assert.deepEqual(await codeOf('none'), [422, 'E_ENVELOPE']);
  // A token that is in use already is no next one.
  const taken = { ...request, token: hashToken(await tokenOf(other)) };
  assert.deepEqual(await codeOf(signTokenRequest(taken, hostKey)), [401, 'E_UNAUTHORIZED']);
  assert.equal((await tokensOf(w, 'a')).length, 1);
  assert.deepEqual(await codeOf(good), [200, null]);
});

test('a key that was replaced, and a token that was revoked, get nothing', async (t) => {
  const w = await live(t);
  const old = await w.agent('a');
  const anew = await w.agent('a', 'another machine');
  for (const pause of [0, 100 * DAY]) {
    w.now += pause;
    const { error } = await old.once().catch((thrown) => ({ error: thrown }));
    assert.equal(error?.code, 'E_SERVER_AUTH');
    await fine(anew);
  }
  await w.dir.state.revokeCredentials('host:a');
  assert.equal((await anew.once()).error?.code, 'E_SERVER_AUTH');
  assert.deepEqual(await tokensOf(w, 'a'), []);
});

test('a revoked token whose renewal broke off half way is told as what it is', async (t) => {
  const w = await live(t);
  const agent = await w.agent('a');
  // What is on disk between the two writes of a renewal.
  const [next, previous] = ['fleet_the-token-that-was-to-follow', await tokenOf(agent)];
  await writeRenewal(agent.state, { renewAt: null, next, previous });
  await w.dir.state.revokeCredentials('host:a');
  const { error } = await agent.once();
  assert.deepEqual([error?.code, error?.exitCode], ['E_SERVER_AUTH', 1]);
});

test('a cloned disk: one of the two goes on, the other is refused, and it is told until the host is enrolled anew', async (t) => {
  const w = await live(t);
  const agent = await w.agent('a');
  const copy = join(w.top, 'copy');
  await cp(agent.state, copy, { recursive: true });
  const clone = w.agentAt(copy);
  w.now += 61 * DAY;
  await fine(agent);
  await fine(clone);
  assert.match(clone.said.join(), /has a successor already/);
  for (let i = 0; i < 3; i++) {
    w.now += 2 * HOUR;
    const { error } = await clone.once();
    assert.deepEqual([error?.code, error?.exitCode], ['E_TOKEN_SUCCESSOR', 1]);
    await fine(agent);
  }
  const conflict = await conflictOf(w, 'a');
  assert.deepEqual([conflict?.kind, conflict?.count], ['token', 1]);
  await fine(await w.agent('a', 'the one that stays'));
  assert.equal(await conflictOf(w, 'a'), null);
  assert.equal((await w.dir.state.conflicts('a')).length, 1);
});

test('a server that was restored from before a renewal is reminded of it', async (t) => {
  const w = await live(t);
  const agent = await w.agent('a');
  const backup = join(w.top, 'backup.db');
  await w.without(async () => await copyFile(join(w.top, 'state/fleet.db'), backup));
  w.now += 61 * DAY;
  await fine(agent);
  const second = await tokenOf(agent);
  await w.without(async () => await copyFile(backup, join(w.top, 'state/fleet.db')));
  w.now += 61 * DAY;
  assert.equal(await statusOf(w, 'a', second), 401);
  await fine(agent);
  assert.equal(await statusOf(w, 'a', await tokenOf(agent)), 404);
  assert.equal(await conflictOf(w, 'a'), null);
});

/** Between agent and server: `answer` is asked about each request, and null lets it pass. */
async function between(
  t: TestContext,
  { url }: Live,
  { state }: LiveAgent,
  answer: (path: string) => Promise<{ status: number; body: string } | null>,
): Promise<void> {
  const proxy = createServer(async (request, response) => {
    const { url: path = '', method = 'GET', headers } = request;
    const chunks: Buffer[] = await request.toArray();
    const made = await answer(path);
    if (made !== null) return void response.writeHead(made.status).end(made.body);
    const { authorization = '', 'content-type': type = 'application/json' } = headers;
    const got = await fetch(`${url}${path}`, {
      method,
      headers: { authorization, 'content-type': type },
      ...(method === 'POST' ? { body: Buffer.concat(chunks) } : {}),
    });
    response.writeHead(got.status).end(Buffer.from(await got.arrayBuffer()));
  });
  await new Promise<void>((done) => proxy.listen(0, '127.0.0.1', done));
  t.after(() => proxy.close());
  const file = join(state, 'agent.json');
  const server = `http://127.0.0.1:${(proxy.address() as AddressInfo).port}`;
  const config = JSON.parse(await readFile(file, 'utf8'));
  await writeFile(file, JSON.stringify({ ...config, server, clock: 'trusted' }));
}

test('a token that is renewed in the middle of asking: the new roots before it stay trusted', async (t) => {
  const w = await live(t);
  const agent = await w.agent('a');
  await publishHost(w.dir, 'a', 'one', w.now);
  const rootOf = async () => trustedRoot(await readMemory(agent.state)).version;
  const headers = { authorization: `Bearer ${await tokenOf(agent)}` };
  const old = await (await fetch(`${w.url}/v1/hosts/a/offer?root=1&from=0`, { headers })).text();
  // One offer full of roots: the agent asks once more.
  for (let i = 0; i < MAX_OFFER_ROOTS; i++) {
    await importRoot(w.dir, await signNext(w.dir, w.now), w.now);
  }
  const newest = 1 + MAX_OFFER_ROOTS;
  const asked: string[] = [];
  await between(t, w, agent, async (path) => {
    if (!path.includes('/offer')) return null;
    asked.push(new URL(path, w.url).searchParams.get('root') ?? '');
    const refusal = { status: 401, body: '{"error":"E_UNAUTHORIZED","message":"no"}' };
    return asked.length === 2 ? refusal : asked.length === 3 ? { status: 200, body: old } : null;
  });
  // The old offer is of a root that is over.
  const { error } = await agent.once();
  assert.deepEqual(asked, ['1', `${newest}`, `${newest}`]);
  assert.deepEqual([error?.code, error?.exitCode], ['E_ROOT_VERSION', 3]);
  assert.equal(await rootOf(), newest);
  const { floor } = (await readMemory(agent.state)).trust;
  assert.equal(floor, null);
});

test('no run puts a root in the place of a newer one', async (t) => {
  const w = await live(t);
  const { state } = await w.agent('a');
  const { trust } = await readMemory(state);
  const next = { ...trust, root: await signNext(w.dir, w.now) };
  await advanceTrust(state, next);
  await assert.rejects(advanceTrust(state, trust), { code: 'E_TRUST_BACKWARDS', exitCode: 1 });
  assert.deepEqual((await readMemory(state)).trust, next);
  await advanceTrust(state, { ...next, time: w.now });
  assert.equal((await readMemory(state)).trust.time, w.now);
});

test('a damaged renewal.json: runs go on and say so, and reset-trust makes it whole', async (t) => {
  const w = await live(t);
  const agent = await w.agent('a');
  const file = join(agent.state, 'renewal.json');
  const first = await tokenOf(agent);
  const next = 'fleet_the-next-token-as-it-was-kept';
  const reset = () =>
    resetTrust({ dir: agent.state, rootFile: null, now: w.now, confirm: async () => {} });
  const damages = [
    ['{"version":1,"renewAt":', 3, { ...NO_RENEWAL }],
    ['{"version":1,"next":"x"}', 3, { ...NO_RENEWAL }],
    [JSON.stringify({ version: 1, renewAt: 'x', next }), 2, { ...NO_RENEWAL, next }],
  ] as const;
  for (const [damage, lost, left] of damages) {
    await writeFile(file, damage);
    await fine(agent);
    assert.match(agent.said.join(), /not renewed: .*renewal\.json is damaged: .*reset-trust/);
    const { tokenRenewAt, tokenProblem } = await agentStatus(agent.state);
    assert.equal(tokenRenewAt, null);
    assert.match(tokenProblem ?? '', /renewal\.json is damaged: .*reset-trust/);
    const { damaged, kept } = await reset();
    assert.deepEqual(
      damaged.map((one) => [one.file, one.lost.length]),
      [[file, lost]],
    );
    assert.equal(await readFile(join(agent.state, kept[0] ?? ''), 'utf8'), damage);
    assert.deepEqual(await readRenewal(agent.state), left);
    assert.equal((await agentStatus(agent.state)).tokenProblem, null);
    assert.deepEqual((await readChain(agent.state)).untold, ['trust-reset']);
    assert.deepEqual((await reset()).damaged, []);
    await fine(agent);
    assert.deepEqual(agent.said, []);
  }
  // When the server says so, what was kept is asked for.
  w.now += 61 * DAY;
  await fine(agent);
  assert.equal(await tokenOf(agent), next);
  assert.equal((await readRenewal(agent.state)).previous, first);
  // None at all is what hosts of an older fleet have.
  await rm(file);
  assert.deepEqual((await reset()).damaged, []);
  await fine(agent);
  // Where the token is not taken, the damage is what is in the way.
  await writeFile(file, '{');
  w.now += 100 * DAY;
  const { error } = await agent.once();
  assert.equal(error?.code, 'E_AGENT_STATE_CORRUPT');
  await reset();
  await fine(agent);
});
