// Agents that have too little room for an update: refused beforehand, with figures; nothing is written.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { temporaryDirectory } from '../helpers/temporary.ts';

test('too little room in the store: said beforehand, in an emergency too, and taken once there is', async () => {
  await using dir = await temporaryDirectory();
  const program = fileURLToPath(new URL('../fixtures/agent-on-a-small-store.ts', import.meta.url));
  const user = process.getuid?.() === 0 ? [] : ['--map-root-user'];
  const args = ['--mount', ...user, process.execPath, program, dir.path];
  const told = JSON.parse(execFileSync('unshare', args, { encoding: 'utf8' }));
  assert.deepEqual([told.before.phase, told.before.current], ['in-sync', 'one']);
  for (const { phase, code, text, exit, hint, current } of [told.small, told.again]) {
    assert.deepEqual([phase, code, exit, current], ['preflight-failed', 'E_PREFLIGHT', 1, 'one']);
    assert.match(
      text,
      /nix\/store has \d+\.\d MiB free, and the update needs 32\.1 MiB \(32\.0 MiB /,
    );
    assert.match(hint, /nix-collect-garbage/);
  }
  assert.deepEqual([told.isSame, told.fetched], [true, []]);
  assert.deepEqual([told.room.phase, told.room.current], ['in-sync', 'two']);
  assert.deepEqual(told.phases, ['in-sync', 'preflight-failed', 'in-sync']);
});
