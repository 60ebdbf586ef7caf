// The read side through the whole server: listings, logs, debug files, closures in one request, several
// downloads that stand still, foreign and upstream rows. (NARs, narinfos and ranges: app.test.ts.)
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { connect, type Socket } from 'node:net';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { zstdCompressSync, zstdDecompressSync } from 'node:zlib';
import { accepts } from '../../src/cache/accept-encoding.ts';
import { parseNarInfo } from '../../src/nix/narinfo.ts';
import { generateNixKey, signPath } from '../../src/nix/signature.ts';
import { hashPartOf, type StorePath } from '../../src/nix/storepath.ts';
import { type AppOptions, buildApp } from '../../src/server/app.ts';
import type { StateDir } from '../../src/server/statedir.ts';
import type { UpstreamPath } from '../../src/storage/state.ts';
import { stored } from '../helpers/rows.ts';
import { addPath, makeState, publishHost } from '../helpers/state.ts';
import { temporaryDir } from '../helpers/temporary.ts';

const NOW = 1_800_000_000;

async function world(t: Parameters<typeof temporaryDir>[0], options: AppOptions = {}) {
  const made = await makeState(await temporaryDir(t), NOW);
  const dir: StateDir = { ...made, config: { ...made.config, public: true } };
  const app = buildApp(dir, { now: () => NOW, ...options });
  const url = await app.listen({ host: '127.0.0.1', port: 0 });
  t.after(async () => {
    await app.close();
    await made[Symbol.asyncDispose]();
  });
  const get = (path: string, headers: Record<string, string> = {}) =>
    fetch(url + path, { headers });
  return { dir, url, get };
}

const rowOf = async ({ state }: StateDir, path: StorePath) => {
  const row = await state.cachedPath(hashPartOf(path));
  assert.ok(row !== null);
  return stored(row);
};

test('all narinfos of a closure come in one answer, references first, the same as one by one', async (t) => {
  const { dir, get } = await world(t);
  const { toplevel, closure } = await publishHost(dir, 'lantern', 'one', NOW);
  const manifest = await dir.state.currentManifest('lantern');
  const single = await Promise.all(
    closure.map(async ({ path }) => (await get(`/${hashPartOf(path)}.narinfo`)).text()),
  );
  for (const path of [
    `/v1/closures/${manifest?.closure}/narinfos`,
    `/v1/paths/${hashPartOf(toplevel)}/narinfos`,
  ]) {
    for (let round = 0; round < 2; round++) {
      const plain = await get(path, { 'accept-encoding': 'identity' });
      assert.equal(plain.status, 200);
      assert.equal(plain.headers.get('content-encoding'), null);
      const texts = (await plain.text())
        .split('\n\n')
        .slice(0, -1)
        .map((text) => `${text}\n`);
      assert.deepEqual([...texts].sort(), [...single].sort());
      assert.equal(new Set(texts.map((text) => parseNarInfo(text).path)).size, closure.length);
    }
    const packed = await get(path, { 'accept-encoding': 'gzip, zstd' });
    assert.equal(packed.headers.get('content-encoding'), 'zstd');
  }
  const walked = await (await get(`/v1/paths/${hashPartOf(toplevel)}/narinfos`)).text();
  assert.equal(parseNarInfo(`${walked.split('\n\n').at(-2)}\n`).path, toplevel);

  // All or nothing: a client must never be told of a closure of which a part cannot be had.
  const { blob } = await rowOf(dir, closure[0]?.path ?? toplevel);
  await dir.blobs.delete(blob);
  for (const path of [
    `/v1/closures/${manifest?.closure}/narinfos`,
    `/v1/paths/${hashPartOf(toplevel)}/narinfos`,
    `/v1/closures/${'0'.repeat(64)}/narinfos`,
    '/v1/closures/nonsense/narinfos',
    `/v1/paths/${'0'.repeat(32)}/narinfos`,
    '/v1/paths/nonsense/narinfos',
  ]) {
    assert.equal((await get(path)).status, 404, path);
  }
});

