// An update by an update pack, as a host does it with the real Nix: few requests, few bytes, the right system; when none is asked
// for, what is asked for depends on, and how long one is waited for.
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { agentStatus } from '../../src/agent/status.ts';
import {
  buildEdited,
  closureDigest,
  draftPack,
  packOf,
  packPath,
  publishPacked,
} from '../helpers/drafted-packs.ts';
import { all, setting, systemsOf, waitFor } from '../helpers/hosts.ts';
import { temporaryDirectory } from '../helpers/temporary.ts';
import type { Misbehaviour } from '../helpers/world.ts';

const systems = await temporaryDirectory();
after(() => systems[Symbol.asyncDispose]());
const one = await buildEdited(systems.path, 'first');
const two = await buildEdited(systems.path, 'second');
/** What `two` has and `one` has not. */
const news = two.infos.filter(({ path }) => !one.infos.some((info) => info.path === path));

const packsIn = (requests: readonly string[]): string[] =>
  requests.filter((line) => line.startsWith('GET /v1/packs/'));
const narsIn = (requests: readonly string[]): string[] =>
  requests.filter((line) => line.startsWith('GET /nar/'));

test('an update is one pack: at most six requests, and bytes of what changed', async () => {
  await using s = await setting(one);
  const { world, host } = s;
  const pack = await publishPacked(world, two, one);
  world.requests.length = 0;
  const { error, fetched } = await host.once();
  assert.equal(error, null);
  assert.deepEqual(await systemsOf(host), all(two));
  const { length: paths } = news;
  const packed = { paths, bytes: pack.length };
  assert.deepEqual(fetched, { paths, bytes: pack.length, packed, fellBack: 0 });
  assert.ok(pack.length < 50_000, `${pack.length}`);
  assert.ok(world.requests.length <= 6, world.requests.join('\n'));
  assert.deepEqual(packsIn(world.requests), [
    `GET /v1/packs/${closureDigest(two)}?base=${closureDigest(one)}`,
  ]);
  assert.ok(!existsSync(join(host.state, 'pack')));
});

test('the base is what was confirmed last, also when another system was tried since', async () => {
  await using s = await setting(one);
  const { world, host } = s;
  await writeFile(join(host.root, 'run/exit-check-system-edited'), '1\n');
  await publishPacked(world, two, one);
  assert.equal((await host.once()).outcome?.phase, 'preflight-failed');
  await writeFile(join(host.root, 'run/exit-check-system-edited'), '0\n');
  const three = await buildEdited(systems.path, 'third3');
  await publishPacked(world, three, one);
  world.requests.length = 0;
  assert.equal((await host.once()).error, null);
  assert.deepEqual(await systemsOf(host), all(three));
  assert.deepEqual(packsIn(world.requests), [
    `GET /v1/packs/${closureDigest(three)}?base=${closureDigest(one)}`,
  ]);
});

test('a host that has nothing asks for a pack without a base, and takes whole NARs in any order', async () => {
  await using s = await setting(null);
  const { world, host } = s;
  const pack = await publishPacked(world, two, null);
  const { error, fetched } = await host.once();
  assert.equal(error, null);
  assert.deepEqual(await systemsOf(host), all(two));
  assert.deepEqual(packsIn(world.requests), [`GET /v1/packs/${closureDigest(two)}`]);
  assert.equal(fetched?.packed.paths, two.infos.length);
  assert.equal(fetched?.bytes, pack.length);
  assert.deepEqual(narsIn(world.requests), []);
});

test('a private host names no base', async () => {
  await using s = await setting(one, { privacy: true });
  const { world, host } = s;
  await publishPacked(world, two, one);
  await publishPacked(world, two, null);
  world.requests.length = 0;
  assert.equal((await host.once()).error, null);
  assert.deepEqual(packsIn(world.requests), [`GET /v1/packs/${closureDigest(two)}`]);
  assert.ok(!world.requests.some((line) => line.includes(closureDigest(one))));
});

test('without deltas all comes as NARs, and nobody asks for a pack', async () => {
  await using s = await setting(one, { deltas: false });
  const { world, host } = s;
  await publishPacked(world, two, one);
  world.requests.length = 0;
  const { fetched } = await host.once();
  assert.deepEqual(await systemsOf(host), all(two));
  assert.deepEqual(packsIn(world.requests), []);
  assert.deepEqual(fetched?.packed, { paths: 0, bytes: 0 });
  assert.equal(narsIn(world.requests).length, news.length);
});

