// Packs over HTTP: who may ask for which, what is said until one is there, ranges of it; and when the keeper makes them.
import assert from 'node:assert/strict';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import type { PathInfo } from '../../src/nix/closure.ts';
import { decompress } from '../../src/nix/decompress.ts';
import { buildApp } from '../../src/server/app.ts';
import { collect } from '../../src/server/collect.ts';
import { openStateDir, type StateDir } from '../../src/server/statedir.ts';
import { generateToken, hashToken } from '../../src/server/tokens.ts';
import { waitFor } from '../helpers/hosts.ts';
import { bytesOf } from '../helpers/nar.ts';
import { digestOf, orEmpty, packBytes, stepOf, unpack } from '../helpers/packs.ts';
import { hex } from '../helpers/rows.ts';
import { addPath, makeState, publishSystem } from '../helpers/state.ts';
import { temporaryDir } from '../helpers/temporary.ts';

const NOW = Math.floor(Date.now() / 1000);
const TEXT = 'what is in a system, again and again. '.repeat(2000);

async function systemOf(dir: StateDir, what: string): Promise<PathInfo[]> {
  const data = await addPath(dir, 'data', Buffer.from(`${TEXT}${what}`));
  const top = await addPath(dir, 'system', Buffer.from(`${what} ${data.path}`), [data.path]);
  return [data, top];
}

type Served = Awaited<ReturnType<typeof served>>;

async function served(t: TestContext, dir: StateDir, runs = true) {
  const errors: unknown[] = [];
  const app = buildApp(dir, { onError: (error) => errors.push(error) });
  const url = await app.listen({ host: '127.0.0.1', port: 0 });
  const ending = new AbortController();
  const running = runs ? app.packs.run(ending.signal) : Promise.resolve();
  const stop = async (): Promise<void> => {
    ending.abort();
    await running;
    await app.close();
  };
  t.after(stop);
  const token = generateToken();
  await dir.state.addCredential({
    ...{ tokenHash: hashToken(token), name: token.slice(6, 16), scope: 'read', host: null },
    ...{ createdAt: NOW, expiresAt: null },
  });
  const ask = (closure: string, base: string | null, init: RequestInit = {}) =>
    fetch(`${url}/v1/packs/${closure}${base === null ? '' : `?base=${base}`}`, {
      ...init,
      headers: { authorization: `Bearer ${token}`, ...init.headers },
    });
  return { app, url, ask, errors, stop };
}

async function opened(t: TestContext): Promise<StateDir> {
  const dir = await makeState(await temporaryDir(t), NOW);
  t.after(() => dir[Symbol.asyncDispose]());
  return dir;
}

/** Two systems, published one after the other. */
async function twoSystems(dir: StateDir): Promise<[PathInfo[], PathInfo[]]> {
  const before = await systemOf(dir, 'before');
  const after = await systemOf(dir, 'after');
  await publishSystem(dir, ['a'], before, NOW);
  await publishSystem(dir, ['a'], after, NOW);
  return [before, after];
}

const ready = ({ ask }: Served, closure: string, base: string | null) =>
  waitFor(async () => (await ask(closure, base)).status === 200);

test('a pack that is asked for is made, and then served whole, in parts, or not again', async (t) => {
  const dir = await opened(t);
  const [before, after] = await twoSystems(dir);
  const server = await served(t, dir);
  const { ask } = server;
  const [closure, base] = [digestOf(after), digestOf(before)];
  const first = await ask(closure, base);
  assert.equal(first.status, 404);
  assert.ok(Number(first.headers.get('retry-after')) >= 1);
  assert.equal(first.headers.get('cache-control'), 'no-store');
  await ready(server, closure, base);

  const pack = await dir.state.pack(stepOf(after, before));
  assert.ok(pack !== null);
  const bytes = await packBytes(dir, pack);
  const response = await ask(closure, base);
  assert.deepEqual(Buffer.from(await response.arrayBuffer()), bytes);
  const etag = response.headers.get('etag') ?? '';
  assert.equal(etag, `"${pack.parts[0]?.id}"`);
  assert.equal(response.headers.get('content-length'), `${bytes.length}`);
  assert.equal(response.headers.get('accept-ranges'), 'bytes');
  const { nars } = await unpack(bytes, after, before, async (path) => {
    const row = await dir.state.cachedPath(path.slice(11, 43));
    return await bytesOf(
      decompress(orEmpty(await dir.blobs.get(row?.blob ?? (hex('') as never))), 'zstd'),
    );
  });
  assert.equal(nars.size, 2);

  const head = await ask(closure, base, { method: 'HEAD' });
  assert.deepEqual([head.status, head.headers.get('content-length')], [200, `${bytes.length}`]);
  const same = await ask(closure, base, { headers: { 'if-none-match': etag } });
  assert.deepEqual([same.status, same.headers.get('etag')], [304, etag]);

  const part = async (headers: Record<string, string>) => {
    const answer = await ask(closure, base, { headers });
    return { status: answer.status, bytes: Buffer.from(await answer.arrayBuffer()), answer };
  };
  // Over the end of the index, where the first segment begins.
  const middle = pack.parts[0]?.size ?? 0;
  const over = await part({ range: `bytes=${middle - 3}-${middle + 2}`, 'if-range': etag });
  assert.deepEqual([over.status, over.bytes], [206, bytes.subarray(middle - 3, middle + 3)]);
  assert.equal(
    over.answer.headers.get('content-range'),
    `bytes ${middle - 3}-${middle + 2}/${bytes.length}`,
  );
  const rest = await part({ range: 'bytes=5-' });
  assert.deepEqual([rest.status, rest.bytes], [206, bytes.subarray(5)]);
  const other = await part({ range: 'bytes=5-', 'if-range': '"another"' });
  assert.deepEqual([other.status, other.bytes], [200, bytes]);
  const beyond = await part({ range: `bytes=${bytes.length}-` });
  assert.equal(beyond.status, 416);
  assert.equal(beyond.answer.headers.get('content-range'), `bytes */${bytes.length}`);
  assert.equal(server.app.packs.counts.failed, 0);
});

