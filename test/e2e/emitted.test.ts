// The published package runs JavaScript emitted by tsc: its database thread must find its own file
// there, beside the others, and its errors must keep their codes.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { symlink } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { temporaryDirectory } from '../helpers/temporary.ts';

const PROJECT = fileURLToPath(new URL('../..', import.meta.url));

test('the database thread runs from emitted JavaScript', async () => {
  await using dir = await temporaryDirectory();
  const tsc = join(PROJECT, 'node_modules/.bin/tsc');
  spawnSync(tsc, ['-p', join(PROJECT, 'tsconfig.build.json'), '--outDir', join(dir.path, 'dist')]);
  await symlink(join(PROJECT, 'node_modules'), join(dir.path, 'node_modules'));
  const module = pathToFileURL(join(dir.path, 'dist/src/storage/sqlite.js')).href;
  const file = JSON.stringify(join(dir.path, 'fleet.db'));
  const program = `
    import { createState, openState } from ${JSON.stringify(module)};
    await openState(${file}, { writer: 'thread' }).catch((error) => console.log(error.code));
    await createState(${file});
    await using state = await openState(${file}, { writer: 'thread' });
    console.log((await state.recordLease(5, 6)).fence);
    await state.dropStaged(1, 9).catch((error) => console.log(error.code, error.constructor.name));
  `;
  const run = spawnSync(process.execPath, ['--input-type=module', '--eval', program], {
    cwd: dir.path,
    encoding: 'utf8',
  });
  assert.equal(run.stderr, '');
  assert.equal(run.stdout, 'E_STATE_MISSING\n1\nE_LEASE_LOST FleetError\n');
});
