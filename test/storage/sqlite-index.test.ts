// The cache's index and publications, through both kinds of writer.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { hashPartOf, parseStorePath } from '../../src/nix/storepath.ts';
import { refused } from '../helpers/nix-scratch.ts';
import { storePath } from '../helpers/paths.ts';
import { cachedPath, emptyState, manifest, publishRows } from '../helpers/rows.ts';

for (const writer of ['inline', 'thread'] as const) {
  describe(`writer ${writer}`, () => {
    test('index rows come back as they went in', async () => {
      await using made = await emptyState(writer);
      const { state } = made;
      const self = storePath('self');
      const rows = [
        cachedPath('none'),
        { ...cachedPath('self', [self, storePath('none')]), deriver: null },
      ];
      await state.addCachedPaths(rows, 1000);
      for (const row of rows) {
        assert.deepEqual(await state.cachedPath(hashPartOf(row.path)), row);
        assert.equal(await state.narBlobSize(row.blob), row.blobSize);
      }
      assert.equal(await state.cachedPath(hashPartOf(storePath('absent'))), null);
      assert.equal(await state.narBlobSize(cachedPath('absent').blob), null);
    });

    test('a row with the same hash part replaces the old one', async () => {
      await using made = await emptyState(writer);
      const row = cachedPath('a');
      const renamed = { ...row, path: parseStorePath(row.path.replace(/x$/, 'renamed')) };
      await made.state.addCachedPaths([row], 1000);
      await made.state.addCachedPaths([renamed], 1000);
      assert.deepEqual(await made.state.cachedPath(hashPartOf(row.path)), renamed);
      assert.deepEqual(await made.state.cachedPaths([row.path]), []);
    });

    test('thousands of rows, some asked for that are not there', async () => {
      await using made = await emptyState(writer);
      const rows = Array.from({ length: 1201 }, (_, i) => cachedPath(`row ${i}`));
      await made.state.addCachedPaths(rows, 1000);
      const paths = [...rows.map((row) => row.path), storePath('absent')];
      const found = await made.state.cachedPaths(paths);
      assert.equal(found.length, rows.length);
      assert.deepEqual(new Set(found.map((row) => row.path)), new Set(rows.map((row) => row.path)));
      assert.deepEqual(await made.state.cachedPaths([]), []);
    });

    test('a publication makes its manifests the newest', async () => {
      await using made = await emptyState(writer);
      const { state } = made;
      const { fence } = await state.recordLease(7, 100);
      assert.deepEqual(await state.leaseHolder(), { pid: 7, since: 100, fence });
      assert.equal(await state.currentManifest('a'), null);
      const [a1, a2, b1, a3] = [
        manifest('a', 1, 1),
        manifest('a', 1, 5),
        manifest('b', 1, 1),
        // A new epoch starts its sequence again.
        manifest('a', 2, 1),
      ];
      await publishRows(state, [a1, b1], fence);
      await publishRows(state, [a2, a3], fence);
      assert.deepEqual(await state.currentManifest('a'), a3);
      assert.deepEqual(await state.currentManifests(), [a3, b1]);
      assert.deepEqual(await state.manifestHistory('a'), [a1, a2, a3]);
      assert.equal(await state.closureSize(a1.closure), a1.closureBytes);
      assert.equal(await state.closureSize(cachedPath('a').blob), null);
      assert.deepEqual(
        (await state.status()).map((row) => [row.record.host, row.manifest, row.report]),
        [
          ['a', a3, null],
          ['b', b1, null],
        ],
      );
    });

    test('a sequence that does not grow is refused, and nothing of its publication stored', async () => {
      await using made = await emptyState(writer);
      const { state } = made;
      const { fence } = await state.recordLease(7, 100);
      const last = manifest('a', 2, 5);
      await publishRows(state, [last], fence);
      const stale = [manifest('a', 2, 5), manifest('a', 2, 4), manifest('a', 1, 9)];
      for (const next of stale) {
        await assert.rejects(
          publishRows(state, [manifest('new', 1, 1), next], fence),
          refused('E_SEQUENCE', /host a does not follow 2\.5/),
        );
      }
      assert.deepEqual(await state.currentManifests(), [last]);
      assert.equal(await state.host('new'), null);
    });

    test('who lost the lease publishes nothing', async () => {
      await using made = await emptyState(writer);
      const { state } = made;
      await assert.rejects(
        publishRows(state, [manifest('a', 1, 1)], 0),
        refused('E_LEASE_LOST', /nobody holds it/),
      );
      const first = await state.recordLease(7, 100);
      const second = await state.recordLease(8, 101);
      assert.equal(second.fence, first.fence + 1);
      await assert.rejects(
        publishRows(state, [manifest('a', 1, 1)], first.fence),
        refused('E_LEASE_LOST', /process 8/),
      );
      assert.deepEqual(await state.currentManifests(), []);
      await publishRows(state, [manifest('a', 1, 1)], second.fence);
    });
  });
}