test('a closure that is too large to keep is streamed', async (t) => {
  const { dir, get } = await world(t);
  const rows = [];
  let last = await addPath(dir, 'first', Buffer.from('x'));
  const { blob, blobSize } = await rowOf(dir, last.path);
  for (let i = 0; i < 9_000; i++) {
    const path = last.path.replace(/^(.{11}).{32}-.*/, (_, store) => {
      const digits = i.toString().padStart(31, '0');
      return `${store}z${digits}-${'n'.repeat(120)}`;
    }) as StorePath;
    const info = { ...last, path, references: [last.path] };
    rows.push({
      ...info,
      deriver: null,
      sigs: [],
      ca: null,
      compression: 'zstd',
      blob,
      blobSize,
      upstream: null,
    } as const);
    last = info;
  }
  await dir.state.addCachedPaths(rows, NOW);
  const path = `/v1/paths/${hashPartOf(last.path)}/narinfos`;
  const text = await (await get(path)).text();
  assert.equal(text.split('\n\n').length - 1, 9_001);
  assert.ok(text.length > 4 * 1024 * 1024);
  const packed = await get(path, { 'accept-encoding': 'zstd' });
  assert.equal(packed.headers.get('content-encoding'), 'zstd');
});

test('listings, logs and debug files; each 404 when it is not there, or cannot be', async (t) => {
  const { dir, get } = await world(t);
  const info = await addPath(dir, 'one', Buffer.from('text'));
  const row = await rowOf(dir, info.path);
  const json = '{"version":1,"root":{"type":"regular","size":4,"narOffset":96}}';
  const buildId = 'ab'.repeat(20);
  const member = `lib/debug/.build-id/ab/${'ab'.repeat(19)}.debug`;
  const contents = {
    listing: zstdCompressSync(Buffer.from(json)),
    debugFiles: [{ buildId, member }],
  };
  await dir.state.addCachedPaths([{ ...row, contents }], NOW);
  const drv = `${'0'.repeat(32)}-x.drv`;
  const log = Buffer.from('what happened\n'.repeat(100));
  await dir.state.addBuildLog(
    `/nix/store/${drv}` as StorePath,
    await dir.blobs.put([zstdCompressSync(log)]),
    null,
    NOW,
  );

  const hash = hashPartOf(info.path);
  for (const encoding of ['identity', 'zstd']) {
    const listing = await get(`/${hash}.ls`, { 'accept-encoding': encoding });
    assert.equal(listing.headers.get('content-encoding'), encoding === 'zstd' ? 'zstd' : null);
    const said = await get(`/log/${drv}`, { 'accept-encoding': encoding });
    assert.equal(said.headers.get('content-type'), 'text/plain; charset=utf-8');
    assert.equal(said.headers.get('content-encoding'), encoding === 'zstd' ? 'zstd' : null);
    const unpacked = async (answer: Response): Promise<string> => {
      const bytes = Buffer.from(await answer.arrayBuffer());
      // This client may know zstd itself.
      return (bytes.readUInt32LE(0) === 0xfd2fb528 ? zstdDecompressSync(bytes) : bytes).toString();
    };
    assert.equal(await unpacked(listing), json);
    assert.equal(await unpacked(said), log.toString());
  }
  for (const address of [buildId, `${buildId}.debug`]) {
    const found = await (await get(`/debuginfo/${address}`)).json();
    assert.deepEqual(found, { archive: `../nar/${row.blob}.nar.zst`, member });
  }
  await dir.blobs.delete(row.blob);
  for (const path of [
    `/${hash}.ls`,
    `/debuginfo/${buildId}`,
    `/${'0'.repeat(32)}.ls`,
    `/${'e'.repeat(32)}.ls`,
    `/log/${'1'.repeat(32)}-x.drv`,
    `/log/${'0'.repeat(32)}-x`,
    '/log/x.drv',
    `/debuginfo/${'0'.repeat(40)}`,
    '/debuginfo/xyz',
    `/debuginfo/${'AB'.repeat(20)}`,
    `/realisations/sha256:${'0'.repeat(64)}!out.doi`,
    '/realisations/nonsense.doi',
    `/build-trace-v2/${'0'.repeat(32)}-x.drv/out.doi`,
    '/build-trace-v2/nonsense/out.doi',
  ]) {
    const answer = await get(path);
    assert.equal(answer.status, 404, path);
    assert.equal(answer.headers.get('cache-control'), 'no-store');
  }
});

