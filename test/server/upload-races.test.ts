// Uploads while other things happen: other clients with the same bytes, garbage collection between any two
// steps. What happens in between is done by the state or the blobs that the server is given.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { formatNarInfo } from '../../src/nix/narinfo.ts';
import { hashPartOf } from '../../src/nix/storepath.ts';
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
