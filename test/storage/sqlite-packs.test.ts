// Update packs in the state: kept by step, with their blobs in order; segments by key; what a collection removes.
import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import type { BlobId } from '../../src/storage/blobs.ts';
import type { KeptPack, MadeSegment } from '../../src/storage/packs.ts';
import {
  cachedPath,
  commitManifests,
  type EmptyState,
  emptyState,
  hex,
  manifest,
} from '../helpers/rows.ts';

const id = (seed: string): BlobId => hex(seed) as BlobId;
const ref = (seed: string) => ({ id: id(seed), size: 10 });
const patch = (seed: string): MadeSegment => ({ outcome: 'patch', blob: ref(seed), memory: 5 });

async function opened(t: TestContext, writer: 'inline' | 'thread' = 'inline'): Promise<EmptyState> {
  const empty = await emptyState(writer);
  t.after(() => empty[Symbol.asyncDispose]());
  return empty;
}

function pack(closure: string, base: string | null, parts: string[]): KeptPack {
  const step = { closure: id(closure), base: base === null ? null : id(base) };
  return { ...step, signers: 'a key', madeAt: 1000, parts: parts.map(ref) };
}

test('a pack is found by its step, with its blobs in order, and replaced as a whole', async (t) => {
  for (const writer of ['inline', 'thread'] as const) {
    const { state } = await opened(t, writer);
    const first = pack('new', 'old', ['index', 'z', 'a']);
    await state.addPack(first);
    await state.addPack(pack('new', null, ['whole']));
    assert.deepEqual(await state.pack(first), first);
    assert.deepEqual((await state.pack({ closure: id('new'), base: null }))?.parts, [ref('whole')]);
    assert.equal(await state.pack({ closure: id('old'), base: null }), null);
    assert.equal(await state.pack({ closure: id('new'), base: id('new') }), null);

    const second = { ...pack('new', 'old', ['another index', 'a']), signers: 'b' };
    await state.addPack(second);
    assert.deepEqual(await state.pack(first), second);
    await state.dropPack(first);
    await state.dropPack(first);
    assert.equal(await state.pack(first), null);
    assert.notEqual(await state.pack({ closure: id('new'), base: null }), null);
  }
});

test('segments are kept by key, also those without bytes', async (t) => {
  const { state } = await opened(t);
  const whole: MadeSegment = { outcome: 'whole', blob: ref('w'), memory: 7 };
  const all = new Map<string, MadeSegment>([
    [hex('1'), { outcome: 'copy' }],
    [hex('2'), { outcome: 'poor' }],
    [hex('3'), patch('p')],
    [hex('4'), whole],
  ]);
  for (const [key, made] of all) await state.addSegment(key, made, 1000);
  assert.deepEqual(await state.useSegments([...all.keys(), hex('5')], 1000), all);
  assert.deepEqual(await state.useSegments([hex('5')], 1000), new Map());
  // More than fit into one transaction.
  const many = Array.from({ length: 450 }, (_, i) => hex(`many ${i}`));
  assert.deepEqual(
    await state.useSegments([...many, hex('4')], 1000),
    new Map([[hex('4'), whole]]),
  );
});

test('blobs of packs and segments have a name', async (t) => {
  const { state } = await opened(t);
  await state.addSegment(hex('1'), patch('of a segment'), 1000);
  await state.addPack(pack('new', 'old', ['index', 'of a pack']));
  const names = ['index', 'of a pack', 'of a segment', 'of nobody'].map(id);
  assert.deepEqual(await state.namedBlobs(names), new Set(names.slice(0, 3)));
  await state.dropPack({ closure: id('new'), base: id('old') });
  assert.deepEqual(await state.namedBlobs(names), new Set([id('of a segment')]));
});

test('packs go whose closure or base is not kept, a few at a time', async (t) => {
  const { state } = await opened(t);
  const kept = [pack('new', 'old', ['1']), pack('new', null, ['2'])];
  const going = [
    pack('gone', 'old', ['3']),
    pack('new', 'gone', ['4']),
    pack('gone', null, ['5']),
    // A base alone: nobody is told to run it.
    pack('old', null, ['6']),
  ];
  for (const one of [...kept, ...going]) await state.addPack(one);
  const keep = { closures: [id('new')], bases: [id('old'), id('new')] };
  assert.equal(await state.sweepPacks(keep, 1000, 9), 0);
  assert.equal(await state.sweepPacks(keep, 1001, 3), 3);
  assert.equal(await state.sweepPacks(keep, 1001, 3), 1);
  assert.equal(await state.sweepPacks(keep, 1001, 3), 0);
  for (const one of kept) assert.deepEqual(await state.pack(one), one);
  for (const one of going) assert.equal(await state.pack(one), null);
  assert.equal((await state.namedBlobs([id('3'), id('6')])).size, 0);
});

test('segments go that no pack has and nothing used for long', async (t) => {
  const { state } = await opened(t);
  await state.addSegment(hex('in a pack'), patch('p'), 1000);
  await state.addSegment(hex('used'), patch('u'), 1000);
  await state.addSegment(hex('old'), patch('o'), 1000);
  await state.addSegment(hex('poor'), { outcome: 'poor' }, 1000);
  await state.addPack(pack('new', 'old', ['index', 'p']));
  await state.useSegments([hex('used')], 5000);
  // A clock that went back takes nothing away.
  await state.useSegments([hex('used')], 10);
  assert.equal(await state.sweepSegments(5000, 1), 1);
  assert.equal(await state.sweepSegments(5000, 10), 1);
  assert.equal(await state.sweepSegments(5000, 10), 0);
  const keys = ['in a pack', 'used', 'old', 'poor'].map(hex);
  assert.deepEqual(
    [...(await state.useSegments(keys, 5000)).keys()].sort(),
    keys.slice(0, 2).sort(),
  );
});

test('which closures are recent, and which a system has', async (t) => {
  const { state } = await opened(t);
  const { fence } = await state.recordLease(1, 1000);
  const all = [1, 2, 3].map((sequence) => manifest('a', 1, sequence));
  await state.addCachedPaths(
    ['a 1 1', 'a 1 2', 'a 1 3', 'b 1 1'].map((seed) => cachedPath(seed)),
    1000,
  );
  for (const one of all) await commitManifests(state, [one], fence, 1000);
  const recent = (seed: string, perHost: number) =>
    state.isRecentClosure(id(`closure of ${seed}`), perHost);
  assert.deepEqual(
    [await recent('a 1 3', 1), await recent('a 1 2', 1), await recent('a 1 2', 2)],
    [true, false, true],
  );
  assert.equal(await recent('a 1 4', 9), false);
  assert.deepEqual(await state.systemOf(id('closure of a 1 2')), {
    toplevel: all[1]?.toplevel,
    closureBytes: 100,
  });
  assert.equal(await state.systemOf(id('closure of a 1 4')), null);
  const again = { ...manifest('b', 1, 1), closure: id('another'), issuedAt: 3000 };
  await commitManifests(
    state,
    [{ ...again, toplevel: all[0]?.toplevel ?? again.toplevel }],
    fence,
    1000,
  );
  assert.deepEqual(await state.closuresOf(all[0]?.toplevel ?? again.toplevel), [
    id('another'),
    id('closure of a 1 1'),
  ]);
  assert.deepEqual(await state.closuresOf(again.toplevel), []);

  const end = { ...manifest('a', 1, 4), toplevel: null, closure: null, closureBytes: null };
  await commitManifests(state, [end], fence, 1000);
  // It was removed.
  assert.equal(await recent('a 1 3', 9), false);
});
