// Packs made of real blobs in real threads, and applied by the format alone.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { signersOf } from '../../src/cache/ready-pack.ts';
import type { PathInfo } from '../../src/nix/closure.ts';
import { decompress } from '../../src/nix/decompress.ts';
import { nixPublicKeyOf, verifyPathSignature } from '../../src/nix/signature.ts';
import { hashPartOf, type StorePath } from '../../src/nix/storepath.ts';
import type { StateDir } from '../../src/server/statedir.ts';
import { bytesOf } from '../helpers/nar.ts';
import {
  digestOf,
  made,
  type OldNars,
  orEmpty,
  packBytes,
  packing,
  stepOf,
  unpack,
} from '../helpers/packs.ts';
import { stored } from '../helpers/rows.ts';
import { addPath, makeState, narOfFile, publishSystem } from '../helpers/state.ts';
import { temporaryDir } from '../helpers/temporary.ts';

const NOW = 1_800_000_000;

async function opened(t: TestContext): Promise<StateDir> {
  const dir = await makeState(await temporaryDir(t), NOW);
  t.after(() => dir[Symbol.asyncDispose]());
  return dir;
}

/** Bytes that do not compress, the same for the same seed. */
function noise(seed: string, length: number): Buffer {
  const parts: Buffer[] = [];
  for (let i = 0; i * 64 < length; i++) {
    parts.push(createHash('sha512').update(`${seed} ${i}`).digest());
  }
  return Buffer.concat(parts).subarray(0, length);
}

const storedNars =
  ({ state, blobs }: StateDir): OldNars =>
  async (path) => {
    const row = await state.cachedPath(hashPartOf(path));
    assert.ok(row !== null);
    return await bytesOf(decompress(orEmpty(await blobs.get(stored(row).blob)), 'zstd'));
  };

/** A system of a library, a program that refers to it, and a file of its own. */
async function system(
  dir: StateDir,
  version: { library: Buffer; data: Buffer; own?: string; name?: string },
): Promise<PathInfo[]> {
  const library = await addPath(dir, 'library-1.0', version.library);
  const program = await addPath(
    dir,
    'program-2.1',
    Buffer.concat([noise('program', 30_000), Buffer.from(`link to ${library.path} here`)]),
    [library.path],
  );
  const data = await addPath(dir, 'data', version.data);
  const own = await addPath(dir, 'own', Buffer.from(`own ${version.own ?? ''}`));
  const top = await addPath(
    dir,
    'nixos-system-x',
    Buffer.from(`${program.path}\n${data.path}\n${own.path}\n${version.own ?? ''}`),
    [program.path, data.path, own.path],
  );
  return [library, program, data, own, top];
}

function changed(bytes: Buffer, at: number): Buffer {
  const other = Buffer.from(bytes);
  other.write('another text in the middle of it', at);
  return other;
}

test('a pack gives every NAR: copied, patched or whole, in an order that Nix can add', async (t) => {
  const dir = await opened(t);
  const library = noise('library', 200_000);
  const before = await system(dir, { library, data: noise('data', 50_000) });
  const after = await system(dir, {
    library: changed(library, 5000),
    data: noise('other data', 50_000),
    own: 'x',
  });
  await publishSystem(dir, ['a'], before, NOW);
  await publishSystem(dir, ['a'], after, NOW);
  await using making = packing(dir, NOW);

  const pack = await made(making, after, before);
  const bytes = await packBytes(dir, pack);
  const { index, nars } = await unpack(bytes, after, before, storedNars(dir));
  assert.deepEqual([...nars.keys()].sort(), after.map(({ path }) => path).sort());
  for (const { path } of after) assert.deepEqual(nars.get(path), await storedNars(dir)(path));
  const kinds = new Map(index.paths.map(({ info, kind }) => [info.path.slice(44), kind]));
  assert.equal(kinds.get('library-1.0'), 'patch');
  assert.equal(kinds.get('program-2.1'), 'copy');
  assert.equal(kinds.get('data'), 'whole');
  assert.ok(bytes.length < 60_000, `${bytes.length}`);
  const keys = dir.cacheKeys.map(nixPublicKeyOf);
  for (const { info, sigs } of index.paths) {
    assert.ok(sigs.every((sig) => verifyPathSignature(info, sig, keys)));
  }
  assert.equal(pack.signers, signersOf(dir.cacheKeys));
  // Data that cannot be packed any better is the NAR that is there anyway.
  const data = await dir.state.cachedPath(hashPartOf((after[2] as PathInfo).path));
  assert.ok(pack.parts.some(({ id }) => id === data?.blob));
  assert.deepEqual(await dir.state.pack(stepOf(after, before)), pack);

  // For a host that has nothing.
  const first = await made(making, after, null);
  const whole = await unpack(await packBytes(dir, first), after, null, storedNars(dir));
  assert.equal(whole.nars.size, after.length);
  assert.ok(whole.index.paths.every(({ kind }) => kind === 'whole'));
});

