// The server over real sockets: who may ask for what, what the cache answers, and hostile requests.
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { appendFile, mkdir, readdir, readFile, rm, truncate } from 'node:fs/promises';
import { connect } from 'node:net';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { generateSecretKey } from '../../src/ed25519.ts';
import { FleetError } from '../../src/errors.ts';
import { publicKeyOfSecret } from '../../src/keyfile.ts';
import { renewCheckpoint } from '../../src/manifest/append.ts';
import { signEnrolRequest } from '../../src/manifest/enrolment.ts';
import { parseOffer } from '../../src/manifest/offer.ts';
import { type Receipt, signReceipt } from '../../src/manifest/receipt.ts';
import { verifyClosure } from '../../src/manifest/verify.ts';
import { verifyOfferedLog, verifyOfferedManifest } from '../../src/manifest/verify-offer.ts';
import { parseNarInfo } from '../../src/nix/narinfo.ts';
import { hashPartOf } from '../../src/nix/storepath.ts';
import { buildApp } from '../../src/server/app.ts';
import { openLogWriter } from '../../src/server/log-writer.ts';
import type { StateDir } from '../../src/server/statedir.ts';
import { generateEnrolSecret, generateToken, hashToken } from '../../src/server/tokens.ts';
import { stored } from '../helpers/rows.ts';
import { makeState, publishHost } from '../helpers/state.ts';
import { temporaryDir } from '../helpers/temporary.ts';

type Context = Parameters<typeof temporaryDir>[0];

const NOW = 1_800_000_000;

type World = {
  url: string;
  port: number;
  dir: StateDir;
  read: string;
  host: string;
  clock: { now: number };
};

async function world(t: Context, options: { public?: boolean } = {}): Promise<World> {
  const clock = { now: NOW };
  const made = await makeState(await temporaryDir(t), NOW);
  const dir = { ...made, config: { ...made.config, public: options.public ?? false } };
  const app = buildApp(dir, { now: () => clock.now });
  await app.listen({ host: '127.0.0.1', port: 0 });
  t.after(async () => {
    await app.close();
    await made[Symbol.asyncDispose]();
  });
  const { port } = app.server.address() as { port: number };
  const read = generateToken();
  const host = generateToken();
  await dir.state.invite({ secretHash: hashToken('other'), host: 'lantern', expiresAt: NOW + 1 });
  const base = { createdAt: NOW, expiresAt: null };
  await dir.state.addCredential({
    ...base,
    tokenHash: hashToken(read),
    name: 'r',
    scope: 'read',
    host: null,
  });
  await dir.state.addCredential({
    ...base,
    tokenHash: hashToken(host),
    name: 'host:lantern',
    scope: 'host',
    host: 'lantern',
  });
  return { url: `http://127.0.0.1:${port}`, port, dir, read, host, clock };
}

const bearer = (token: string): Record<string, string> => ({ authorization: `Bearer ${token}` });

async function refused(response: Response, status: number, code: string): Promise<void> {
  const body = (await response.json()) as { error: string; message: string; hint: string };
  assert.equal(response.status, status, JSON.stringify(body));
  assert.equal(body.error, code);
  assert.ok(body.message.length > 0 && body.hint.length > 0);
  assert.equal(response.headers.get('cache-control'), 'no-store');
}

test('everything but health and nix-cache-info wants a token', async (t) => {
  const { url, dir } = await world(t);
  const { toplevel } = await publishHost(dir, 'lantern', 'one', NOW);
  for (const path of ['/healthz', '/readyz', '/nix-cache-info']) {
    assert.equal((await fetch(url + path)).status, 200, path);
  }
  const row = await dir.state.cachedPath(hashPartOf(toplevel));
  const manifest = await dir.state.currentManifest('lantern');
  for (const path of [
    `/${hashPartOf(toplevel)}.narinfo`,
    `/nar/${row?.blob}.nar.zst`,
    '/v1/root/1.json',
    `/v1/closures/${manifest?.closure}`,
    '/v1/hosts/lantern/offer',
  ]) {
    await refused(await fetch(url + path), 401, 'E_UNAUTHORIZED');
    await refused(await fetch(url + path, { headers: bearer('fleet_x') }), 401, 'E_UNAUTHORIZED');
  }
});