test('foreign signatures follow ours; a path at an upstream names it', async (t) => {
  const { dir, get } = await world(t);
  const info = await addPath(dir, 'one', Buffer.from('text'));
  const foreign = signPath(info, generateNixKey('foreign-1'));
  await dir.state.addCachedPaths(
    [{ ...(await rowOf(dir, info.path)), sigs: [foreign], ca: 'fixed:r:sha256:x' }],
    NOW,
  );
  const address = `/${hashPartOf(info.path)}.narinfo`;
  const served = parseNarInfo(await (await get(address)).text());
  assert.equal(served.sigs.length, 2);
  assert.equal(served.sigs[1], foreign);
  assert.equal(served.ca, 'fixed:r:sha256:x');

  const upstream: UpstreamPath = {
    ...{
      ...info,
      deriver: null,
      sigs: [],
      ca: null,
      compression: 'xz',
      blob: null,
      blobSize: null,
    },
    upstream: { url: 'https://up.test/nar/x.nar.xz', fileHash: null, fileSize: 5 },
  };
  await dir.state.addCachedPaths([upstream], NOW);
  const text = await (await get(address)).text();
  assert.match(text, /^URL: https:\/\/up\.test\/nar\/x\.nar\.xz$/m);
  assert.match(text, /^Compression: xz$/m);
  assert.match(text, /^Sig: state\.test-1:/m);
});

test('a narinfo in memory is not served any longer than its bytes are there', async (t) => {
  const { dir, get } = await world(t);
  const info = await addPath(dir, 'one', Buffer.from('text'));
  const address = `/${hashPartOf(info.path)}.narinfo`;
  for (let i = 0; i < 50; i++) assert.equal((await get(address)).status, 200);
  await dir.blobs.delete((await rowOf(dir, info.path)).blob);
  assert.equal((await get(address)).status, 404);
});

test('readers that stand still are cut, and slow ones that move are not', async (t) => {
  const { dir, url } = await world(t, { limits: { standstill: 700 } });
  // More than both kernels' buffers take: else the server is done with it at once.
  const info = await addPath(dir, 'large', randomBytes(60_000_000));
  const { blob, blobSize } = await rowOf(dir, info.path);
  const open = (): Socket => {
    const socket = connect(Number(new URL(url).port), '127.0.0.1');
    socket.write(`GET /nar/${blob}.nar.zst HTTP/1.1\r\nHost: x\r\n\r\n`);
    return socket;
  };
  const still = open();
  still.pause();
  const slow = open();
  let got = 0;
  slow.on('data', (chunk) => {
    got += chunk.length;
    slow.pause();
    setTimeout(() => slow.resume(), 1);
  });
  while (got < blobSize && !slow.destroyed) await sleep(20);
  assert.ok(got >= blobSize, `${got} of ${blobSize} bytes`);
  // Several times as long as it may stand still.
  await sleep(4_000);
  still.resume();
  const ended = await Promise.race([
    new Promise((resolve) => still.once('close', () => resolve('cut'))),
    sleep(20_000, 'still open'),
  ]);
  assert.equal(ended, 'cut');
  slow.destroy();
});

test('codings are sent to those who name them', () => {
  for (const [header, expected] of [
    [undefined, false],
    ['', false],
    ['gzip', false],
    ['zstd', true],
    ['gzip, ZSTD', true],
    ['zstd;q=0', false],
    ['zstd;q=0.1', true],
    ['br;q=1, zstd; q=0.0', false],
    ['zstdx', false],
  ] as const) {
    assert.equal(accepts(header, 'zstd'), expected, String(header));
  }
});
