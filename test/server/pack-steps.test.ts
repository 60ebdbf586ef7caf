// Which steps hosts are to take, by what they reported; and which packs are kept for that.
import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import type { PathInfo } from '../../src/nix/closure.ts';
import { stepKey } from '../../src/server/pack-queue.ts';
import { currentSteps } from '../../src/server/pack-steps.ts';
import { removeHost } from '../../src/server/remove-host.ts';
import { keptPacks } from '../../src/server/retention.ts';
import type { StateDir } from '../../src/server/statedir.ts';
import { digestOf, stepOf } from '../helpers/packs.ts';
import { storePath } from '../helpers/paths.ts';
import { reportRunning } from '../helpers/reports.ts';
import { makeState, publishHosts } from '../helpers/state.ts';
import { temporaryDir } from '../helpers/temporary.ts';

const NOW = Math.floor(Date.now() / 1000);

async function opened(t: TestContext): Promise<StateDir> {
  const dir = await makeState(await temporaryDir(t), NOW);
  t.after(() => dir[Symbol.asyncDispose]());
  return dir;
}

const sorted = (steps: readonly string[]): string[] => [...steps].sort();
const stepsOf = async ({ state }: StateDir) => sorted((await currentSteps(state)).map(stepKey));
const key = (closure: readonly PathInfo[], base: readonly PathInfo[] | null) =>
  stepKey(stepOf(closure, base));

test('steps are from what hosts say they run to what they should, each once', async (t) => {
  const dir = await opened(t);
  const all = ['a', 'b', 'c', 'd', 'e'];
  const one = await publishHosts(dir, all, 'one', NOW);
  assert.deepEqual(await stepsOf(dir), [key(one.closure, null)]);
  await reportRunning(dir, 'a', one.toplevel, NOW);
  const two = await publishHosts(dir, all, 'two', NOW);
  await reportRunning(dir, 'b', one.toplevel, NOW);
  await reportRunning(dir, 'c', two.toplevel, NOW);
  // Of no manifest; and one that keeps it to itself.
  await reportRunning(dir, 'd', storePath('by hand'), NOW);
  await reportRunning(dir, 'e', null, NOW);
  assert.deepEqual(
    await stepsOf(dir),
    sorted([key(two.closure, one.closure), key(two.closure, null)]),
  );
  for (const host of ['d', 'e']) await reportRunning(dir, host, two.toplevel, NOW);
  assert.deepEqual(await stepsOf(dir), [key(two.closure, one.closure)]);
  // What waits is no step yet.
  await publishHosts(dir, ['c'], 'three', NOW, true);
  assert.deepEqual(await stepsOf(dir), [key(two.closure, one.closure)]);
});

test('a host that was removed takes no step, and keeps no pack', async (t) => {
  const dir = await opened(t);
  const one = await publishHosts(dir, ['a'], 'one', NOW);
  await reportRunning(dir, 'a', one.toplevel, NOW);
  const two = await publishHosts(dir, ['a'], 'two', NOW);
  assert.deepEqual(await keptPacks(dir.state, 1), {
    closures: [digestOf(two.closure)],
    bases: [digestOf(two.closure), digestOf(one.closure)],
  });
  await removeHost(dir, 'a', { now: NOW });
  assert.deepEqual(await stepsOf(dir), []);
  assert.deepEqual(await keptPacks(dir.state, 1), { closures: [], bases: [] });
});