test('a read token opens the cache by Bearer and by Basic, and no host’s routes', async (t) => {
  const { url, dir, read } = await world(t);
  const { toplevel } = await publishHost(dir, 'lantern', 'one', NOW);
  const narinfo = `${url}/${hashPartOf(toplevel)}.narinfo`;
  const basic = `Basic ${Buffer.from(`anyone:${read}`).toString('base64')}`;
  assert.equal((await fetch(narinfo, { headers: bearer(read) })).status, 200);
  assert.equal((await fetch(narinfo, { headers: { authorization: basic } })).status, 200);
  const offer = await fetch(`${url}/v1/hosts/lantern/offer`, { headers: bearer(read) });
  await refused(offer, 403, 'E_FORBIDDEN');
});

test('a host’s token opens its own routes and no other host’s', async (t) => {
  const { url, dir, host } = await world(t);
  await publishHost(dir, 'lantern', 'one', NOW);
  await publishHost(dir, 'gateway', 'one', NOW);
  const own = await fetch(`${url}/v1/hosts/lantern/offer`, { headers: bearer(host) });
  assert.equal(own.status, 200);
  const other = await fetch(`${url}/v1/hosts/gateway/offer`, { headers: bearer(host) });
  await refused(other, 403, 'E_FORBIDDEN');
  const report = await fetch(`${url}/v1/hosts/gateway/reports`, {
    method: 'POST',
    headers: bearer(host),
    body: '{}',
  });
  await refused(report, 403, 'E_FORBIDDEN');
});

test('a token that has expired or was revoked opens nothing', async (t) => {
  const { url, dir, read, clock } = await world(t);
  const soon = generateToken();
  await dir.state.addCredential({
    tokenHash: hashToken(soon),
    name: 'soon',
    scope: 'read',
    host: null,
    createdAt: NOW,
    expiresAt: NOW + 10,
  });
  const status = async (token: string): Promise<number> =>
    (await fetch(`${url}/v1/root/1.json`, { headers: bearer(token) })).status;
  assert.equal(await status(soon), 200);
  clock.now = NOW + 10;
  assert.equal(await status(soon), 401);
  assert.equal(await status(read), 200);
  assert.equal(await dir.state.revokeCredentials('r'), 1);
  assert.equal(await status(read), 401);
});

test('public opens the read side, and no host’s routes', async (t) => {
  const { url, dir } = await world(t, { public: true });
  const { toplevel } = await publishHost(dir, 'lantern', 'one', NOW);
  assert.equal((await fetch(`${url}/${hashPartOf(toplevel)}.narinfo`)).status, 200);
  await refused(await fetch(`${url}/v1/hosts/lantern/offer`), 401, 'E_UNAUTHORIZED');
});

test('a narinfo says what the index says, and HEAD the same without a body', async (t) => {
  const { url, dir, read } = await world(t);
  const { toplevel, closure } = await publishHost(dir, 'lantern', 'one', NOW);
  const hashPart = hashPartOf(toplevel);
  const response = await fetch(`${url}/${hashPart}.narinfo`, { headers: bearer(read) });
  assert.equal(response.headers.get('content-type'), 'text/x-nix-narinfo');
  const narinfo = parseNarInfo(await response.text(), { hashPart });
  const info = closure.find(({ path }) => path === toplevel);
  assert.equal(narinfo.narHash, info?.narHash);
  assert.deepEqual(narinfo.references, info?.references);
  assert.equal(narinfo.sigs.length, 1);
  const head = await fetch(`${url}/${hashPart}.narinfo`, { method: 'HEAD', headers: bearer(read) });
  assert.equal(head.status, 200);
  assert.equal(await head.text(), '');
  assert.equal(head.headers.get('content-length'), response.headers.get('content-length'));
});

