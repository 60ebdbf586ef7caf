// The log over HTTP, and what keeps it fresh: only what was published, to whom it is open, for every size
// that a checkpoint had.
import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { appendEntries, finishLog } from '../../src/manifest/append.ts';
import { formatEnrolFile } from '../../src/manifest/enrol-file.ts';
import { verifyCheckpoint } from '../../src/manifest/log-view.ts';
import { buildApp } from '../../src/server/app.ts';
import { importRoot } from '../../src/server/import-root.ts';
import { Bell, keepLog } from '../../src/server/log-keeper.ts';
import { logStoreOf, openLogWriter } from '../../src/server/log-writer.ts';
import type { StateDir } from '../../src/server/statedir.ts';
import { generateEnrolSecret, generateToken, hashToken } from '../../src/server/tokens.ts';
import { tryLockFile } from '../../src/storage/lease.ts';
import { hashLeaf, rootOf } from '../../src/tlog/merkle.ts';
import { parseBundle } from '../../src/tlog/tile.ts';
import { addServerKey, signNext } from '../helpers/rotation.ts';
import { enrolByHand } from '../helpers/served.ts';
import { makeState, publishHost } from '../helpers/state.ts';
import { temporaryDir } from '../helpers/temporary.ts';

const NOW = 1_800_000_000;

async function world(t: TestContext, publicLog = false) {
  const made = await makeState(await temporaryDir(t), NOW);
  const dir: StateDir = { ...made, config: { ...made.config, publicLog } };
  const app = buildApp(dir, { now: () => NOW });
  const url = await app.listen({ host: '127.0.0.1', port: 0 });
  t.after(async () => {
    await app.close();
    await made[Symbol.asyncDispose]();
  });
  const token = generateToken();
  const credential = { tokenHash: hashToken(token), name: 'r', scope: 'read', host: null } as const;
  await made.state.addCredential({ ...credential, createdAt: NOW, expiresAt: null });
  const get = (path: string, headers: Record<string, string> = {}) =>
    fetch(`${url}/tlog/${path}`, { headers: { authorization: `Bearer ${token}`, ...headers } });
  return { dir, made, url, get };
}

test('checkpoint, tiles and entries: the sizes that were published, and nothing else', async (t) => {
  const { dir, get } = await world(t);
  await publishHost(dir, 'lantern', 'one', NOW);
  await publishHost(dir, 'gateway', 'two', NOW);
  const answer = await get('checkpoint');
  assert.equal(answer.headers.get('content-type'), 'text/plain; charset=utf-8');
  assert.equal(answer.headers.get('cache-control'), 'no-cache');
  const { checkpoint } = verifyCheckpoint(await answer.text(), dir.root);
  assert.equal(checkpoint.size, 6);
  for (const size of [2, 4, 6]) {
    const bundle = await get(`tile/entries/000.p/${size}`, { 'accept-encoding': 'identity' });
    assert.equal(bundle.status, 200);
    assert.match(bundle.headers.get('cache-control') ?? '', /^private, .*immutable$/);
    const entries = parseBundle(new Uint8Array(await bundle.arrayBuffer()), size);
    const tile = await get(`tile/0/000.p/${size}`);
    assert.equal(tile.headers.get('content-type'), 'application/octet-stream');
    const hashes = entries.map(hashLeaf);
    assert.deepEqual(Buffer.from(await tile.arrayBuffer()), Buffer.concat(hashes));
    if (size === 6) {
      assert.deepEqual(Buffer.from(rootOf(hashes)), Buffer.from(checkpoint.root));
    }
  }
  for (const path of [
    ...['tile/0/000', 'tile/0/000.p/5', 'tile/0/000.p/7', 'tile/1/000.p/1', 'tile/0/001.p/1'],
    ...[
      'tile/0/000.p/0',
      'tile/0/0',
      'tile/%2e%2e%2fcheckpoint',
      'tile/entries/000',
      'tile/0/000.p/256',
    ],
    ...['tile/0/000.p/6/', 'tile/', 'tile/64/000', 'tile/0/%30%30%30.p/06', 'checkpoint/'],
  ]) {
    assert.equal((await get(path)).status, 404, path);
  }
});

test('bundles are compressed for who asks', async (t) => {
  const { dir, get } = await world(t, true);
  await publishHost(dir, 'lantern', 'one', NOW);
  const plain = await get('tile/entries/000.p/4', { 'accept-encoding': 'identity' });
  const bytes = Buffer.from(await plain.arrayBuffer());
  const gzip = await get('tile/entries/000.p/4', { 'accept-encoding': 'gzip' });
  assert.equal(gzip.headers.get('content-encoding'), 'gzip');
  assert.equal(gzip.headers.get('vary'), 'accept-encoding');
  // fetch has unpacked it.
  assert.deepEqual(Buffer.from(await gzip.arrayBuffer()), bytes);
});

test('closed by default, open with publicLog', async (t) => {
  const closed = await world(t);
  for (const path of ['checkpoint', 'tile/0/000.p/2']) {
    assert.equal((await fetch(`${closed.url}/tlog/${path}`)).status, 401);
  }
  const open = await world(t, true);
  for (const path of ['checkpoint', 'tile/0/000.p/2']) {
    const answer = await fetch(`${open.url}/tlog/${path}`);
    assert.equal(answer.status, 200);
    if (path !== 'checkpoint') assert.match(answer.headers.get('cache-control') ?? '', /^public/);
  }
});