test('equal closures give equal packs, and nothing is made twice', async (t) => {
  const dir = await opened(t);
  const library = noise('library', 100_000);
  const before = await system(dir, { library, data: noise('data', 1000) });
  const after = await system(dir, {
    library: changed(library, 500),
    data: noise('2', 1000),
    own: 'x',
  });
  await publishSystem(dir, ['a'], before, NOW);
  await publishSystem(dir, ['a'], after, NOW);
  await using making = packing(dir, NOW);
  const [one, two] = await Promise.all([made(making, after, before), made(making, after, before)]);
  assert.deepEqual(one, two);
  const tasks = making.tasks.length;
  assert.ok(tasks > 3);
  await dir.state.dropPack(one);
  assert.deepEqual(await made(making, after, before), one);
  assert.equal(making.tasks.length, tasks);

  // Without what was kept it comes out the same.
  await using anew = packing(dir, NOW);
  while ((await dir.state.sweepSegments(NOW + 1, 100)) > 0);
  await dir.state.dropPack(one);
  while ((await dir.state.sweepSegments(NOW + 1, 100)) > 0);
  assert.deepEqual(await made(anew, after, before), one);
  assert.equal(anew.tasks.length, tasks);
});

test('a hundred hosts that differ in one small path cost hardly more than one', async (t) => {
  const dir = await opened(t);
  const library = noise('library', 100_000);
  const other = changed(library, 500);
  const data = noise('data', 60_000);
  const steps: [PathInfo[], PathInfo[]][] = [];
  for (let host = 0; host < 100; host++) {
    const own = `${host}`;
    const before = await system(dir, { library, data, own });
    const after = await system(dir, { library: other, data, own });
    await publishSystem(dir, [`h${host}`], before, NOW);
    await publishSystem(dir, [`h${host}`], after, NOW);
    steps.push([before, after]);
  }
  await using making = packing(dir, NOW);
  const [first, ...rest] = steps;
  assert.ok(first !== undefined);
  await made(making, first[1], first[0]);
  const once = making.tasks.length;
  // Library, program, system.
  assert.equal(once, 3);
  // Two at a time.
  for (let at = 0; at < rest.length; at += 2) {
    await Promise.all(rest.slice(at, at + 2).map(([before, after]) => made(making, after, before)));
  }
  // Of each other one, its own system alone.
  assert.equal(making.tasks.length, once + rest.length);
  assert.deepEqual(new Set(making.tasks), new Set(['patch']));
});

test('what cannot be patched comes whole: a poor patch, an old NAR that is lost or damaged', async (t) => {
  const dir = await opened(t);
  const library = noise('library', 100_000);
  const before = await system(dir, { library, data: noise('data', 1000) });
  const after = await system(dir, {
    library: changed(library, 500),
    data: noise('2', 1000),
    own: 'x',
  });
  await publishSystem(dir, ['a'], before, NOW);
  await publishSystem(dir, ['a'], after, NOW);
  await using making = packing(dir, NOW);
  const old = stored(
    (await dir.state.cachedPath(hashPartOf((before[0] as PathInfo).path))) as never,
  );
  const bytes = await bytesOf(orEmpty(await dir.blobs.get(old.blob)));

  const damaged = Buffer.from(bytes);
  damaged[60_000] = (damaged[60_000] ?? 0) ^ 1;
  await writeFile(dir.blobs.fileOf(old.blob), damaged);
  const kindOf = async () => {
    const pack = await made(making, after, before);
    const { index } = await unpack(await packBytes(dir, pack), after, before, storedNars(dir));
    return index.paths.find(({ info }) => info.path === after[0]?.path)?.kind;
  };
  assert.equal(await kindOf(), 'whole');
  await dir.blobs.delete(old.blob);
  assert.equal(await kindOf(), 'whole');
  // It was not remembered as poor.
  await dir.blobs.put([bytes]);
  assert.equal(await kindOf(), 'patch');
  assert.ok(making.segments.made.poor > 0);
});