test('what is no step of this fleet is refused, and nothing is made of it', async (t) => {
  const dir = await opened(t);
  const [before, after] = await twoSystems(dir);
  const { app, ask, url } = await served(t, dir, false);
  const [closure, base] = [digestOf(after), digestOf(before)];
  const unknown = hex('unknown');
  for (const [one, other] of [
    [unknown, null],
    [unknown, base],
    [closure, unknown],
    [closure, closure],
    [closure, 'x'],
    [closure, ''],
    [`${closure}0`, base],
    [closure, `${base}&base=${base}`],
    ['x', base],
  ] as const) {
    const answer = await ask(one, other);
    assert.deepEqual([answer.status, answer.headers.get('retry-after')], [404, null], `${other}`);
    assert.equal(((await answer.json()) as { error: string }).error, 'E_NOT_FOUND');
  }
  assert.equal((await fetch(`${url}/v1/packs/${closure}?base=${base}`)).status, 401);
  assert.equal(app.packs.waiting, 0);
  // A closure that is no longer kept is a base at most.
  await Promise.all(
    Array.from({ length: dir.config.keepManifests }, async (_, i) => await systemOf(dir, `${i}`)),
  ).then(async (systems) => {
    for (const system of systems) await publishSystem(dir, ['a'], system, NOW);
  });
  assert.equal((await ask(closure, base)).headers.get('retry-after'), null);
  const [newest] = await dir.state.currentManifests();
  assert.notEqual((await ask(newest?.closure ?? '', base)).headers.get('retry-after'), null);
  assert.equal(app.packs.waiting, 1);
});

test('one who asks for much does not fill the queue', async (t) => {
  const dir = await opened(t);
  const systems: PathInfo[][] = [];
  for (let i = 0; i < 8; i++) {
    systems.push(await systemOf(dir, `${i}`));
    await publishSystem(dir, ['a'], systems.at(-1) ?? [], NOW);
  }
  const { app, ask } = await served(t, dir, false);
  for (const system of systems.slice(0, 7)) {
    const answer = await ask(digestOf(systems.at(-1) ?? []), digestOf(system));
    assert.ok(Number(answer.headers.get('retry-after')) >= 1);
  }
  assert.equal(app.packs.waiting, 4);
});

test('a publication, and a start, make the packs of all steps, each once', async (t) => {
  const dir = await opened(t);
  const before = await systemOf(dir, 'before');
  const after = await systemOf(dir, 'after');
  await publishSystem(dir, ['a', 'b'], before, NOW);
  const server = await served(t, dir);
  // Neither has reported anything.
  await waitFor(async () => (await dir.state.pack(stepOf(before, null))) !== null);
  await publishSystem(dir, ['a', 'b'], after, NOW);
  await waitFor(async () => (await dir.state.pack(stepOf(after, null))) !== null);
  await waitFor(async () => server.app.packs.waiting === 0);
  assert.equal(server.app.packs.counts.made, 2);
  await server.stop();

  // What was lost is made again at the next start.
  const pack = await dir.state.pack(stepOf(after, null));
  await dir.blobs.delete(pack?.parts[0]?.id ?? (hex('') as never));
  const idle = await served(t, dir, false);
  assert.equal((await idle.ask(digestOf(after), null)).status, 404);
  await idle.stop();
  const again = await served(t, dir);
  await waitFor(() => again.app.packs.counts.made === 1);
  assert.deepEqual((await dir.state.pack(stepOf(after, null)))?.parts, pack?.parts);
  assert.deepEqual([...server.errors, ...again.errors], []);
});