test('what is not there is 404: an unknown path, and a row whose bytes are gone or cut', async (t) => {
  const { url, dir, read } = await world(t);
  const { toplevel } = await publishHost(dir, 'lantern', 'one', NOW);
  const row = await dir.state.cachedPath(hashPartOf(toplevel));
  assert.ok(row !== null);
  const get = (path: string) => fetch(url + path, { headers: bearer(read) });
  assert.equal((await get(`/${'0'.repeat(32)}.narinfo`)).status, 404);
  assert.equal((await get(`/nar/${'0'.repeat(64)}.nar.zst`)).status, 404);
  // A closure file is a blob and no NAR.
  const manifest = await dir.state.currentManifest('lantern');
  assert.equal((await get(`/nar/${manifest?.closure}.nar.zst`)).status, 404);
  const nar = `/nar/${row.blob}.nar.zst`;
  const closure = `/v1/closures/${manifest?.closure}`;
  assert.equal((await get(nar)).status, 200);
  assert.equal((await get(closure)).status, 200);
  const file = (id: string) => join(dir.layout.blobs, id.slice(0, 2), id.slice(2));
  for (const damage of [
    (path: string) => truncate(path, 20),
    (path: string) => appendFile(path, 'x'.repeat(100)),
    (path: string) => rm(path),
    (path: string) => mkdir(path),
  ]) {
    for (const id of [row.blob ?? '', manifest?.closure ?? '']) await damage(file(id));
    assert.equal((await get(`/${hashPartOf(toplevel)}.narinfo`)).status, 404);
    assert.equal((await get(nar)).status, 404);
    assert.equal((await get(closure)).status, 404);
    const head = await fetch(url + nar, { method: 'HEAD', headers: bearer(read) });
    assert.equal(head.status, 404);
  }
});

test('the URL of a NAR stays valid when its path gets another one', async (t) => {
  const { url, dir, read } = await world(t);
  const { toplevel } = await publishHost(dir, 'lantern', 'one', NOW);
  const row = await dir.state.cachedPath(hashPartOf(toplevel));
  assert.ok(row !== null);
  const blob = await dir.blobs.put([Buffer.from('other bytes')]);
  await dir.state.addCachedPaths([{ ...stored(row), blob: blob.id, blobSize: blob.size }], NOW);
  const old = await fetch(`${url}/nar/${row.blob}.nar.zst`, { headers: bearer(read) });
  assert.equal(old.status, 200);
});

test('a client that asks on and reads nothing is cut off, and others are served', async (t) => {
  const { url, port, dir, read } = await world(t);
  const { toplevel } = await publishHost(
    dir,
    'lantern',
    randomBytes(4_000_000).toString('hex'),
    NOW,
  );
  const row = await dir.state.cachedPath(hashPartOf(toplevel));
  const socket = connect(port, '127.0.0.1');
  socket.on('error', () => {});
  const closed = new Promise((settle) => socket.once('close', settle));
  const one = `GET /nar/${row?.blob}.nar.zst HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${read}\r\n\r\n`;
  socket.pause();
  socket.write(one.repeat(2000));
  await sleep(300);
  const open = (await readdir('/proc/self/fd')).length;
  assert.ok(open < 200, `${open} files are open`);
  socket.resume();
  await closed;
  assert.equal((await fetch(`${url}/healthz`)).status, 200);
});

test('a fault inside is told without its inside', async (t) => {
  const { url, dir, read } = await world(t);
  const { toplevel } = await publishHost(dir, 'lantern', 'one', NOW);
  const broken = () => Promise.reject(new FleetError('E_STATE_DAMAGED', '/secret/place is broken'));
  Object.assign(dir.state, { cachedPath: broken });
  const response = await fetch(`${url}/${hashPartOf(toplevel)}.narinfo`, { headers: bearer(read) });
  await refused(response.clone(), 500, 'E_INTERNAL');
  assert.doesNotMatch(await response.text(), /secret/);
});