test('a pack is refused while the new closure is not whole', async (t) => {
  const dir = await opened(t);
  const closure = await system(dir, { library: noise('l', 9000), data: noise('d', 9000) });
  await using making = packing(dir, NOW);
  // Nobody was told to run it.
  await assert.rejects(made(making, closure, null), { code: 'E_CACHE_INCOMPLETE' });
  await publishSystem(dir, ['a'], closure, NOW);
  const row = stored(
    (await dir.state.cachedPath(hashPartOf((closure[2] as PathInfo).path))) as never,
  );
  const bytes = await bytesOf(orEmpty(await dir.blobs.get(row.blob)));
  await dir.blobs.delete(row.blob);
  await assert.rejects(made(making, closure, null), { code: 'E_CACHE_INCOMPLETE' });
  const damaged = Buffer.from(bytes);
  damaged[100] = (damaged[100] ?? 0) ^ 1;
  await writeFile(dir.blobs.fileOf(row.blob), damaged);
  await assert.rejects(made(making, closure, null), (error: { code: string }) =>
    error.code.startsWith('E_NAR'),
  );
  assert.equal(await dir.state.pack(stepOf(closure, null)), null);
  await dir.blobs.put([bytes]);
  assert.notEqual(await made(making, closure, null), null);
  assert.deepEqual(await readdir(join(dir.layout.blobs, 'tmp')), []);
});

test('paths that are left to upstreams are no part of a pack', async (t) => {
  const dir = await opened(t);
  const closure = await system(dir, { library: noise('l', 9000), data: noise('d', 9000) });
  const [library] = closure as [PathInfo];
  const row = stored((await dir.state.cachedPath(hashPartOf(library.path))) as never);
  const upstream = { url: 'https://cache.example.org/nar/x', fileHash: null, fileSize: null };
  await dir.state.addCachedPaths(
    [{ ...row, compression: 'xz', blob: null, blobSize: null, upstream }],
    NOW,
  );
  await publishSystem(dir, ['a'], closure, NOW);
  await using making = packing(dir, NOW);
  const pack = await made(making, closure, null);
  const { nars } = await unpack(await packBytes(dir, pack), closure, null, storedNars(dir));
  assert.deepEqual(nars.has(library.path as StorePath), false);
  assert.equal(nars.size, closure.length - 1);
});

test('large paths are packed alone, small ones together', async (t) => {
  const dir = await opened(t);
  const large = await addPath(dir, 'large', Buffer.alloc(3 * 1024 * 1024, noise('large', 100_000)));
  const small = [];
  for (const name of ['a', 'b', 'c']) {
    small.push(await addPath(dir, name, Buffer.concat([noise('same', 4000), Buffer.from(name)])));
  }
  const top = await addPath(
    dir,
    'top',
    Buffer.from('top'),
    [large, ...small].map(({ path }) => path),
  );
  const closure = [large, ...small, top];
  await publishSystem(dir, ['a'], closure, NOW);
  await using making = packing(dir, NOW);
  const pack = await made(making, closure, null);
  const { index } = await unpack(await packBytes(dir, pack), closure, null, storedNars(dir));
  assert.equal(index.segments.length, 2);
  const segmentOf = (path: StorePath) => {
    const found = index.paths.find(({ info }) => info.path === path);
    return found?.kind === 'whole' ? found.segment : null;
  };
  assert.equal(new Set(small.map(({ path }) => segmentOf(path))).size, 1);
  assert.notEqual(segmentOf(large.path), segmentOf(top.path));
  assert.equal(digestOf(closure), index.closure);
  assert.equal(narOfFile(Buffer.from('top')).length, top.narSize);
});
