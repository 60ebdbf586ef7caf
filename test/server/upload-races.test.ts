// Uploads while other things happen: other clients with the same bytes, garbage collection between any two
// steps. What happens in between is done by the state or the blobs that the server is given.
import assert from 'node:assert/strict';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { zstdCompressSync } from 'node:zlib';
import Fastify from 'fastify';
import { registerUploadRoutes } from '../../src/cache/upload-routes.ts';
import { formatNarInfo, parseNarInfo } from '../../src/nix/narinfo.ts';
import { hashPartOf, parseStorePath } from '../../src/nix/storepath.ts';
import { collect } from '../../src/server/collect.ts';
import type { StateDir } from '../../src/server/statedir.ts';
import type { State } from '../../src/storage/state.ts';
import { cachedPath, stored } from '../helpers/rows.ts';
import { cache, NOW, narinfoPath, parcel, put, refused } from '../helpers/uploads.ts';

type Change<K extends keyof State> = (state: State) => State[K];

/** The state directory with one of its state's methods replaced. */
function changed<K extends keyof State>(dir: StateDir, name: K, make: Change<K>): StateDir {
  return { ...dir, state: { ...dir.state, [name]: make(dir.state) } };
}

test('a narinfo without its NAR says nothing of a path that goes at this moment', async (t) => {
  const one = parcel('one', 'text');
  const lie = parcel('lie', 'other text').info;
  let goes = false;
  const made = await cache(t, {}, (dir) =>
    changed(dir, 'cachedPath', (state) => async (hashPart) => {
      const row = await state.cachedPath(hashPart);
      if (goes) await state.dropPath(one.info.path, NOW);
      return row;
    }),
  );
  await put(made, one);
  goes = true;
  const text = formatNarInfo({ ...one.info, url: 'nar/none.nar.zst', narHash: lie.narHash });
  await refused(await made.send('PUT', narinfoPath(one.info), text), 422, 'E_UPLOAD_NO_NAR');
  assert.equal(await made.dir.state.cachedPath(hashPartOf(one.info.path)), null);
});

test('a narinfo without its NAR must agree with what is known', async (t) => {
  const made = await cache(t);
  const one = parcel('one', 'text');
  await put(made, one);
  const before = await made.dir.state.cachedPath(hashPartOf(one.info.path));
  const { narHash } = parcel('lie', 'other text').info;
  for (const change of [{ narHash }, { narSize: 8 }, { references: [one.info.path] }]) {
    const text = formatNarInfo({ ...one.info, url: 'nar/none.nar.zst', ...change });
    await refused(await made.send('PUT', narinfoPath(one.info), text), 409, 'E_UPLOAD_CONFLICT');
    assert.deepEqual(await made.dir.state.cachedPath(hashPartOf(one.info.path)), before);
  }
});

test('paths of the same bytes may be uploaded at the same time, their NAR once', async (t) => {
  const made = await cache(t);
  const [one, two] = [parcel('one', 'the same'), parcel('two', 'the same')];
  assert.equal(one.file, two.file);
  assert.equal((await made.send('PUT', `/nar/${one.file}`, one.nar)).status, 201);
  // The second client is told that the NAR is there, and then the first one's narinfo comes.
  assert.equal((await made.send('HEAD', `/nar/${two.file}`)).status, 200);
  for (const { info } of [one, two]) {
    const answer = await made.send('PUT', narinfoPath(info), formatNarInfo(info));
    assert.equal(answer.status, 201, await answer.text());
  }
  const listing = async ({ info }: typeof one) =>
    (await made.send('GET', `/${hashPartOf(info.path)}.ls`)).json();
  assert.deepEqual(await listing(one), await listing(two));
});

test('a NAR waits a day for more narinfos, and is not kept by that when its paths go', async (t) => {
  const made = await cache(t, { keepUnusedDays: 3, keepNarDays: 0 });
  const { dir } = made;
  const one = parcel('one', 'text');
  await put(made, one);
  const blob = (await dir.state.cachedPath(hashPartOf(one.info.path)))?.blob;
  assert.ok(blob != null);
  for (const [days, isStaged, isThere] of [
    [0.5, true, true],
    [1.5, false, true],
    [4, false, false],
  ] as const) {
    const now = NOW + days * 86_400;
    const would = await collect(dir, { dryRun: true, now });
    const done = await collect(dir, { dryRun: false, now });
    assert.equal(would?.blobs, done?.blobs, `${days} days`);
    assert.equal((await dir.state.stagedNar(one.file)) !== null, isStaged, `${days} days`);
    assert.equal((await dir.blobs.size(blob)) !== null, isThere, `${days} days`);
  }
});