test('a server without packs: NARs, counted', async () => {
  await using s = await setting(one);
  const { world, host } = s;
  world.publish(two);
  const { fetched } = await host.once();
  assert.deepEqual(await systemsOf(host), all(two));
  assert.equal(fetched?.fellBack, news.length);
  assert.equal(packsIn(world.requests).length, 2);
});

test('old paths that are not there any more come as NARs', async () => {
  await using s = await setting(one);
  const { world, host } = s;
  const gone = two.infos.find(({ path }) => path.endsWith('-tree-3'))?.path;
  await publishPacked(world, two, one, (draft) => {
    draft.paths = draft.paths.map((path) => {
      if (path.info.path !== gone || path.kind === 'whole') return path;
      const old = `/nix/store/${'0'.repeat(32)}-tree-3` as typeof path.old;
      return { ...path, old };
    });
  });
  const { fetched } = await host.once();
  assert.deepEqual(await systemsOf(host), all(two));
  assert.equal(fetched?.packed.paths, news.length - 1);
});

test('what would take too much memory comes as NARs', async () => {
  await using s = await setting(one, { memoryMiB: 16 });
  const { world, host } = s;
  await publishPacked(world, two, one, (draft) => {
    for (const segment of draft.segments.slice(0, 2)) segment.memory = 17 * 2 ** 20;
  });
  const { fetched } = await host.once();
  assert.deepEqual(await systemsOf(host), all(two));
  assert.equal(fetched?.packed.paths, news.length - 2);
  assert.equal(narsIn(world.requests).length - one.infos.length, 2);
});

/** Says that it is being made, until `ready`. */
function making(retryAfter: number, ready: (asked: number) => boolean): Misbehaviour {
  let asked = 0;
  return (path, response) => {
    if (!path.startsWith('/v1/packs/') || ready(++asked)) return false;
    response.writeHead(404, { 'retry-after': String(retryAfter) }).end('{}');
    return true;
  };
}

test('a pack that is being made is waited for', async () => {
  await using s = await setting(one);
  const { world, host } = s;
  await publishPacked(world, two, one);
  world.misbehave = making(1, (asked) => asked === 3);
  world.requests.length = 0;
  const start = performance.now();
  const { fetched } = await host.once();
  assert.equal(fetched?.packed.paths, news.length);
  assert.equal(packsIn(world.requests).length, 3);
  assert.ok(performance.now() - start > 2000);
});

test('and no longer than the host wants to', async () => {
  await using s = await setting(one, { packWaitSeconds: 1 });
  const { world, host } = s;
  await publishPacked(world, two, one);
  world.misbehave = making(3600, () => false);
  world.requests.length = 0;
  const { fetched } = await host.once();
  assert.deepEqual(await systemsOf(host), all(two));
  assert.equal(packsIn(world.requests).length, 2);
  assert.equal(fetched?.fellBack, news.length);
});

test('bandwidth holds for packs and for NARs, and status tells how far it is', async () => {
  for (const deltas of [true, false]) {
    await using s = await setting(null, { deltas });
    const { world, host } = s;
    const config = JSON.parse(await readFile(join(host.state, 'agent.json'), 'utf8')) as object;
    const slow = JSON.stringify({ ...config, bandwidth: 500_000 });
    await writeFile(join(host.state, 'agent.json'), slow);
    const pack = packOf(await draftPack(world, two, null), two);
    world.packs.set(packPath({ closure: closureDigest(two), base: null }), pack);
    world.publish(two);
    const start = performance.now();
    const running = host.once();
    await waitFor(async () => (await agentStatus(host.state)).fetching !== null);
    const fetching = (await agentStatus(host.state)).fetching;
    assert.equal(fetching?.toplevel, two.toplevel);
    assert.equal(fetching?.paths.total, two.infos.length);
    assert.equal(fetching?.line !== null, deltas);
    const size = deltas ? pack.length : 1;
    assert.ok((fetching?.line?.total ?? 1) <= size, `${fetching?.line?.total} of ${size}`);
    const { fetched } = await running;
    const seconds = (performance.now() - start) / 1000;
    assert.equal((fetched?.packed.paths ?? 0) > 0, deltas);
    assert.ok(seconds > (fetched?.bytes ?? 0) / 500_000 - 0.2, `${seconds} s`);
    assert.equal((await agentStatus(host.state)).fetching, null);
  }
});
