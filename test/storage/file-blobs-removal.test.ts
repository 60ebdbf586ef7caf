// Blobs that go: only when they are old, also while somebody puts them; killed removals; quarantine;
// reading at many places; sizes from memory.
import assert from 'node:assert/strict';
import { link, readdir, rename, rm, truncate, utimes } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { type BlobId, type Blobs, blobIdOf } from '../../src/storage/blobs.ts';
import { createFileBlobs, openFileBlobs } from '../../src/storage/file-blobs.ts';
import { temporaryName } from '../../src/temporary-names.ts';
import { temporaryDir } from '../helpers/temporary.ts';

const BYTES = Buffer.from('the bytes of a blob');
const ID = blobIdOf(BYTES);
const fileOf = (dir: string, id: BlobId): string => join(dir, id.slice(0, 2), id.slice(2));

async function stored(dir: string, isWatched = false): Promise<Blobs> {
  await createFileBlobs(dir);
  const blobs = await openFileBlobs(dir, isWatched);
  await blobs.put([BYTES]);
  return blobs;
}

test('a blob is removed when it is old enough, and only then', async (t) => {
  const dir = join(await temporaryDir(t), 'blobs');
  const blobs = await stored(dir);
  const now = Math.floor(Date.now() / 1000);
  assert.equal(await blobs.deleteOlder(ID, now - 100), false);
  assert.equal(await blobs.size(ID), BYTES.length);
  assert.equal(await blobs.deleteOlder(ID, now + 100), true);
  assert.equal(await blobs.size(ID), null);
  assert.equal(await blobs.deleteOlder(ID, now + 100), false);
  assert.deepEqual(await readdir(join(dir, 'tmp')), []);
});

test('a blob that is named while it is removed stays, also when that cannot be found out', async (t) => {
  const dir = join(await temporaryDir(t), 'blobs');
  const blobs = await stored(dir);
  const future = Math.floor(Date.now() / 1000) + 100;
  const isNamed = async (): Promise<boolean> => {
    // Asked only when nobody can find it any more, so that who names it later finds it missing.
    assert.equal(await blobs.size(ID), null);
    return true;
  };
  assert.equal(await blobs.deleteOlder(ID, future, isNamed), false);
  assert.equal(await blobs.size(ID), BYTES.length);
  await assert.rejects(blobs.deleteOlder(ID, future, () => Promise.reject(new Error('busy'))));
  assert.equal(await blobs.size(ID), BYTES.length);
  assert.equal(await blobs.deleteOlder(ID, future, async () => false), true);
  assert.equal(await blobs.size(ID), null);
  assert.deepEqual(await readdir(join(dir, 'tmp')), []);
});

test('a blob that somebody puts while it is removed is there afterwards', async (t) => {
  const dir = join(await temporaryDir(t), 'blobs');
  const blobs = await stored(dir);
  let removed = 0;
  for (let round = 0; round < 200; round++) {
    // Old, and put anew at this moment: whatever the order, the new one must stay.
    await blobs.put([BYTES]);
    await utimes(fileOf(dir, ID), 1, 1);
    const [was] = await Promise.all([blobs.deleteOlder(ID, 1_000_000), blobs.put([BYTES])]);
    if (was) removed += 1;
    assert.equal(await blobs.size(ID), BYTES.length, `round ${round}`);
  }
  assert.ok(removed > 0, 'the removal never came first');
});

test('what a killed removal had put aside comes back', async (t) => {
  const dir = join(await temporaryDir(t), 'blobs');
  await stored(dir);
  // As a process leaves it that is killed in between; its pid is gone.
  const aside = temporaryName().replace(/-\d+-/, '-999999999-');
  await rename(fileOf(dir, ID), join(dir, 'tmp', `${aside}-removes-${ID}`));
  const blobs = await openFileBlobs(dir);
  assert.equal(await blobs.size(ID), BYTES.length);
  assert.deepEqual(await readdir(join(dir, 'tmp')), []);
});

test('a blob in quarantine is neither served nor listed, and its bytes are kept', async (t) => {
  const dir = join(await temporaryDir(t), 'blobs');
  const blobs = await stored(dir);
  await blobs.quarantine(ID);
  await blobs.quarantine(ID);
  assert.equal(await blobs.size(ID), null);
  assert.equal(await blobs.open(ID), null);
  for await (const blob of blobs.list()) assert.fail(`${blob.id} is listed`);
  assert.deepEqual(await readdir(join(dir, 'quarantine')), [ID]);
  await openFileBlobs(dir);
  assert.deepEqual(await readdir(join(dir, 'quarantine')), [ID]);
});

test('an open blob is read at any place, also after it was deleted', async (t) => {
  const dir = join(await temporaryDir(t), 'blobs');
  const blobs = await stored(dir);
  const large = Buffer.alloc(700_000, 'abcdefg');
  const { id } = await blobs.put([large]);
  for (const [name, bytes] of [
    [ID, BYTES],
    [id, large],
  ] as const) {
    const reader = await blobs.open(name);
    assert.ok(reader !== null);
    await using open = reader;
    await blobs.delete(name);
    assert.equal(open.size, bytes.length);
    const target = Buffer.alloc(bytes.length + 10);
    assert.equal(await open.read(target, 0), bytes.length);
    assert.deepEqual(target.subarray(0, bytes.length), bytes);
    assert.equal(await open.read(target.subarray(0, 5), 3), 5);
    assert.deepEqual(target.subarray(0, 5), bytes.subarray(3, 8));
    assert.equal(await open.read(target, bytes.length), 0);
  }
});

test('sizes that are kept in memory follow what others do to the files', async (t) => {
  const dir = join(await temporaryDir(t), 'blobs');
  const blobs = await stored(dir, true);
  const file = fileOf(dir, ID);
  const other = join(dir, 'tmp', 'other');
  assert.equal(await blobs.size(ID), BYTES.length);
  for (const [change, size] of [
    [() => truncate(file, 3), 3],
    [() => rm(file), null],
    [() => blobs.put([BYTES]), BYTES.length],
    [() => link(file, other).then(() => rm(file)), null],
    [() => rename(other, file), BYTES.length],
    [() => blobs.delete(ID), null],
  ] as const) {
    await change();
    // One turn of the event loop: the notice comes before any request that follows the change.
    await sleep(20);
    assert.equal(await blobs.size(ID), size);
  }
});
