// Blobs as files: whole or absent, healed by a put, ranges, and what killed writers leave behind.
import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { mkdir, readdir, readFile, rm, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { buffer } from 'node:stream/consumers';
import { test } from 'node:test';
import type { BlobId, Blobs } from '../../src/storage/blobs.ts';
import { createFileBlobs, openFileBlobs } from '../../src/storage/file-blobs.ts';
import { refused } from '../helpers/nix-scratch.ts';
import { startProgram } from '../helpers/programs.ts';
import { temporaryDirectory } from '../helpers/temporary.ts';

const idOf = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex') as BlobId;

async function emptyBlobs() {
  const top = await temporaryDirectory();
  const dir = join(top.path, 'blobs');
  await createFileBlobs(dir);
  const file = (id: BlobId) => join(dir, id.slice(0, 2), id.slice(2));
  const temporaries = () => readdir(join(dir, 'tmp'));
  return {
    dir,
    file,
    temporaries,
    blobs: await openFileBlobs(dir),
    [Symbol.asyncDispose]: () => top[Symbol.asyncDispose](),
  };
}

async function contents(blobs: Blobs, id: BlobId, start?: number, end = 0) {
  const stream = await blobs.get(id, start === undefined ? undefined : { start, end });
  return stream === null ? null : await buffer(stream);
}

test('a blob is named by its hash and comes back whole or in part', async () => {
  await using made = await emptyBlobs();
  const { blobs } = made;
  const bytes = randomBytes(700_001);
  // One buffer for all chunks, as the interface allows.
  const chunk = Buffer.alloc(1000);
  const put = await blobs.put(
    (async function* () {
      for (let at = 0; at < bytes.length; at += 1000) {
        yield chunk.subarray(0, bytes.copy(chunk, 0, at, at + 1000));
      }
    })(),
  );
  assert.deepEqual(put, { id: idOf(bytes), size: bytes.length });
  assert.equal(await blobs.size(put.id), bytes.length);
  assert.deepEqual(await contents(blobs, put.id), bytes);
  for (const [start, end] of [
    [0, 1],
    [0, bytes.length],
    [699_999, 700_001],
    [131_072, 262_145],
    [5, 5],
  ] as const) {
    assert.deepEqual(await contents(blobs, put.id, start, end), bytes.subarray(start, end));
  }
  assert.deepEqual(await made.temporaries(), []);
});

test('an empty blob, and one in sync chunks', async () => {
  await using made = await emptyBlobs();
  const empty = await made.blobs.put([]);
  assert.equal(empty.size, 0);
  assert.deepEqual(await contents(made.blobs, empty.id), Buffer.alloc(0));
  const put = await made.blobs.put([Buffer.from('ab'), Buffer.from('c')]);
  assert.equal(put.id, idOf(Buffer.from('abc')));
});

test('what is not there is null, and deleting it no error', async () => {
  await using made = await emptyBlobs();
  const id = idOf(Buffer.from('absent'));
  assert.equal(await made.blobs.size(id), null);
  assert.equal(await made.blobs.get(id), null);
  assert.equal(await made.blobs.get(id, { start: 0, end: 0 }), null);
  await made.blobs.delete(id);
});

test('a put heals a blob that is damaged', async () => {
  await using made = await emptyBlobs();
  const bytes = Buffer.from('what it should be');
  const { id } = await made.blobs.put([bytes]);
  for (const damage of ['', 'what it should bee', 'what it should bE']) {
    await writeFile(made.file(id), damage);
    await made.blobs.put([bytes]);
    assert.deepEqual(await contents(made.blobs, id), bytes);
  }
});

test('many puts at once, of the same and of different bytes', async () => {
  await using made = await emptyBlobs();
  const puts = Array.from({ length: 200 }, (_, i) => made.blobs.put([Buffer.from(`n${i % 50}`)]));
  const ids = new Set((await Promise.all(puts)).map((blob) => blob.id));
  const listed = new Map<BlobId, number>();
  for await (const blob of made.blobs.list()) listed.set(blob.id, blob.size);
  assert.deepEqual(new Set(listed.keys()), ids);
  assert.equal(listed.get(idOf(Buffer.from('n7'))), 2);
  assert.deepEqual(await made.temporaries(), []);
});

test('deleted blobs are gone; foreign files are never listed', async () => {
  await using made = await emptyBlobs();
  const a = await made.blobs.put([Buffer.from('a')]);
  const b = await made.blobs.put([Buffer.from('b')]);
  await made.blobs.delete(a.id);
  await writeFile(join(made.dir, 'ab', 'README'), 'not a blob');
  const listed = [];
  for await (const { putAt, ...blob } of made.blobs.list()) {
    assert.ok(Math.abs(putAt - Date.now() / 1000) < 100);
    listed.push(blob);
  }
  assert.deepEqual(listed, [b]);
});

test('a source that fails leaves nothing behind', async () => {
  await using made = await emptyBlobs();
  const failing = (async function* () {
    yield Buffer.alloc(100);
    throw new Error('the source failed');
  })();
  await assert.rejects(made.blobs.put(failing), /the source failed/);
  assert.deepEqual(await made.temporaries(), []);
  assert.deepEqual((await made.blobs.list()[Symbol.asyncIterator]().next()).done, true);
});

test('a shard directory that a backup left out is made again', async () => {
  await using made = await emptyBlobs();
  const bytes = Buffer.from('shard');
  await rm(join(made.dir, idOf(bytes).slice(0, 2)), { recursive: true });
  const { id } = await made.blobs.put([bytes]);
  assert.deepEqual(await contents(made.blobs, id), bytes);
});

test('a missing directory is never made up, an existing one never taken over', async () => {
  await using top = await temporaryDirectory();
  const dir = join(top.path, 'blobs');
  await assert.rejects(openFileBlobs(dir), refused('E_STATE_INCOMPLETE', /blobs/));
  await writeFile(dir, '');
  await assert.rejects(openFileBlobs(dir), refused('E_STATE_INCOMPLETE', /blobs/));
  await assert.rejects(createFileBlobs(dir), refused('E_STATE_EXISTS', /blobs/));
});

test('temporary files of killed writers go, those of living ones stay', async () => {
  await using made = await emptyBlobs();
  await using killed = startProgram('put-endlessly.ts', made.dir);
  assert.equal(await killed.line(), 'begun');
  await killed.kill('SIGKILL');
  assert.equal((await made.temporaries()).length, 1);

  await using living = startProgram('put-endlessly.ts', made.dir);
  await living.line();
  const names = await made.temporaries();
  assert.equal(names.length, 1, 'the second writer removed what the first one left');
  await openFileBlobs(made.dir);
  assert.deepEqual(await made.temporaries(), names);
});

test('a reused pid does not keep a temporary file, an unknown owner does for a day', async () => {
  await using made = await emptyBlobs();
  const put = made.blobs.put(
    (async function* () {
      yield Buffer.from('x');
      const [own = ''] = await made.temporaries();
      const [namespace = '', pid = '', started = '', random = ''] = own.split('-');
      const place = (name: string) => writeFile(join(made.dir, 'tmp', name), '');
      await place([namespace, pid, Number(started) + 1, random].join('-'));
      await place([Number(namespace) + 1, pid, started, random].join('-'));
      await place('who knows');
      await mkdir(join(made.dir, 'tmp', 'a directory'));
      const old = new Date(Date.now() - 25 * 3600 * 1000);
      await utimes(join(made.dir, 'tmp', 'who knows'), old, old);
      await openFileBlobs(made.dir);
      assert.deepEqual(
        new Set(await made.temporaries()),
        new Set([own, [Number(namespace) + 1, pid, started, random].join('-'), 'a directory']),
      );
    })(),
  );
  const { id } = await put;
  assert.equal((await readFile(made.file(id))).toString(), 'x');
});