test('a NAR comes whole, by range, and not again when the client has it', async (t) => {
  const { url, dir, read } = await world(t);
  const { toplevel } = await publishHost(dir, 'lantern', 'x'.repeat(100_000), NOW);
  const row = await dir.state.cachedPath(hashPartOf(toplevel));
  const nar = `${url}/nar/${row?.blob}.nar.zst`;
  const get = (headers: Record<string, string> = {}, method = 'GET') =>
    fetch(nar, { method, headers: { ...bearer(read), ...headers } });
  const whole = Buffer.from(await (await get()).arrayBuffer());
  assert.equal(whole.length, row?.blobSize);
  const size = whole.length;

  const cases: [string, number, number][] = [
    ['bytes=0-0', 0, 1],
    ['bytes=5-9', 5, 10],
    ['bytes=5-', 5, size],
    ['bytes=-7', size - 7, size],
    [`bytes=0-${size * 2}`, 0, size],
    [`bytes=-${size * 2}`, 0, size],
  ];
  for (const [range, start, end] of cases) {
    const response = await get({ range });
    assert.equal(response.status, 206, range);
    assert.equal(response.headers.get('content-range'), `bytes ${start}-${end - 1}/${size}`, range);
    const body = Buffer.from(await response.arrayBuffer());
    assert.ok(body.equals(whole.subarray(start, end)), range);
  }
  for (const range of [`bytes=${size}-`, 'bytes=99999999999-', 'bytes=-0']) {
    const response = await get({ range });
    assert.equal(response.status, 416, range);
    assert.equal(response.headers.get('content-range'), `bytes */${size}`);
    assert.equal(response.headers.get('cache-control'), 'no-store');
  }
  // Several, inverted, malformed, other units: the whole, as RFC 9110 allows.
  for (const range of ['bytes=0-1,4-5', 'bytes=9-5', 'bytes=-', 'bytes=a-b', 'lines=1-2']) {
    const response = await get({ range });
    assert.equal(response.status, 200, range);
    assert.equal((await response.arrayBuffer()).byteLength, size, range);
  }
  const etag = (await get({}, 'HEAD')).headers.get('etag') ?? '';
  assert.equal((await get({ 'if-none-match': etag })).status, 304);
  assert.equal((await get({ range: 'bytes=0-0', 'if-range': etag })).status, 206);
  assert.equal((await get({ range: 'bytes=0-0', 'if-range': '"other"' })).status, 200);
  const head = await get({}, 'HEAD');
  assert.equal(head.headers.get('content-length'), String(size));
  assert.match(head.headers.get('cache-control') ?? '', /immutable/);
  assert.equal(head.headers.get('content-encoding'), null);
  assert.equal(head.headers.get('accept-ranges'), 'bytes');
  // RFC 9110 §14.2: for HEAD a range means nothing.
  for (const range of ['bytes=0-0', `bytes=${size}-`]) {
    const ranged = await get({ range }, 'HEAD');
    assert.equal(ranged.status, 200, range);
    assert.equal(ranged.headers.get('content-length'), String(size), range);
    assert.equal(ranged.headers.get('content-range'), null, range);
  }
});

test('hostile paths are 4xx and never a file', async (t) => {
  const { port, read } = await world(t);
  const raw = (path: string): Promise<string> =>
    new Promise((settle, reject) => {
      const socket = connect(port, '127.0.0.1', () => {
        socket.write(
          `GET ${path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${read}\r\nConnection: close\r\n\r\n`,
        );
      });
      let text = '';
      socket.on('data', (chunk) => {
        text += chunk;
      });
      socket.on('end', () => settle(text));
      socket.on('error', reject);
    });
  const hash = '0'.repeat(32);
  for (const path of [
    '/%2e%2e%2f%2e%2e%2fetc%2fpasswd.ls',
    '/../../etc/passwd',
    '/log/..%2f..%2fetc%2fpasswd',
    '/nar/..%2f..%2ffleet.json',
    '/nar/../fleet.json',
    '/nar/%00.nar.zst',
    '/%ff%fe.narinfo',
    `/${hash.slice(1)}.narinfo`,
    `/${hash}0.narinfo`,
    ...['e', 'o', 't', 'u', 'A'].map((letter) => `/${letter}${hash.slice(1)}.narinfo`),
    `/nar/${'A'.repeat(64)}.nar.zst`,
    `/nar/${'0'.repeat(64)}.nar.xz`,
    `/v1/closures/${'0'.repeat(63)}`,
    '/v1/closures/..%2f..%2ffleet.json',
    '/v1/root/0.json',
    '/v1/root/01.json',
    '/v1/root/2.json',
    '/v1/root/99999999.json',
    '/v1/hosts/..%2f/offer',
    `/${'a'.repeat(5000)}`,
    '/%',
  ]) {
    const answer = await raw(path);
    const status = Number(/^HTTP\/1\.1 (\d{3})/.exec(answer)?.[1]);
    assert.ok(status >= 400 && status < 500, `${path}: ${answer.slice(0, 80)}`);
    assert.doesNotMatch(answer, /root:|PRIVATE KEY|zstdLevel/);
  }
});

