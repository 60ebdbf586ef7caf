// Directories that nix programs write to: each process removes its own, and those of processes that were killed.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, readdir, symlink } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { type TestContext, test } from 'node:test';
import { temporaryDir } from '../helpers/temporary.ts';

const SCRIPT = `
  const { openNixEnvironment } = await import(${JSON.stringify(resolve('src/nix/environment.ts'))});
  const environment = await openNixEnvironment({ isolated: true });
  console.log('open');
  process.stdin.resume();
  process.stdin.once('end', () => environment[Symbol.asyncDispose]());
`;

/** A process that has one open, below `dir`. */
async function opened(t: TestContext, dir: string) {
  const args = ['--input-type=module', '--eval', SCRIPT];
  const env = { ...process.env, TMPDIR: dir };
  const child = spawn(process.execPath, args, { env, stdio: ['pipe', 'pipe', 'inherit'] });
  t.after(() => child.kill('SIGKILL'));
  await once(child.stdout, 'data');
  const gone = once(child, 'close');
  return {
    kill: async () => {
      child.kill('SIGKILL');
      await gone;
    },
    end: async () => {
      child.stdin.end();
      await gone;
    },
  };
}

test('what a killed process left is removed by the next one; what others use stays', async (t) => {
  const dir = await temporaryDir(t);
  const names = async () => (await readdir(dir)).filter((name) => name.startsWith('fleet-nix-'));
  const living = await opened(t, dir);
  const [its = ''] = await names();
  const dying = await opened(t, dir);
  await dying.kill();
  const left = (await names()).filter((name) => name !== its);
  assert.equal(left.length, 1);
  // Of nobody who could be asked for; and what bears such a name and is no directory.
  await mkdir(join(dir, 'fleet-nix-AbCdEf'));
  await mkdir(join(dir, 'elsewhere'));
  const [dead = ''] = left;
  const link = `${dead.slice(0, -16)}${'0'.repeat(16)}`;
  await symlink(join(dir, 'elsewhere'), join(dir, link));
  const next = await opened(t, dir);
  const now = await names();
  assert.ok(!now.includes(dead), now.join());
  for (const kept of [its, 'fleet-nix-AbCdEf', link]) assert.ok(now.includes(kept), kept);
  assert.equal(now.length, 4);
  await next.end();
  await living.end();
  assert.deepEqual((await names()).sort(), ['fleet-nix-AbCdEf', link].sort());
  assert.ok((await readdir(dir)).includes('elsewhere'));
});