test('a pack that others signed is made anew', async (t) => {
  const dir = await opened(t);
  const [before, after] = await twoSystems(dir);
  const server = await served(t, dir);
  await server.ask(digestOf(after), digestOf(before));
  await ready(server, digestOf(after), digestOf(before));
  const pack = await dir.state.pack(stepOf(after, before));
  assert.ok(pack !== null);
  await dir.state.addPack({ ...pack, signers: 'another key' });
  assert.equal((await server.ask(digestOf(after), digestOf(before))).status, 404);
  await ready(server, digestOf(after), digestOf(before));
  assert.deepEqual((await dir.state.pack(stepOf(after, before)))?.parts, pack.parts);
});

test('a failure is told, counted, and not tried again at once', async (t) => {
  const dir = await opened(t);
  const [before, after] = await twoSystems(dir);
  const rowOf = async ({ path }: PathInfo) => await dir.state.cachedPath(path.slice(11, 43));
  const blob = (await rowOf(after[0] as PathInfo))?.blob ?? (hex('') as never);
  const file = dir.blobs.fileOf(blob);
  const whole = await readFile(file);
  const damaged = Buffer.from(whole);
  damaged[20] = (damaged[20] ?? 0) ^ 255;
  await writeFile(file, damaged);
  const server = await served(t, dir);
  await server.ask(digestOf(after), digestOf(before));
  await waitFor(async () => server.app.packs.counts.failed >= 2);
  assert.ok(server.errors.length >= 2);
  const refused = await server.ask(digestOf(after), digestOf(before));
  assert.deepEqual([refused.status, refused.headers.get('retry-after')], [404, null]);
  assert.equal(await dir.state.pack(stepOf(after, before)), null);

  // It is as it was, and something is published.
  await writeFile(file, whole);
  await publishSystem(dir, ['b'], after, NOW);
  await waitFor(async () => (await dir.state.pack(stepOf(after, null))) !== null);
  // The others work on.
  assert.equal((await fetch(`${server.url}/healthz`)).status, 200);
});

test('where packs are off none is made or served, and a collection removes those that were', async (t) => {
  const top = await temporaryDir(t);
  const dir = await makeState(top, NOW);
  const [before, after] = await twoSystems(dir);
  const on = await served(t, dir);
  await on.ask(digestOf(after), digestOf(before));
  await ready(on, digestOf(after), digestOf(before));
  await on.stop();
  await dir[Symbol.asyncDispose]();

  const file = dir.layout.config;
  const config = JSON.parse(await readFile(file, 'utf8'));
  await writeFile(file, JSON.stringify({ ...config, packs: false }));
  await using without = await openStateDir(join(top, 'state'), { writer: 'inline' });
  const off = await served(t, without);
  const answer = await off.ask(digestOf(after), digestOf(before));
  assert.deepEqual([answer.status, answer.headers.get('retry-after')], [404, null]);
  const third = await systemOf(without, 'third');
  await publishSystem(without, ['a'], third, NOW);
  await off.ask(digestOf(third), digestOf(after));
  assert.equal(off.app.packs.waiting, 0);
  await off.stop();
  await collect(without, { dryRun: false, now: NOW + 100 });
  assert.equal(await without.state.pack(stepOf(after, before)), null);
  assert.equal(await without.state.pack(stepOf(third, null)), null);
});

test('a collection removes packs with their closures, then what they were made of', async (t) => {
  const dir = await opened(t);
  const [before, after] = await twoSystems(dir);
  const server = await served(t, dir);
  await server.ask(digestOf(after), digestOf(before));
  await ready(server, digestOf(after), digestOf(before));
  await waitFor(async () => server.app.packs.waiting === 0);
  await server.stop();
  const pack = await dir.state.pack(stepOf(after, before));
  assert.ok(pack !== null);
  const day = 86_400;
  await collect(dir, { dryRun: true, now: NOW + 40 * day });
  await collect(dir, { dryRun: false, now: NOW + 40 * day });
  assert.deepEqual(await dir.state.pack(stepOf(after, before)), pack);
  for (const { id, size } of pack.parts) assert.equal(await dir.blobs.size(id), size);

  for (let i = 0; i < dir.config.keepManifests; i++) {
    await publishSystem(dir, ['a'], await systemOf(dir, `${i}`), NOW);
  }
  await collect(dir, { dryRun: true, now: NOW + 80 * day });
  assert.notEqual(await dir.state.pack(stepOf(after, before)), null);
  await collect(dir, { dryRun: false, now: NOW + 80 * day });
  assert.equal(await dir.state.pack(stepOf(after, before)), null);
  assert.equal(await dir.state.pack(stepOf(after, null)), null);
  for (const { id } of pack.parts) assert.equal(await dir.blobs.size(id), null, id);
});

test('a server that ends says of no pack that it is coming', async (t) => {
  const dir = await opened(t);
  const [before, after] = await twoSystems(dir);
  const { app, ask } = await served(t, dir, false);
  const [closure, base] = [digestOf(after), digestOf(before)];
  assert.notEqual((await ask(closure, base)).headers.get('retry-after'), null);
  await app.packs.run(AbortSignal.abort());
  const answer = await ask(closure, base);
  assert.deepEqual([answer.status, answer.headers.get('retry-after')], [404, null]);
});