test('a dry run counts a NAR that only its upload of long ago keeps', async (t) => {
  const made = await cache(t, { keepUnusedDays: 3, keepNarDays: 0 });
  const { dir } = made;
  await put(made, parcel('one', 'text'));
  const now = NOW + 4 * 86_400;
  assert.equal((await collect(dir, { dryRun: true, now }))?.blobs, 1);
  assert.equal((await collect(dir, { dryRun: false, now }))?.blobs, 1);
});

test('a NAR that goes before it is named is not acknowledged', async (t) => {
  let goes = true;
  const made = await cache(t, {}, (dir) =>
    changed(dir, 'stageNar', (state) => async (nar, now) => {
      if (goes) await dir.blobs.delete(nar.blob);
      await state.stageNar(nar, now);
    }),
  );
  const one = parcel('one', 'text');
  await refused(await made.send('PUT', `/nar/${one.file}`, one.nar), 503, 'E_STATE_BUSY');
  goes = false;
  await put(made, one);
});

test('a path whose bytes go while it is added is not acknowledged, and is there when sent again', async (t) => {
  let goes = true;
  const made = await cache(t, {}, (dir) =>
    changed(dir, 'addUploadedPath', (state) => async (row, lost, now) => {
      const done = await state.addUploadedPath(row, lost, now);
      if (goes && row.blob !== null) await dir.blobs.delete(row.blob);
      return done;
    }),
  );
  const one = parcel('one', 'text');
  const describe = () => made.send('PUT', narinfoPath(one.info), formatNarInfo(one.info));
  assert.equal((await made.send('PUT', `/nar/${one.file}`, one.nar)).status, 201);
  await refused(await describe(), 422, 'E_UPLOAD_NO_NAR');
  goes = false;
  assert.equal((await made.send('PUT', `/nar/${one.file}`, one.nar)).status, 201);
  assert.equal((await describe()).status, 200);
  const { url } = parseNarInfo(await (await made.send('GET', narinfoPath(one.info))).text());
  assert.equal((await made.send('GET', `/${url}`)).status, 200);
});

test('a path that is known is not acknowledged when its bytes go at this moment', async (t) => {
  let goes = false;
  const one = parcel('one', 'text');
  const made = await cache(t, {}, (dir) =>
    changed(dir, 'confirmPath', (state) => async (said, now) => {
      const outcome = await state.confirmPath(said, now);
      const row = await state.cachedPath(hashPartOf(said.path));
      if (goes && row?.blob != null) await dir.blobs.delete(row.blob);
      return outcome;
    }),
  );
  await put(made, one);
  goes = true;
  const text = formatNarInfo({ ...one.info, url: 'nar/none.nar.zst' });
  await refused(await made.send('PUT', narinfoPath(one.info), text), 422, 'E_UPLOAD_NO_NAR');
});

test('lost bytes are replaced only while nobody else has stored the path anew', async (t) => {
  const made = await cache(t);
  const { state, blobs } = made.dir;
  const one = parcel('one', 'text');
  await put(made, one);
  const row = stored((await state.cachedPath(hashPartOf(one.info.path))) ?? assert.fail());
  const anew = await blobs.put([Buffer.from('what a build stored')]);
  await state.addCachedPaths([{ ...row, blob: anew.id, blobSize: anew.size }], NOW);
  assert.deepEqual(await state.addUploadedPath(row, row.blob, NOW), { outcome: 'same' });
  assert.equal((await state.cachedPath(hashPartOf(row.path)))?.blob, anew.id);
  assert.deepEqual(await state.addUploadedPath(row, anew.id, NOW), { outcome: 'same' });
  assert.equal((await state.cachedPath(hashPartOf(row.path)))?.blob, row.blob);
});

