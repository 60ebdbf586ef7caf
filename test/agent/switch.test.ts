// The switch program as a child: its status, its log, and its end when it takes too long.
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { mkdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { tryLock } from '../../src/agent/lock.ts';
import { placeAt } from '../../src/agent/place.ts';
import { LOCKED, runSwitch, type SwitchResult } from '../../src/agent/switch.ts';
import type { StorePath } from '../../src/nix/storepath.ts';
import { temporaryDirectory } from '../helpers/temporary.ts';

async function scriptOf(dir: string, script: string): Promise<StorePath> {
  await mkdir(join(dir, 'top/bin'), { recursive: true });
  const file = join(dir, 'top/bin/switch-to-configuration');
  await writeFile(file, `#!/bin/sh\ncd ${dir}\n${script}\n`, { mode: 0o755 });
  // Only its place matters here.
  return join(dir, 'top') as StorePath;
}

async function run(dir: string, script: string, seconds = 30): Promise<SwitchResult> {
  const toplevel = await scriptOf(dir, script);
  const place = placeAt(null);
  const at = { toplevel, place, dir: join(dir, 'switch'), inUnit: false };
  return await runSwitch({ ...at, action: 'test', seconds });
}

test('status and words are the program’s own', async () => {
  await using dir = await temporaryDirectory();
  for (const status of [0, 4, 100]) {
    const result = await run(dir.path, `echo "this is $1" >&2; exit ${status}`);
    assert.deepEqual([result.code, result.timedOut], [status, false]);
    assert.deepEqual(result.lastLines, ['this is test']);
    assert.equal(await readFile(result.log, 'utf8'), 'this is test\n');
  }
});

test('killed is no success', async () => {
  await using dir = await temporaryDirectory();
  const result = await run(dir.path, 'kill -KILL $$');
  assert.notEqual(result.code, 0);
  assert.equal(result.timedOut, false);
});

test('one that takes too long is asked to end, and has the time for it', async () => {
  await using dir = await temporaryDirectory();
  const script = 'trap "sleep 1; touch cleaned; exit 0" TERM\nwhile :; do sleep 0.1; done';
  const result = await run(dir.path, script, 1);
  assert.deepEqual([result.code, result.timedOut], [null, true]);
  assert.ok(existsSync(join(dir.path, 'cleaned')));
});

test('one that does not end when asked is killed, with all it started', async () => {
  await using dir = await temporaryDirectory();
  // The program heeds the signal, what it began does not.
  const script = '(trap "" TERM; sleep 3; touch survived) &\nsleep 60';
  const result = await run(dir.path, script, 1);
  assert.equal(result.timedOut, true);
  await new Promise((resolve) => setTimeout(resolve, 3000));
  assert.ok(!existsSync(join(dir.path, 'survived')));
  const stubborn = await run(dir.path, 'trap "" TERM; while :; do sleep 0.1; done', 1);
  assert.deepEqual([stubborn.code, stubborn.timedOut], [null, true]);
});

test('a switch that still runs has the status of a held lock', async () => {
  await using dir = await temporaryDirectory();
  await mkdir(join(dir.path, 'switch'));
  await using held = await tryLock(join(dir.path, 'switch/lock'));
  assert.ok(held);
  assert.equal((await run(dir.path, 'touch ran', 0)).code, LOCKED);
  assert.ok(!existsSync(join(dir.path, 'ran')));
});

test('without room for its log a switch goes on, and ends as it ends', async () => {
  await using dir = await temporaryDirectory();
  await run(dir.path, 'true');
  await rm(join(dir.path, 'switch/test.log'));
  // A device that is always full.
  await symlink('/dev/full', join(dir.path, 'switch/test.log'));
  const result = await run(dir.path, 'echo something || exit 9; exit 4');
  assert.deepEqual([result.code, result.lastLines], [4, ['']]);
});
