// Verification while other things happen: what was changed between two looks is looked at again before
// anything is taken out of service.
import assert from 'node:assert/strict';
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { type Fault, verifyCache } from '../../src/cache/verify.ts';
import { hashPartOf } from '../../src/nix/storepath.ts';
import { checkCache } from '../../src/server/check-cache.ts';
import type { StateDir } from '../../src/server/statedir.ts';
import type { BlobId, Blobs } from '../../src/storage/blobs.ts';
import type { State } from '../../src/storage/state.ts';
import { stored } from '../helpers/rows.ts';
import { addPath, makeState, publishHost } from '../helpers/state.ts';
import { temporaryDir } from '../helpers/temporary.ts';

const NOW = 1_800_000_000;

/** `blobs` with `before` called before each `name` of a blob. */
function before(
  blobs: Blobs,
  name: 'get' | 'quarantine',
  happens: (id: BlobId) => Promise<void>,
): Blobs {
  return new Proxy(blobs, {
    get(target, key) {
      const method = Reflect.get(target, key) as (...args: unknown[]) => unknown;
      if (key !== name) return method.bind(target);
      return async (id: BlobId, ...args: unknown[]) => {
        await happens(id);
        return await method.call(target, id, ...args);
      };
    },
  });
}

async function world(t: Parameters<typeof temporaryDir>[0]) {
  const dir = await makeState(await temporaryDir(t), NOW);
  t.after(async () => await dir[Symbol.asyncDispose]());
  const library = await addPath(dir, 'library', Buffer.from('a library'));
  const program = await addPath(dir, 'program', Buffer.from('a program'), [library.path]);
  const rowOf = async ({ path }: typeof library) =>
    stored((await dir.state.cachedPath(hashPartOf(path))) ?? assert.fail());
  return { dir, library, program, rowOf };
}

async function faultsOf(
  state: Pick<State, 'cachedPathsAfter' | 'cachedPathsByHash'>,
  blobs: Blobs,
) {
  const faults: Fault[] = [];
  await verifyCache({ state, blobs, part: 1 }, async (fault) => void faults.push(fault));
  return faults.map(({ row, where }) => [row.path, where]);
}

const fileOf = ({ layout }: StateDir, blob: BlobId): string =>
  join(layout.blobs, blob.slice(0, 2), blob.slice(2));

async function damage(dir: StateDir, blob: BlobId): Promise<Buffer> {
  const whole = await readFile(fileOf(dir, blob));
  const bytes = Buffer.from(whole);
  bytes[bytes.length - 5] = (bytes[bytes.length - 5] ?? 0) ^ 1;
  await writeFile(fileOf(dir, blob), bytes);
  return whole;
}

test('a path that goes after it was listed is not wrong', async (t) => {
  const { dir, program, rowOf } = await world(t);
  const { blob } = await rowOf(program);
  const blobs = before(dir.blobs, 'get', async (id) => {
    if (id !== blob) return;
    await dir.state.dropPath(program.path, NOW);
    await dir.blobs.delete(blob);
  });
  assert.deepEqual(await faultsOf(dir.state, blobs), []);
});

test('nor is one that goes together with what it refers to', async (t) => {
  const { dir, library, program } = await world(t);
  const cachedPathsByHash: State['cachedPathsByHash'] = async (hashParts) => {
    // As a collection does: referrers first.
    for (const { path } of [program, library]) await dir.state.dropPath(path, NOW);
    return await dir.state.cachedPathsByHash(hashParts);
  };
  assert.deepEqual(await faultsOf({ ...dir.state, cachedPathsByHash }, dir.blobs), []);
});

test('a path that got other bytes is looked at with those', async (t) => {
  const { dir, program, rowOf } = await world(t);
  const row = await rowOf(program);
  const other = await rowOf(await addPath(dir, 'other', Buffer.from('other bytes')));
  const { narHash, narSize, blob, blobSize } = other;
  const blobs = before(dir.blobs, 'get', async (id) => {
    if (id !== row.blob) return;
    await dir.state.addCachedPaths([{ ...row, narHash, narSize, blob, blobSize }], NOW);
    await dir.blobs.delete(row.blob);
  });
  assert.deepEqual(await faultsOf(dir.state, blobs), []);
});

test('what is wrong at every look is told', async (t) => {
  const { dir, library, program, rowOf } = await world(t);
  await damage(dir, (await rowOf(program)).blob);
  assert.deepEqual(await faultsOf(dir.state, dir.blobs), [[program.path, 'bytes']]);
  await dir.state.dropPath(library.path, NOW);
  assert.deepEqual(await faultsOf(dir.state, dir.blobs), [[program.path, 'references']]);
});

test('what was stored anew since it was found damaged stays in service', async (t) => {
  const { dir } = await world(t);
  await publishHost(dir, 'lantern', 'one', NOW);
  const closure = (await dir.state.currentManifest('lantern'))?.closure ?? assert.fail();
  const nar = stored((await dir.state.cachedPathsAfter('', 1))[0] ?? assert.fail()).blob;
  for (const blob of [nar, closure]) {
    const whole = await damage(dir, blob);
    const blobs = before(dir.blobs, 'quarantine', async (id) => {
      if (id === blob) await dir.blobs.put([whole]);
    });
    const { faults } = await checkCache({ ...dir, blobs }, { part: 1 });
    assert.deepEqual(
      faults.map(({ healed }) => healed),
      blob === nar ? [true] : [],
    );
    assert.equal(await dir.blobs.size(blob), whole.length);
    assert.equal((await checkCache(dir, { part: 1 })).faults.length, 0);
  }
});

test('what is damaged is quarantined', async (t) => {
  const { dir, program, rowOf } = await world(t);
  const { blob } = await rowOf(program);
  await damage(dir, blob);
  const { faults } = await checkCache(dir, { part: 1 });
  assert.deepEqual(
    faults.map(({ name, healed }) => [name, healed]),
    [[program.path, false]],
  );
  assert.equal(await dir.blobs.size(blob), null);
  assert.deepEqual(await readdir(join(dir.layout.blobs, 'quarantine')), [blob]);
});