test('hostile headers and bodies are refused', async (t) => {
  const { url, host, read } = await world(t);
  const big = 'x'.repeat(100_000);
  const post = (body: string, headers: Record<string, string> = {}) =>
    fetch(`${url}/v1/hosts/lantern/reports`, {
      method: 'POST',
      headers: { ...bearer(host), ...headers },
      body,
    });
  assert.equal((await post(big)).status, 413);
  // This host has a token and no key yet: nothing it says can be checked.
  await refused(await post('{}'), 409, 'E_NOT_ENROLLED');
  const headers = await fetch(`${url}/nix-cache-info`, { headers: { 'x-long': big } }).catch(
    () => null,
  );
  assert.ok(headers === null || headers.status === 431);
  const put = await fetch(`${url}/${'0'.repeat(32)}.narinfo`, {
    method: 'PUT',
    headers: bearer(read),
    body: 'x',
  });
  // A token that may read may not upload.
  assert.equal(put.status, 403);
});

test('an offer is what the host may verify; a second request costs a 304', async (t) => {
  const { url, dir, host } = await world(t);
  const get = (headers: Record<string, string> = {}, query = '') =>
    fetch(`${url}/v1/hosts/lantern/offer${query}`, { headers: { ...bearer(host), ...headers } });
  await refused(await get(), 404, 'E_NO_MANIFEST');
  const { toplevel } = await publishHost(dir, 'lantern', 'one', NOW);
  const first = await get();
  const offer = parseOffer(await first.text());
  const closure = await fetch(`${url}/v1/closures/${offer.closure?.sha256}`, {
    headers: bearer(host),
  });
  const trusted = { root: dir.root, envelope: dir.roots.at(-1)?.envelope ?? '' };
  const log = verifyOfferedLog(offer, trusted, null, NOW);
  const expect = { host: 'lantern', system: 'x86_64-linux', floor: null };
  const { manifest } = verifyOfferedManifest(offer, trusted, log, expect, NOW);
  assert.ok(manifest.intent === 'deploy' && manifest.toplevel === toplevel);
  verifyClosure(manifest, new Uint8Array(await closure.arrayBuffer()));
  const etag = first.headers.get('etag') ?? '';
  assert.equal((await get({ 'if-none-match': etag })).status, 304);
  await publishHost(dir, 'lantern', 'two', NOW);
  const changed = await get({ 'if-none-match': etag });
  assert.equal(changed.status, 200);
  assert.notEqual(changed.headers.get('etag'), etag);
  // Another host's news changes the log, and with it the offer: it goes on from what was seen.
  await publishHost(dir, 'gateway', 'three', NOW);
  const grown = parseOffer(await (await get({}, `?from=${log.checkpoint.size}`)).text());
  const later = verifyOfferedLog(grown, trusted, log.text, NOW);
  assert.equal(later.checkpoint.size, log.checkpoint.size + 4);
  verifyOfferedManifest(grown, trusted, later, expect, NOW);
  // Whose log is longer than this one is told so by the checkpoint itself.
  assert.deepEqual(parseOffer(await (await get({}, '?from=999')).text()).growth, []);
  // A renewal is no news; its time is there for who asks.
  const then = (await get()).headers.get('etag') ?? '';
  await renewCheckpoint(await openLogWriter(dir), NOW + 60);
  assert.equal((await get({ 'if-none-match': then })).status, 304);
  const renewed = parseOffer(await (await get()).text());
  assert.equal(verifyOfferedLog(renewed, trusted, later.text, NOW).freshAt, NOW + 60);
  for (const query of [
    '?from=x',
    '?from=-1',
    '?from=1.5',
    `?from=${'9'.repeat(16)}`,
    '?root=0',
    '?root=x',
    '?root=1&root=2',
    '?root=-1',
  ]) {
    assert.equal((await get({}, query)).status, 400, query);
  }
});