test('a push is told that a path is missing when it goes while it asks', async (t) => {
  const one = parcel('one', 'text');
  let goes = false;
  const made = await cache(t, {}, (dir) =>
    changed(dir, 'cachedPaths', (state) => async (paths) => {
      const rows = await state.cachedPaths(paths);
      if (goes) await state.dropPath(one.info.path, NOW);
      return rows;
    }),
  );
  await put(made, one);
  goes = true;
  const body = JSON.stringify({ paths: [one.info.path] });
  const answer = await made.send('POST', '/v1/cache/missing', body);
  assert.deepEqual(await answer.json(), { missing: [one.info.path] });
});

test('a collection removes no file that was named since it looked', async (t) => {
  for (const name of ['sweepNars', 'namedBlobs'] as const) {
    const { dir } = await cache(t, { keepUnusedDays: 0, keepNarDays: 0 });
    const { id, size } = await dir.blobs.put([Buffer.from('bytes')]);
    const row = { ...cachedPath('one'), blob: id, blobSize: size };
    if (name === 'sweepNars') {
      await dir.state.addCachedPaths([row], NOW);
      await dir.state.dropPath(row.path, NOW);
    }
    let isAdded = false;
    const racing = changed(dir, name, (state) => async (...args: never[]) => {
      const found = await (state[name] as (...args: never[]) => Promise<never>)(...args);
      if (!isAdded) await dir.state.addCachedPaths([row], NOW + 86_400 * 5);
      isAdded = true;
      return found;
    });
    await collect(racing, { dryRun: false, now: NOW + 86_400 * 3 });
    assert.ok(isAdded);
    assert.equal(await dir.blobs.size(id), size, name);
  }
});

test('a log stays the first one, is kept by sending it again, and is healed when it was lost', async (t) => {
  let goes = false;
  const made = await cache(t, {}, (dir) =>
    changed(dir, 'addBuildLog', (state) => async (drv, log, lost, now) => {
      if (goes) await dir.blobs.delete(log.id);
      await state.addBuildLog(drv, log, lost, now);
    }),
  );
  const { state, blobs } = made.dir;
  const drv = parseStorePath(`/nix/store/${'0'.repeat(32)}-x.drv`);
  const address = `/log/${drv.slice('/nix/store/'.length)}`;
  const told = async () => (await made.send('GET', address)).text();
  const first = await blobs.put([zstdCompressSync('first')]);
  await state.addBuildLog(drv, first, null, NOW - 10 * 86_400);
  assert.equal((await made.send('PUT', address, 'second')).status, 201);
  assert.equal(await told(), 'first');
  await state.sweepLeftovers(NOW, 0, 10);
  assert.equal(await told(), 'first');
  await blobs.delete(first.id);
  goes = true;
  await refused(await made.send('PUT', address, 'third'), 503, 'E_STATE_BUSY');
  goes = false;
  assert.equal((await made.send('PUT', address, 'third')).status, 201);
  assert.equal(await told(), 'third');
});

test('a NAR that takes long to arrive is kept from when it has arrived', async (t) => {
  const { dir } = await cache(t);
  let time = NOW;
  const app = Fastify();
  registerUploadRoutes(app, {
    ...{ state: dir.state, blobs: dir.blobs, mayPush: async () => undefined, level: 1 },
    ...{ maxNarBytes: 1e9, trustedKeys: [], references: 'exact', now: () => time },
  });
  const url = await app.listen({ host: '127.0.0.1', port: 0 });
  t.after(() => app.close());
  const { file, nar } = parcel('one', 'text');
  async function* slowly(): AsyncGenerator<Uint8Array> {
    yield nar.subarray(0, 10);
    // The server has seen the request by then: it writes what came.
    while ((await readdir(join(dir.layout.blobs, 'tmp'))).length === 0) await sleep(10);
    time += 1000;
    yield nar.subarray(10);
  }
  const request = { method: 'PUT', body: Readable.from(slowly()), duplex: 'half' };
  assert.equal((await fetch(`${url}/nar/${file}`, request as never)).status, 201);
  await dir.state.sweepLeftovers(NOW + 500, 0, 10);
  assert.notEqual(await dir.state.stagedNar(file), null);
});
