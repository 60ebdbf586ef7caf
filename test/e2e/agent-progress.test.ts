// A fetch that takes its time: the server is told how far it is, and nothing depends on what it says to that; a private host
// and one that was brought a bundle tell nobody.
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { after, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { readMemory } from '../../src/agent/memory.ts';
import { headOf } from '../../src/manifest/verify-offer.ts';
import { narBytesOf } from '../../src/nix/closure.ts';
import { bundleOf, membersOf } from '../helpers/host-bundle.ts';
import { type Setting, setting, waitFor } from '../helpers/hosts.ts';
import { buildFrom, buildSystem } from '../helpers/systems.ts';
import { temporaryDirectory } from '../helpers/temporary.ts';
import { HOST } from '../helpers/world.ts';

const top = await temporaryDirectory();
after(() => top[Symbol.asyncDispose]());
const one = await buildSystem(top.path, 'one');
const two = await buildSystem(top.path, 'two');

const NAR_MS = 300;

/** Has every NAR take a while, and answers what is told with `status`; returns what was told. */
function slowWorld({ world }: Setting, status: number): string[] {
  const told: string[] = [];
  world.misbehave = (path, response, request) => {
    if (path === `/v1/hosts/${HOST}/progress`) {
      request.setEncoding('utf8').on('data', (text: string) => void told.push(text));
      request.on('end', () => void response.writeHead(status).end());
      return true;
    }
    const nar = world.nars.get(path);
    if (nar === undefined) return false;
    void sleep(NAR_MS).then(() => response.end(nar));
    return true;
  };
  return told;
}

for (const status of [204, 404, 503]) {
  test(`the server is told, and says ${status}: the update is there`, async () => {
    await using s = await setting(one);
    const digest = s.world.publish(two);
    const told = slowWorld(s, status);
    const { error } = await s.host.once({ tellAfter: 50 });
    assert.equal(error, null);
    // After 50 ms, and then after twice as long.
    assert.ok(told.length > 0 && told.length < 8, `${told.length}`);
    const missing = two.infos.filter(({ path }) => !one.nars.has(path));
    for (const line of told) {
      const { manifest, paths, bytes } = JSON.parse(line);
      const totals = [digest, missing.length, narBytesOf(missing)];
      assert.deepEqual([manifest, paths.total, bytes.total], totals);
      assert.ok(paths.done <= paths.total && bytes.done <= bytes.total, line);
    }
  });
}

test('what came of a path is told before all of it is there', async () => {
  await using s = await setting(one, { patienceSeconds: 30 });
  const text = Buffer.from(randomBytes(1_500_000)).toString('base64');
  const large = await buildFrom(top.path, 'large', new Map([['share/large', text]]));
  s.world.publish(large);
  const told = slowWorld(s, 204);
  const isHalf = (line: string): boolean => {
    const { done, total } = JSON.parse(line).bytes;
    return done > 0.3 * total && done < 0.7 * total;
  };
  const { misbehave, nars } = s.world;
  s.world.misbehave = (path, response, request) => {
    const nar = nars.get(path);
    if (nar === undefined || nar.length < 1_000_000) return misbehave(path, response, request);
    response.write(nar.subarray(0, nar.length / 2));
    void waitFor(() => told.some(isHalf)).finally(() => response.end(nar.subarray(nar.length / 2)));
    return true;
  };
  await s.host.once({ tellAfter: 50 });
  const half = told.find(isHalf);
  assert.ok(half !== undefined, `${told}`);
  assert.notEqual(JSON.parse(half).secondsLeft, null);
});

test('a line that keeps silent then keeps no update away', async () => {
  await using s = await setting(one);
  s.world.publish(two);
  slowWorld(s, 204);
  const { misbehave } = s.world;
  s.world.misbehave = (path, ...rest) => path.endsWith('/progress') || misbehave(path, ...rest);
  assert.equal((await s.host.once({ tellAfter: 50 })).error, null);
});

test('a private host tells nobody', async () => {
  await using s = await setting(one, { privacy: true });
  s.world.publish(two);
  const told = slowWorld(s, 204);
  assert.equal((await s.host.once({ tellAfter: 1 })).error, null);
  assert.deepEqual(told, []);
});

test('nobody is told of what a bundle brings', async () => {
  await using s = await setting(one);
  const { world, host } = s;
  world.publish(two);
  const told = slowWorld(s, 204);
  const { size } = headOf((await readMemory(host.state)).trust.checkpoint ?? '');
  const bytes = await bundleOf(membersOf(world, two, size), size);
  const chunks = (async function* () {
    yield bytes;
  })();
  const { error } = await host.once({ bundle: { chunks, who: 'root' }, tellAfter: 1 });
  assert.equal(error, null);
  assert.deepEqual(told, []);
});

test('a short fetch is not told of', async () => {
  await using s = await setting(one);
  s.world.publish(two);
  const told = slowWorld(s, 204);
  assert.equal((await s.host.once()).error, null);
  assert.deepEqual(told, []);
});
