// fleet diff: what a step costs, by NARs and by pack, and of whom it cannot be said.
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import type { PathInfo } from '../../src/nix/closure.ts';
import { hashPartOf } from '../../src/nix/storepath.ts';
import { removeHost } from '../../src/server/remove-host.ts';
import type { StateDir } from '../../src/server/statedir.ts';
import { stepCost } from '../../src/server/step-cost.ts';
import { fleet, fleetOk } from '../helpers/cli.ts';
import { digestOf, made, packing } from '../helpers/packs.ts';
import { storePath } from '../helpers/paths.ts';
import { reportRunning } from '../helpers/reports.ts';
import { hex, stored } from '../helpers/rows.ts';
import { addPath, makeState, publishSystem } from '../helpers/state.ts';
import { temporaryDir } from '../helpers/temporary.ts';

const NOW = Math.floor(Date.now() / 1000);
const noise = (seed: string, count: number): Buffer =>
  Buffer.concat(Array.from({ length: count }, (_, i) => Buffer.from(hex(`${seed} ${i}`), 'hex')));

async function opened(t: TestContext): Promise<{ dir: StateDir; on: string[] }> {
  const top = await temporaryDir(t);
  const dir = await makeState(top, NOW);
  t.after(() => dir[Symbol.asyncDispose]());
  return { dir, on: ['--state', join(top, 'state')] };
}

async function systemOf(dir: StateDir, version: string): Promise<PathInfo[]> {
  const big = await addPath(
    dir,
    `big-${version}`,
    Buffer.concat([noise('big', 2000), Buffer.from(version)]),
  );
  const same = await addPath(dir, 'same-1.0', Buffer.from('same'));
  const tool = await addPath(
    dir,
    'tool-3',
    Buffer.concat([noise('tool', 99), Buffer.from(big.path.slice(0, 43))]),
    [big.path],
  );
  const top = await addPath(
    dir,
    'system',
    Buffer.from(`${version}`),
    [big, same, tool].map(({ path }) => path),
  );
  return [big, same, tool, top];
}

async function blobBytes({ state }: StateDir, infos: readonly PathInfo[]): Promise<number> {
  let bytes = 0;
  for (const { path } of infos) {
    const row = await state.cachedPath(hashPartOf(path));
    if (row !== null) bytes += stored(row).blobSize;
  }
  return bytes;
}

