// Everything at once, on a small disk, with kills: nothing that was acknowledged is lost, and nothing that
// is served is wrong. A minute here; ten with `npm run test:soak`.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { randomInt } from 'node:crypto';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { run } from '../helpers/cli.ts';
import { temporaryDir } from '../helpers/temporary.ts';

const SECONDS = process.env['FLEET_SOAK_SECONDS'] ?? '45';
const SEED = process.env['FLEET_SOAK_SEED'] ?? String(randomInt(2 ** 31));

/** A mount namespace of its own: the small disk is gone with the process. */
const UNSHARE = ['--mount', ...(process.getuid?.() === 0 ? [] : ['--map-root-user'])];

function mayMount(): boolean {
  try {
    execFileSync('unshare', [...UNSHARE, 'true'], { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
}

test('a soak: builds, pushes, downloads, collections, kills and full disks at once', {
  skip: mayMount() ? false : 'mount namespaces are not allowed here',
}, async (t) => {
  const program = fileURLToPath(new URL('../fixtures/soak.ts', import.meta.url));
  const dir = await temporaryDir(t);
  // With --kill-child nothing of it outlives the test; and it has so much time at most.
  const limit = ['-k', '10', String(Number(SECONDS) * 4 + 300)];
  const args = ['--pid', '--fork', '--kill-child', '--mount-proc', ...UNSHARE];
  const { code, stdout, stderr } = await run('timeout', [
    ...[...limit, 'unshare', ...args, process.execPath, program, dir, SECONDS, SEED],
  ]);
  assert.equal(code, 0, `seed ${SEED}, exit ${code}: ${stderr}`);
  const { wrong, missing, stalled, ...told } = JSON.parse(stdout);
  t.diagnostic(`seed ${SEED}: ${JSON.stringify(told)}`);
  for (const what of stalled) t.diagnostic(what);
  assert.deepEqual(wrong, [], `seed ${SEED}`);
  assert.deepEqual(missing, [], `seed ${SEED}`);
});
