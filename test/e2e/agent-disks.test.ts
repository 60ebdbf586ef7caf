// Agents whose disks fill up in the middle of a switch: it is taken back all the same, said as it is, and
// held against no system.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdir, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { setting } from '../helpers/hosts.ts';
import { buildSystem } from '../helpers/systems.ts';
import { temporaryDirectory } from '../helpers/temporary.ts';

const systems = await temporaryDirectory();
after(() => systems[Symbol.asyncDispose]());

test('full disks: the agent’s own, and that of the profiles', async () => {
  await using dir = await temporaryDirectory();
  const program = fileURLToPath(new URL('../fixtures/agent-on-full-disks.ts', import.meta.url));
  // A mount namespace of its own: the small disks are gone with the process.
  const user = process.getuid?.() === 0 ? [] : ['--map-root-user'];
  const args = ['--mount', ...user, process.execPath, program, dir.path];
  const { ownDisk, profiles } = JSON.parse(execFileSync('unshare', args, { encoding: 'utf8' }));

  assert.equal(ownDisk.full.phase, 'failed');
  assert.match(ownDisk.full.text, /^the journal: no space left .*; after: .* boot ended with 1/);
  assert.deepEqual(ownDisk.full.systems, ['one', 'one', 'one']);
  assert.deepEqual(ownDisk.still.systems, ['one', 'one', 'one']);
  assert.deepEqual([ownDisk.room.phase, ownDisk.room.code], ['rolled-back', 'E_SWITCH_FAILED']);
  assert.deepEqual(ownDisk.room.systems, ['one', 'one', 'one']);

  assert.deepEqual([profiles.full.phase, profiles.full.code], ['rolled-back', 'E_DISK_FULL']);
  assert.deepEqual(profiles.full.systems, ['one', 'one', 'one']);
  assert.equal(profiles.room.phase, 'in-sync');
  assert.deepEqual(profiles.room.systems, ['two', 'two', 'two']);
});

test('what Nix writes lies below the agent’s state, and does not pile up', async () => {
  await using s = await setting(await buildSystem(systems.path, 'one'));
  const { world, host } = s;
  const scratch = join(host.state, 'nix');
  assert.deepEqual((await readdir(scratch)).sort(), ['cache', 'conf', 'home']);
  // Of an agent that was killed.
  await mkdir(join(scratch, 'left'));
  await writeFile(join(scratch, 'conf/nix.conf'), 'substituters = http://elsewhere.test\n');
  world.publish(await buildSystem(systems.path, 'two'));
  assert.equal((await host.once()).outcome?.phase, 'in-sync');
  assert.deepEqual((await readdir(scratch)).sort(), ['cache', 'conf', 'home']);
  assert.deepEqual(await readdir(join(scratch, 'conf')), []);
});