test('the keeper renews what is old, finishes what was committed, and waits for whoever publishes', async (t) => {
  const { dir } = await world(t);
  const writer = await openLogWriter(dir);
  const store = logStoreOf(dir);
  const freshAt = async () =>
    verifyCheckpoint((await store.checkpoint()) ?? '', dir.root).freshAt ?? 0;
  let now = NOW;
  const errors: unknown[] = [];
  const off = new AbortController();
  const options = {
    publishLock: dir.layout.publishLock,
    state: dir.state,
    now: () => now,
    onError: (error: unknown) => errors.push(error),
  };
  const kept = keepLog(async () => writer, options, off.signal, 5);
  const until = async (check: () => Promise<boolean>) => {
    while (!(await check())) await sleep(5);
  };
  await sleep(50);
  assert.equal(await freshAt(), NOW);
  now = NOW + 3599;
  await sleep(50);
  assert.equal(await freshAt(), NOW);
  const lock = tryLockFile(dir.layout.publishLock);
  assert.ok(lock !== null);
  now = NOW + 3600;
  await sleep(50);
  assert.equal(await freshAt(), NOW, 'somebody publishes');
  lock[Symbol.dispose]();
  await until(async () => (await freshAt()) === now);
  // A clock that was ahead is corrected.
  now = NOW;
  await until(async () => (await freshAt()) === now);

  // A publisher that died when it had committed.
  const before = (await store.checkpoint()) ?? '';
  const lease = await dir.state.recordLease(process.pid, NOW);
  const dying = {
    ...writer,
    store: { ...store, putCheckpoint: () => Promise.reject(new Error('died')) },
  };
  await assert.rejects(appendEntries(dying, [], { fence: lease.fence, now: NOW }), /died/);
  await until(async () => (await store.checkpoint()) !== before);
  assert.equal(await finishLog(writer, NOW), await store.checkpoint());
  assert.deepEqual(errors, []);
  off.abort();
  await kept;
});

test('the keeper signs with the keys of the root that is in force once it has the lock', async (t) => {
  const { made: dir } = await world(t);
  const before = await openLogWriter(dir);
  const keys = new Map([['log', [await addServerKey(dir, 'log')]]] as const);
  await importRoot(dir, await signNext(dir, NOW, { keys }), NOW);
  const store = logStoreOf(dir);
  const imported = await store.checkpoint();
  const errors: unknown[] = [];
  const off = new AbortController();
  const options = {
    publishLock: dir.layout.publishLock,
    state: dir.state,
    now: () => NOW + 3600,
    onError: (error: unknown) => errors.push(error),
  };
  let opened = 0;
  const open = async () => (opened++ === 0 ? before : await openLogWriter(dir));
  const kept = keepLog(open, options, off.signal, 60_000);
  while (opened < 1) await sleep(5);
  await sleep(300);
  off.abort();
  await kept;
  const text = (await store.checkpoint()) ?? '';
  assert.deepEqual(errors, []);
  assert.notEqual(text, imported);
  assert.equal(verifyCheckpoint(text, dir.root).freshAt, NOW + 3600);
});

test('a host that is enrolled wakes the keeper, which has the log tell its key', async (t) => {
  const made = await makeState(await temporaryDir(t), NOW);
  const bell = new Bell();
  const app = buildApp(made, { now: () => NOW, onEnrolled: () => bell.ring() });
  const url = await app.listen({ host: '127.0.0.1', port: 0 });
  const off = new AbortController();
  const errors: unknown[] = [];
  let looks = 0;
  const options = {
    publishLock: made.layout.publishLock,
    state: made.state,
    now: () => NOW,
    onError: (error: unknown) => errors.push(error),
    bell,
  };
  const open = async () => {
    looks += 1;
    return await openLogWriter(made);
  };
  // It would look again only after an hour.
  const kept = keepLog(open, options, off.signal, 3_600_000);
  t.after(async () => {
    off.abort();
    await kept;
    await app.close();
    await made[Symbol.asyncDispose]();
  });
  await publishHost(made, 'lantern', 'one', NOW);
  while (looks === 0) await sleep(5);
  const secret = generateEnrolSecret();
  await made.state.invite({
    secretHash: hashToken(secret),
    host: 'lantern',
    expiresAt: NOW + 99,
  });
  const file = {
    ...{ server: url, fleet: made.root.fleet, host: 'lantern', secret },
    ...{ root: made.roots[0]?.envelope ?? '', expiresAt: NOW + 99 },
  };
  await enrolByHand(formatEnrolFile(file));
  while ((await made.state.toldKeys(1, 99)).size === 0) await sleep(5);
  assert.deepEqual(errors, []);
});

test('a keeper that cannot do its work says so and goes on trying', async (t) => {
  const { dir } = await world(t);
  const writer = await openLogWriter(dir);
  const errors: unknown[] = [];
  const off = new AbortController();
  const broken = {
    ...writer,
    store: { ...writer.store, checkpoint: () => Promise.reject(new Error('no disk')) },
  };
  const options = {
    publishLock: dir.layout.publishLock,
    state: dir.state,
    now: () => NOW,
    onError: (error: unknown) => errors.push(error),
  };
  const kept = keepLog(async () => broken, options, off.signal, 5);
  while (errors.length < 3) await sleep(5);
  off.abort();
  await kept;
});