test('a step costs its new NARs, or its pack, in all and by package', async (t) => {
  const { dir, on } = await opened(t);
  const one = await systemOf(dir, '1.0');
  const two = await systemOf(dir, '2.0');
  await publishSystem(dir, ['a'], one, NOW);
  const first = await stepCost(dir, 'a', NOW);
  assert.deepEqual([first.running, first.from, first.pack], [null, null, null]);
  assert.deepEqual(first.nars, { paths: 4, bytes: await blobBytes(dir, one) });
  assert.match(
    await fleetOk(['diff', 'a', ...on]),
    /has not said what it runs; next is #1 .*all of it is fetched/,
  );

  await reportRunning(dir, 'a', one.at(-1)?.path ?? null, NOW);
  assert.match(await fleetOk(['diff', 'a', ...on]), /^a runs #1 .*: nothing to fetch\.$/m);
  const none = await stepCost(dir, 'a', NOW);
  assert.deepEqual([none.nars, none.packages, none.pack], [{ paths: 0, bytes: 0 }, [], null]);

  await publishSystem(dir, ['a'], two, NOW, true);
  const waiting = await stepCost(dir, 'a', NOW);
  assert.deepEqual([waiting.to.sequence, waiting.to.published], [2, false]);
  assert.match(
    await fleetOk(['diff', 'a', ...on]),
    /\(waits to be published\).*made once it is published/s,
  );

  await publishSystem(dir, ['a'], two, NOW);
  const before = await stepCost(dir, 'a', NOW);
  const fresh = two.filter(({ path }) => !one.some((old) => old.path === path));
  assert.equal(fresh.length, 3);
  assert.deepEqual(before.nars, { paths: 3, bytes: await blobBytes(dir, fresh) });
  assert.equal(before.pack, null);
  assert.deepEqual(before.from, { toplevel: one.at(-1)?.path, closure: digestOf(one) });
  assert.equal(before.to.closure, digestOf(two));
  assert.match(await fleetOk(['diff', 'a', ...on]), /by pack +- +not made yet/);

  await using making = packing(dir, NOW);
  const pack = await made(making, two, one);
  const after = await stepCost(dir, 'a', NOW);
  const bytes = pack.parts.reduce((sum, { size }) => sum + size, 0);
  assert.equal(after.pack?.bytes, bytes);
  assert.ok(bytes < before.nars.bytes / 10);
  assert.deepEqual(
    [after.pack?.copied, (after.pack?.patched ?? 0) + (after.pack?.whole ?? 0)],
    [1, 2],
  );
  const byName = new Map(after.packages.map((one) => [one.name, one]));
  assert.deepEqual([...byName.keys()].sort(), ['big', 'system', 'tool']);
  assert.deepEqual([byName.get('big')?.before, byName.get('big')?.after], [['1.0'], ['2.0']]);
  assert.equal(byName.get('tool')?.packBytes, 0);
  const parts = after.packages.reduce((sum, { packBytes }) => sum + (packBytes ?? 0), 0);
  assert.equal(parts, bytes - (after.pack?.indexBytes ?? 0));
  assert.equal(
    after.packages.reduce((sum, { narBytes }) => sum + narBytes, 0),
    after.nars.bytes,
  );
  const json = JSON.parse(await fleetOk(['diff', 'a', '--json', ...on]));
  assert.deepEqual(json, { version: 1, ...JSON.parse(JSON.stringify(after)) });
  assert.match(
    await fleetOk(['diff', 'a', ...on]),
    /1 renamed, 2 patched, 0 whole.*big +1\.0 +2\.0.*and 1 package with no new bytes/s,
  );
});

test('what is left to upstreams is told apart', async (t) => {
  const { dir } = await opened(t);
  const closure = await systemOf(dir, '1.0');
  const [big] = closure as [PathInfo];
  const row = stored((await dir.state.cachedPath(hashPartOf(big.path))) as never);
  const upstream = { url: 'https://cache.example.org/nar/x', fileHash: null, fileSize: 77 };
  const left = { ...row, compression: 'xz' as const, blob: null, blobSize: null, upstream };
  await dir.state.addCachedPaths([left], NOW);
  await publishSystem(dir, ['a'], closure, NOW);
  const { nars, upstream: cost } = await stepCost(dir, 'a', NOW);
  assert.deepEqual([nars.paths, cost], [3, { paths: 1, bytes: 77 }]);
});

test('a system that no manifest named is nothing to build on', async (t) => {
  const { dir, on } = await opened(t);
  await publishSystem(dir, ['a'], await systemOf(dir, '1.0'), NOW);
  await reportRunning(dir, 'a', storePath('by hand'), NOW);
  const cost = await stepCost(dir, 'a', NOW);
  assert.deepEqual([cost.running, cost.from], [storePath('by hand'), null]);
  assert.match(await fleetOk(['diff', 'a', ...on]), /which no manifest ever named/);
});

test('of whom it cannot be said is refused, each for its reason', async (t) => {
  const { dir, on } = await opened(t);
  const refused = async (host: string): Promise<string> => {
    const { code, stdout } = await fleet(['diff', host, '--json', ...on]);
    assert.equal(code, 1);
    return JSON.parse(stdout).error.code;
  };
  assert.equal(await refused('nobody'), 'E_HOST_UNKNOWN');
  await dir.state.invite({ secretHash: hex('x'), host: 'invited', expiresAt: NOW + 9 });
  assert.equal(await refused('invited'), 'E_NO_MANIFEST');
  const closure = await systemOf(dir, '1.0');
  await publishSystem(dir, ['a', 'b'], closure, NOW);
  await removeHost(dir, 'b', { now: NOW });
  assert.equal(await refused('b'), 'E_DECOMMISSIONED');
  await dir.blobs.delete(digestOf(closure));
  assert.equal(await refused('a'), 'E_CACHE_INCOMPLETE');
  assert.equal((await fleet(['diff', ...on])).code, 2);
});
