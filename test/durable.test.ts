// Durable writes: whole or not at all, nothing precious replaced by accident, nothing left behind.
import assert from 'node:assert/strict';
import { chmod, mkdir, readdir, readFile, stat, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import {
  asDiskFull,
  createDurable,
  linkDurable,
  makeDirectoryDurable,
  removeDurable,
  writeDurable,
} from '../src/durable.ts';
import { isFleetError } from '../src/errors.ts';
import { temporaryDir } from './helpers/temporary.ts';

test('a write replaces the whole file, with its mode, whatever the umask', async (t) => {
  const dir = await temporaryDir(t);
  const file = join(dir, 'f');
  const umask = process.umask(0o077);
  try {
    await writeDurable(file, 'one', 0o644);
  } finally {
    process.umask(umask);
  }
  assert.equal((await stat(file)).mode & 0o777, 0o644);
  await writeDurable(file, Buffer.from('two'), 0o600);
  assert.equal(await readFile(file, 'utf8'), 'two');
  assert.equal((await stat(file)).mode & 0o777, 0o600);
  assert.deepEqual(await readdir(dir), ['f']);
});

test('create never replaces', async (t) => {
  const dir = await temporaryDir(t);
  const file = join(dir, 'f');
  await createDurable(file, 'first');
  await assert.rejects(createDurable(file, 'second'), (error) =>
    isFleetError(error, 'E_STATE_EXISTS'),
  );
  assert.equal(await readFile(file, 'utf8'), 'first');
  assert.deepEqual(await readdir(dir), ['f']);
});

test('a failed write leaves the old file and no temporary one', async (t) => {
  const dir = await temporaryDir(t);
  const target = join(dir, 'taken');
  await mkdir(join(target, 'inside'), { recursive: true });
  await assert.rejects(writeDurable(target, 'x'));
  assert.deepEqual(await readdir(dir), ['taken']);
  await assert.rejects(writeDurable(join(dir, 'no', 'such'), 'x'), { code: 'ENOENT' });
});

test('a full disk has a code of its own', () => {
  const full = Object.assign(new Error('no'), { code: 'ENOSPC' });
  assert.ok(isFleetError(asDiskFull(full, 'f'), 'E_DISK_FULL'));
  const quota = Object.assign(new Error('no'), { code: 'EDQUOT' });
  assert.ok(isFleetError(asDiskFull(quota, 'f'), 'E_DISK_FULL'));
  const other = Object.assign(new Error('no'), { code: 'EACCES' });
  assert.equal(asDiskFull(other, 'f'), other);
});

test('removing what is not there is no error; directories are made with their parents', async (t) => {
  const dir = await temporaryDir(t);
  await removeDurable(join(dir, 'none'));
  const deep = join(dir, 'a', 'b', 'c');
  await makeDirectoryDurable(deep, 0o700);
  await makeDirectoryDurable(deep, 0o700);
  await chmod(deep, 0o700);
  await writeFile(join(deep, 'f'), '');
  await removeDurable(join(deep, 'f'));
  assert.deepEqual(await readdir(deep), []);
});

test('where no directory can be made it is said, at once', async (t) => {
  const dir = await temporaryDir(t);
  await writeFile(join(dir, 'file'), '');
  await symlink(join(dir, 'nowhere'), join(dir, 'dangling'));
  for (const place of [
    '/proc/none/deep',
    join(dir, 'file'),
    join(dir, 'file/deep'),
    join(dir, 'dangling/deep'),
  ]) {
    await assert.rejects(makeDirectoryDurable(place), { code: 'E_STATE_ACCESS' }, place);
  }
  assert.deepEqual((await readdir(dir)).sort(), ['dangling', 'file']);
});

test('a second name stays when the first gets another content, and takes no name that is there', async (t) => {
  const dir = await temporaryDir(t);
  const file = join(dir, 'file');
  await writeFile(file, 'before');
  await linkDurable(file, join(dir, 'kept'));
  await writeDurable(file, 'after');
  assert.equal(await readFile(join(dir, 'kept'), 'utf8'), 'before');
  await assert.rejects(linkDurable(file, join(dir, 'kept')), { code: 'E_STATE_EXISTS' });
  assert.equal(await readFile(join(dir, 'kept'), 'utf8'), 'before');
  assert.equal(await readFile(file, 'utf8'), 'after');
});
