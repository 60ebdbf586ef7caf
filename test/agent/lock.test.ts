import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { takeLock, tryLock } from '../../src/agent/lock.ts';
import { temporaryDirectory } from '../helpers/temporary.ts';

test('a lock is held once, and can be taken again when it was let go', async () => {
  await using dir = await temporaryDirectory();
  const file = join(dir.path, 'lock');
  {
    await using held = await tryLock(file);
    assert.ok(held);
    assert.equal(await tryLock(file), null);
  }
  await using again = await tryLock(file);
  assert.ok(again);
});

test('the kernel lets go when the holder is killed', async () => {
  await using dir = await temporaryDirectory();
  const file = join(dir.path, 'lock');
  const module = new URL('../../src/agent/lock.ts', import.meta.url).href;
  const script = `import { takeLock, tryLock } from '${module}';
    globalThis.lock = await tryLock(${JSON.stringify(file)});
    console.log(lock === null ? 'busy' : 'locked'); setInterval(() => {}, 1000);`;
  const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const [said] = await once(child.stdout, 'data');
  assert.equal(String(said), 'locked\n');
  assert.equal(await tryLock(file), null);
  child.kill('SIGKILL');
  await once(child, 'exit');
  await using held = await tryLock(file);
  assert.ok(held);
});

test('a child that inherits the descriptor keeps the lock until it ends', async () => {
  await using dir = await temporaryDirectory();
  const file = join(dir.path, 'lock');
  const held = await tryLock(file);
  assert.ok(held);
  const child = spawn('/bin/sh', ['-c', 'read line'], {
    stdio: ['pipe', 'ignore', 'ignore', held.handle.fd],
  });
  await held[Symbol.asyncDispose]();
  assert.equal(await tryLock(file), null);
  child.stdin?.end();
  await once(child, 'exit');
  await using again = await tryLock(file);
  assert.ok(again);
});

test('without flock(1) the lock is refused by name', async () => {
  await using dir = await temporaryDirectory();
  const path = process.env['PATH'];
  process.env['PATH'] = dir.path;
  try {
    await assert.rejects(tryLock(join(dir.path, 'lock')), { code: 'E_TOOL_MISSING' });
  } finally {
    process.env['PATH'] = path;
  }
});

/** Another process that holds the lock of `file`, until it is killed. */
async function holder(file: string) {
  const module = new URL('../../src/agent/lock.ts', import.meta.url).href;
  const script = `import { tryLock } from '${module}';
    globalThis.lock = await tryLock(${JSON.stringify(file)});
    console.log('locked'); setInterval(() => {}, 1000);`;
  const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  await once(child.stdout, 'data');
  return child;
}

test('who has to have it kills a holder that does not end, whatever the file says', async () => {
  await using dir = await temporaryDirectory();
  const file = join(dir.path, 'lock');
  // Of this process: what an older agent wrote, that is long gone.
  await writeFile(file, `${process.pid}\n`);
  const child = await holder(file);
  const exit = once(child, 'exit');
  await using held = await takeLock(file, async () => true, 300);
  assert.ok(held);
  assert.deepEqual(await exit, [null, 'SIGKILL']);
});

test('a holder that ended what it was about, and is at something else, is left alone', async () => {
  await using dir = await temporaryDirectory();
  const file = join(dir.path, 'lock');
  const child = await holder(file);
  const exit = once(child, 'exit');
  const isWanted = [true, false];
  assert.equal(await takeLock(file, async () => isWanted.shift() ?? false, 300), null);
  assert.equal(await takeLock(file, async () => false), null);
  assert.equal(child.exitCode, null);
  assert.equal(child.signalCode, null);
  child.kill('SIGKILL');
  await exit;
});
