// Lines that break and machines that lose power in the middle of an update pack: what came is not asked for again.
import assert from 'node:assert/strict';
import { open, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { invalidPaths } from '../../src/nix/query.ts';
import { generateNixKey, signPath } from '../../src/nix/signature.ts';
import {
  buildEdited,
  closureDigest,
  draftPack,
  packOf,
  publishPacked,
} from '../helpers/drafted-packs.ts';
import {
  all,
  atRealTime,
  type Setting,
  setting,
  startOnce,
  systemsOf,
  type TestHost,
  waitFor,
} from '../helpers/hosts.ts';
import { temporaryDirectory } from '../helpers/temporary.ts';
import { sendPart, type World } from '../helpers/world.ts';

const systems = await temporaryDirectory();
after(() => systems[Symbol.asyncDispose]());
const SIZES = { trees: 6, bytes: 100_000, fresh: 300_000 };
const one = await buildEdited(systems.path, 'first', SIZES);
const two = await buildEdited(systems.path, 'second', SIZES);
const news = two.infos.filter(({ path }) => !one.infos.some((info) => info.path === path));

/** Sends packs only so far, by `bytesOf` the how-manieth answer; then the line is `cut`, or silent. */
function interrupt(world: World, bytesOf: (asked: number) => number, then: 'cut' | 'silent') {
  const ranges: (string | undefined)[] = [];
  world.misbehave = (path, response, request) => {
    const pack = world.packs.get(request.url ?? '');
    if (!path.startsWith('/v1/packs/') || pack === undefined) return false;
    ranges.push(request.headers.range);
    const most = bytesOf(ranges.length);
    const end = response.end.bind(response) as (chunk: Buffer) => void;
    response.end = ((chunk?: Buffer) => {
      if (chunk === undefined || chunk.length <= most) return end(chunk ?? Buffer.alloc(0));
      response.write(chunk.subarray(0, most), () => {
        if (then === 'cut') setTimeout(() => response.destroy(), 100);
      });
    }) as typeof response.end;
    sendPart(request, response, pack);
    return true;
  };
  return ranges;
}

const startsOf = (ranges: readonly (string | undefined)[]): number[] =>
  ranges.map((range) => Number(/^bytes=(\d+)-/.exec(range ?? 'bytes=0-')?.[1]));

test('a line that breaks again and again: what came is not asked for again', async () => {
  await using s = await setting(one);
  const { world, host } = s;
  const pack = await publishPacked(world, two, one);
  assert.ok(pack.length > 6 * 300_000);
  const ranges = interrupt(world, () => 70_000 + Math.floor(Math.random() * 400_000), 'cut');
  const { error, fetched } = await host.once();
  assert.equal(error, null);
  assert.deepEqual(await systemsOf(host), all(two));
  assert.equal(fetched?.fellBack, 0);
  assert.equal(fetched?.packed.bytes, pack.length);
  const starts = startsOf(ranges);
  // On a machine that has much else to do, an answer may be cut before any of it was read: that is asked for once more.
  assert.ok(new Set(starts).size >= 4 && starts.length <= new Set(starts).size + 2, `${starts}`);
  assert.deepEqual(
    starts,
    starts.toSorted((a, b) => a - b),
  );
});

test('a line that brings next to nothing is given up, and NARs are taken', async () => {
  await using s = await setting(one);
  const { world, host } = s;
  await publishPacked(world, two, one);
  const ranges = interrupt(world, () => 5000, 'cut');
  const { fetched } = await host.once();
  assert.deepEqual(await systemsOf(host), all(two));
  assert.ok(ranges.length <= 6, `${ranges.length}`);
  assert.ok((fetched?.fellBack ?? 0) > 0);
});

/** Kills the agent once `share` of the pack came; returns how much that is. */
async function killAt(s: Setting, pack: Buffer, share: number): Promise<number> {
  const { world, host } = s;
  interrupt(world, () => Math.floor(pack.length * share), 'silent');
  const { child, done } = startOnce(host);
  await waitFor(async () => (await sizeOf(host)) >= pack.length * share - 1, 20_000);
  child.kill('SIGKILL');
  await done;
  world.misbehave = () => false;
  return Math.floor(pack.length * share);
}

async function sizeOf({ state }: TestHost): Promise<number> {
  const found = await stat(join(state, 'pack/body')).catch(() => null);
  return found?.size ?? 0;
}

test('kill -9 in the middle of fetching: the next run asks for the rest alone', async () => {
  await using s = await atRealTime(one, { patienceSeconds: 60 });
  const { world, host } = s;
  const pack = await publishPacked(world, two, one);
  const came = await killAt(s, pack, 0.4);
  const ranges = interrupt(world, () => pack.length, 'cut');
  const { error, fetched } = await host.once();
  assert.equal(error, null);
  assert.deepEqual(await systemsOf(host), all(two));
  assert.deepEqual(startsOf(ranges), [came]);
  assert.equal(fetched?.packed.bytes, pack.length - came);
  assert.equal(fetched?.fellBack, 0);
});

test('kill -9 in the middle of applying: nothing that Nix has is made again', async () => {
  await using s = await atRealTime(one, { bandwidth: 500_000 });
  const { world, host } = s;
  const pack = await publishPacked(world, two, one);
  const { child, done } = startOnce(host);
  const paths = news.map(({ path }) => path);
  const validOnes = async (): Promise<number> =>
    paths.length - (await invalidPaths(paths, { root: host.root })).length;
  await waitFor(async () => (await validOnes()) >= 2, 5000);
  child.kill('SIGKILL');
  await done;
  const valid = await validOnes();
  const came = await sizeOf(host);
  const ranges = interrupt(world, () => pack.length, 'cut');
  const { fetched } = await host.once();
  assert.deepEqual(await systemsOf(host), all(two));
  if (came < pack.length) assert.ok((startsOf(ranges)[0] ?? 0) >= came, `${ranges} of ${came}`);
  assert.deepEqual([fetched?.paths, fetched?.fellBack], [paths.length - valid, 0]);
});

test('a power cut that loses what was written last: that comes again', async () => {
  await using s = await atRealTime(one, { patienceSeconds: 60 });
  const { world, host } = s;
  const pack = await publishPacked(world, two, one);
  const came = await killAt(s, pack, 0.6);
  await using body = await open(join(host.state, 'pack/body'), 'r+');
  await body.write(Buffer.alloc(4096), 0, 4096, came - 4096);
  const { fetched } = await host.once();
  assert.deepEqual(await systemsOf(host), all(two));
  assert.equal(fetched?.fellBack, 0);
  const bytes = fetched?.packed.bytes ?? 0;
  assert.ok(bytes > pack.length - came && bytes < 0.8 * pack.length, `${bytes}`);
});

test('a power cut that loses something in the middle', async () => {
  await using s = await atRealTime(one, { patienceSeconds: 60 });
  const { world, host } = s;
  const pack = await publishPacked(world, two, one);
  const came = await killAt(s, pack, 0.9);
  await using body = await open(join(host.state, 'pack/body'), 'r+');
  for (const share of [0.2, 0.5]) {
    await body.write(Buffer.alloc(4096), 0, 4096, Math.floor(came * share));
  }
  const { fetched } = await host.once();
  assert.deepEqual(await systemsOf(host), all(two));
  assert.equal(fetched?.fellBack, 0);
});

test('another pack in its place: it begins anew, and mixes nothing', async () => {
  await using s = await atRealTime(one, { patienceSeconds: 60 });
  const { world, host } = s;
  const pack = await publishPacked(world, two, one);
  await killAt(s, pack, 0.5);
  const draft = await draftPack(world, two, one);
  const more = generateNixKey('other-1');
  draft.paths = draft.paths.map((path) => ({
    ...path,
    sigs: [...path.sigs, signPath(path.info, more)],
  }));
  const other = packOf(draft, two);
  world.packs.set(`/v1/packs/${closureDigest(two)}?base=${closureDigest(one)}`, other);
  const { fetched } = await host.once();
  assert.deepEqual(await systemsOf(host), all(two));
  assert.equal(fetched?.fellBack, 0);
  assert.ok((fetched?.packed.bytes ?? 0) > 0.5 * other.length);
});

test('what is left of another step is removed', async () => {
  await using s = await atRealTime(one, { patienceSeconds: 60 });
  const { world, host } = s;
  const pack = await publishPacked(world, two, one);
  await killAt(s, pack, 0.5);
  const three = await buildEdited(systems.path, 'thirds', SIZES);
  const next = await publishPacked(world, three, one);
  const { fetched } = await host.once();
  assert.deepEqual(await systemsOf(host), all(three));
  assert.equal(fetched?.packed.bytes, next.length);
  await assert.rejects(stat(join(host.state, 'pack')), { code: 'ENOENT' });
});

test('a damaged note of what is there is none', async () => {
  await using s = await atRealTime(one, { patienceSeconds: 60 });
  const { world, host } = s;
  const pack = await publishPacked(world, two, one);
  await killAt(s, pack, 0.5);
  await writeFile(join(host.state, 'pack/about.json'), '{');
  const { fetched } = await host.once();
  assert.deepEqual(await systemsOf(host), all(two));
  assert.equal(fetched?.packed.bytes, pack.length);
});