test('a closure file that no manifest names is not served', async (t) => {
  const { url, dir, read } = await world(t);
  const { id } = await dir.blobs.put([Buffer.from('1;/nix/store/…')]);
  await refused(
    await fetch(`${url}/v1/closures/${id}`, { headers: bearer(read) }),
    404,
    'E_NOT_FOUND',
  );
});

test('enrolment: once, by the key that asked first, until it expires', async (t) => {
  const { url, dir, clock } = await world(t);
  const secret = generateEnrolSecret();
  const invite = (host: string, of: string, expiresAt = NOW + 60) =>
    dir.state.invite({ secretHash: hashToken(of), host, expiresAt });
  await invite('lantern', secret);
  const key = generateSecretKey();
  const request = (
    over: { fleet?: string; host?: string; secret?: string; key?: Uint8Array } = {},
  ) =>
    signEnrolRequest(
      {
        fleet: over.fleet ?? 'state.test',
        host: over.host ?? 'lantern',
        secret: over.secret ?? secret,
      },
      over.key ?? key,
    );
  const post = (body: string, token = secret) =>
    fetch(`${url}/v1/enroll`, { method: 'POST', headers: bearer(token), body });

  await refused(await post(request(), generateEnrolSecret()), 401, 'E_ENROL_REFUSED');
  await refused(await post(request({ fleet: 'other.test' })), 422, 'E_FLEET_MISMATCH');
  await refused(await post(request({ host: 'gateway' })), 422, 'E_HOST_MISMATCH');
  await refused(await post(request({ secret: generateEnrolSecret() })), 422, 'E_ENROL_FORM');
  await refused(await post('{"payloadType":"x"}'), 422, 'E_ENVELOPE');
  await refused(await post('not json'), 422, 'E_ENVELOPE');
  await refused(await post(request().replace(/"sig":"..../, '"sig":"AAAA')), 422, 'E_SIGNATURE');

  const answer = await post(request());
  assert.equal(answer.status, 200);
  const { token } = (await answer.json()) as { token: string };
  assert.equal((await dir.state.host('lantern'))?.publicKey, publicKeyOfSecret(key));
  // A host that lost the answer asks again with the same key.
  const again = await post(request());
  assert.equal(again.status, 200);
  assert.notEqual(((await again.json()) as { token: string }).token, token);
  await refused(await post(request({ key: generateSecretKey() })), 401, 'E_ENROL_REFUSED');
  clock.now = NOW + 60;
  const late = generateEnrolSecret();
  await invite('gateway', late);
  await refused(
    await post(request({ host: 'gateway', secret: late }), late),
    401,
    'E_ENROL_REFUSED',
  );
});

test('reports: signed by the host’s key, chained, stored once', async (t) => {
  const { url, dir } = await world(t);
  const secret = generateEnrolSecret();
  await dir.state.invite({ secretHash: hashToken(secret), host: 'lantern', expiresAt: NOW + 60 });
  const key = generateSecretKey();
  const enrolled = await fetch(`${url}/v1/enroll`, {
    method: 'POST',
    headers: bearer(secret),
    body: signEnrolRequest({ fleet: 'state.test', host: 'lantern', secret }, key),
  });
  const { token } = (await enrolled.json()) as { token: string };
  const receipt = (
    counter: number,
    previous: string | null,
    over: Partial<Receipt> = {},
  ): Receipt => ({
    fleet: 'state.test',
    host: 'lantern',
    counter,
    previous,
    manifest: null,
    checkpoint: null,
    conflict: null,
    phase: 'failed',
    reason: { code: 'E_TEST', text: `receipt ${counter}` },
    booted: null,
    current: null,
    profile: null,
    exitCode: null,
    failedUnits: { added: [], removed: [] },
    who: 'policy',
    times: { started: NOW, finished: NOW },
    ...over,
  });
  const post = (body: string) =>
    fetch(`${url}/v1/hosts/lantern/reports`, { method: 'POST', headers: bearer(token), body });

  const first = signReceipt(receipt(1, null), key);
  const stored = await post(first.envelope);
  assert.equal(stored.status, 200, await stored.clone().text());
  assert.deepEqual(await stored.json(), { stored: true });
  assert.deepEqual(await (await post(first.envelope)).json(), { stored: false });
  const fork = signReceipt(receipt(1, null, { exitCode: 3 }), key);
  await refused(await post(fork.envelope), 409, 'E_RECEIPT_CHAIN');
  const gap = signReceipt(receipt(3, first.digest), key);
  await refused(await post(gap.envelope), 409, 'E_RECEIPT_CHAIN');
  const foreign = signReceipt(receipt(2, first.digest), generateSecretKey());
  await refused(await post(foreign.envelope), 422, 'E_SIGNATURE_UNKNOWN_KEY');
  const other = signReceipt(receipt(2, first.digest, { host: 'gateway' }), key);
  await refused(await post(other.envelope), 422, 'E_HOST_MISMATCH');
  const second = signReceipt(receipt(2, first.digest), key);
  assert.deepEqual(await (await post(second.envelope)).json(), { stored: true });
  assert.equal((await dir.state.lastReport('lantern'))?.counter, 2);
});

test('the request log: a line for each request, who it was, and no secret wherever it stood', async (t) => {
  const lines: string[] = [];
  const made = await makeState(await temporaryDir(t), NOW);
  const app = buildApp(made, { accessLog: (line) => void lines.push(line), now: () => NOW });
  await app.listen({ host: '127.0.0.1', port: 0 });
  const { port } = app.server.address() as { port: number };
  const url = `http://127.0.0.1:${port}`;
  const good = generateToken();
  const credential = { tokenHash: hashToken(good), name: 'ci', scope: 'read', host: null } as const;
  await made.state.addCredential({ ...credential, createdAt: NOW, expiresAt: null });
  const secret = generateToken();
  const narinfo = `/${'0'.repeat(32)}.narinfo`;
  // Twice: the second is answered on the quick path.
  for (let i = 0; i < 2; i++) await fetch(url + narinfo, { headers: bearer(good) });
  await fetch(`${url}/v1/root/1.json`, { headers: bearer(secret) });
  await fetch(`${url}/v1/enroll?secret=${secret}`, {
    method: 'POST',
    headers: bearer(secret),
    body: JSON.stringify({ secret }),
  });
  await fetch(`${url}/${secret}/${'x'.repeat(600)}`);
  await app.close();
  await made[Symbol.asyncDispose]();
  assert.ok(!lines.join('').includes(secret) && !lines.join('').includes(good));
  const entries = lines.map((line) => JSON.parse(line) as Record<string, unknown>);
  assert.deepEqual(
    entries.map(({ id, method, route, status, whole, credential: who }) => [
      ...[id, method, route, status, whole, who],
    ]),
    [
      [1, 'GET', '/:hash.narinfo', 404, true, 'ci'],
      [2, 'GET', '/:hash.narinfo', 404, true, 'ci'],
      [3, 'GET', '/v1/root/:file', 401, true, null],
      [4, 'POST', '/v1/enroll', 401, true, null],
      [5, 'GET', 'none', 404, true, null],
    ],
  );
  for (const entry of entries) {
    assert.equal(entry['remote'], '127.0.0.1');
    assert.ok(Number(entry['bytes']) > 50 && Number(entry['ms']) > 0);
    const page = await readFile('docs/OPERATIONS.md', 'utf8');
    for (const field of Object.keys(entry)) assert.ok(page.includes(`\`${field}\``), field);
  }
  assert.deepEqual(
    entries.map(({ path }) => path),
    [
      ...[narinfo, narinfo, '/v1/root/1.json', '/v1/enroll'],
      `/fleet_[secret]/${'x'.repeat(500 - '/fleet_[secret]/'.length)}…`,
    ],
  );
});
