// Uploads while other things happen: other clients with the same bytes, garbage collection between any two
// steps. What happens in between is done by the state or the blobs that the server is given.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { formatNarInfo } from '../../src/nix/narinfo.ts';
import { hashPartOf } from '../../src/nix/storepath.ts';
import { collect } from '../../src/server/collect.ts';
import type { StateDir } from '../../src/server/statedir.ts';
import { cache, NOW, narinfoPath, parcel, put, refused } from '../helpers/uploads.ts';

/** `dir` with `after` called once the row of a path was looked up. */
function afterLookup(dir: StateDir, after: (dir: StateDir) => Promise<void>): StateDir {
  const cachedPath: StateDir['state']['cachedPath'] = async (hashPart) => {
    const row = await dir.state.cachedPath(hashPart);
    await after(dir);
    return row;
  };
  return { ...dir, state: { ...dir.state, cachedPath } };
}

test('a narinfo without its NAR says nothing of a path that goes at this moment', async (t) => {
  const one = parcel('one', 'text');
  const lie = parcel('lie', 'other text').info;
  let goes = false;
  const made = await cache(t, {}, (dir) =>
    afterLookup(dir, async ({ state }) => {
      if (goes) await state.dropPath(one.info.path, NOW);
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
