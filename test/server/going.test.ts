// Paths that go while they are asked for, between any two steps of the answer: told whole, or as missing.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { zstdCompressSync } from 'node:zlib';
import { hashPartOf, type StorePath } from '../../src/nix/storepath.ts';
import { buildApp } from '../../src/server/app.ts';
import { between } from '../helpers/between.ts';
import { stored } from '../helpers/rows.ts';
import { makeState, publishHost } from '../helpers/state.ts';
import { temporaryDir } from '../helpers/temporary.ts';

const NOW = 1_800_000_000;

test('a path that goes while it is asked for is told as missing', async (t) => {
  const made = await makeState(await temporaryDir(t), NOW);
  const { state, blobs } = made;
  const racing = between({ ...made, config: { ...made.config, public: true } });
  const app = buildApp(racing.dir, { now: () => NOW });
  const url = await app.listen({ host: '127.0.0.1', port: 0 });
  t.after(async () => {
    await app.close();
    await made[Symbol.asyncDispose]();
  });

  const { toplevel } = await publishHost(made, 'lantern', 'one', NOW);
  const closure = (await state.currentManifest('lantern'))?.closure;
  const hash = hashPartOf(toplevel);
  const first = stored((await state.cachedPath(hash)) ?? assert.fail());
  const buildId = 'ab'.repeat(20);
  const contents = {
    listing: zstdCompressSync(Buffer.from('{"version":1}')),
    debugFiles: [{ buildId, member: 'x.debug' }],
  };
  const row = { ...first, contents };
  const nar = zstdCompressSync(Buffer.from('x'));
  const key = `realisations/sha256:${'0'.repeat(64)}!out.doi`;
  await state.addCachedPaths([row], NOW);
  await state.addRealisation({ key, outPath: toplevel, json: '{}' }, NOW);
  const log = await blobs.put([nar]);
  const drv = `${'0'.repeat(32)}-x.drv`;
  await state.addBuildLog(`/nix/store/${drv}` as StorePath, log, null, NOW);

  const reader = await blobs.get(row.blob);
  const bytes: Uint8Array[] = [];
  for await (const chunk of reader ?? []) bytes.push(chunk as Uint8Array);
  const come = async (): Promise<void> => {
    await blobs.put(bytes);
    await blobs.put([nar]);
    await state.addCachedPaths([row], NOW);
  };
  const go = async (): Promise<void> => {
    await state.dropPath(toplevel, NOW);
    await blobs.delete(row.blob);
    await blobs.delete(log.id);
  };
  for (const path of [
    `/${hash}.narinfo`,
    `/${hash}.ls`,
    `/nar/${row.blob}.nar.zst`,
    `/log/${drv}`,
    `/debuginfo/${buildId}`,
    `/${key}`,
    `/v1/closures/${closure}/narinfos`,
    `/v1/paths/${hash}/narinfos`,
  ]) {
    for (const method of ['GET', 'HEAD']) {
      const seen = new Set<number>();
      for (let calls = 1, wasDone = true; wasDone; calls++) {
        await come();
        racing.after(calls, go);
        const answer = await fetch(url + path, { method });
        await answer.arrayBuffer();
        wasDone = racing.stop();
        assert.ok(
          answer.status === 200 || answer.status === 404,
          `${method} ${path}: ${answer.status} after ${calls} calls`,
        );
        seen.add(answer.status);
        if (wasDone) assert.equal((await fetch(url + path, { method })).status, 404, path);
      }
      assert.deepEqual([...seen].sort(), [200, 404], `${method} ${path}`);
    }
  }
});
