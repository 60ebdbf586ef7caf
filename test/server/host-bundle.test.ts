// A host's bundle, of a real state: equal states, equal bytes; how far the host has come and what it runs is taken from its last
// report, or said; what cannot be in it is refused, and no file is overwritten.
import assert from 'node:assert/strict';
import { readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { readBundle, writeMembers } from '../../src/bundle/tar.ts';
import { parseHostBundle } from '../../src/manifest/host-bundle.ts';
import { parseOffer } from '../../src/manifest/offer.ts';
import { headOf, verifyOfferedLog } from '../../src/manifest/verify-offer.ts';
import { type HostBundleOptions, makeHostBundle } from '../../src/server/host-bundle.ts';
import type { StateDir } from '../../src/server/statedir.ts';
import { parseBlobId } from '../../src/storage/blobs.ts';
import { fleet, fleetOk } from '../helpers/cli.ts';
import { makeState, publishHost, publishHosts } from '../helpers/state.ts';
import { temporaryDir } from '../helpers/temporary.ts';

const NOW = Math.floor(Date.now() / 1000);
const LIMITS = { fileBytes: 2 ** 20, totalBytes: 2 ** 24 };

async function stateOf(t: TestContext): Promise<{ dir: StateDir; top: string }> {
  const top = await temporaryDir(t);
  const dir = await makeState(top, NOW);
  t.after(() => dir[Symbol.asyncDispose]());
  return { dir, top: join(top, 'state') };
}

const make = (dir: StateDir, options: Partial<HostBundleOptions> = {}, host = 'alpha') =>
  makeHostBundle(dir, host, { from: null, base: 'reported', now: NOW, ...options });

async function bytesOf(dir: StateDir, options: Partial<HostBundleOptions> = {}): Promise<Buffer> {
  const { members } = await make(dir, options);
  return Buffer.concat(await Array.fromAsync(writeMembers(members)));
}

async function filesOf(bytes: Buffer): Promise<Map<string, Buffer>> {
  const files = await Array.fromAsync(readBundle([bytes], LIMITS));
  return new Map(files.map(({ name, data }) => [name, Buffer.from(data)]));
}

test('equal states, equal bytes; announced is what comes', async (t) => {
  const { dir } = await stateOf(t);
  await publishHosts(dir, ['alpha', 'beta'], 'one', NOW);
  const bytes = await bytesOf(dir);
  assert.deepEqual(await bytesOf(dir), bytes);
  const files = await filesOf(bytes);
  const [header, ...names] = files.keys();
  assert.equal(header, 'bundle.json');
  assert.deepEqual(
    names.map((name) => name.replace(/[0-9a-z]{32,64}/, '…')),
    [
      ...['root/1.root.json', 'offer.json', 'closure.fp'],
      ...['narinfo/….narinfo', 'narinfo/….narinfo', 'nar/….nar.zst', 'nar/….nar.zst'],
    ],
  );
  const {
    files: count,
    bytes: sum,
    ...said
  } = parseHostBundle(files.get('bundle.json') ?? Buffer.of());
  assert.deepEqual(said, { bundleVersion: 1, fleet: 'state.test', host: 'alpha', from: 0 });
  assert.equal(count, names.length);
  assert.equal(
    sum,
    names.reduce((total, name) => total + (files.get(name)?.length ?? 0), 0),
  );
  assert.deepEqual(parseOffer(files.get('offer.json') ?? '').roots, []);
});

test('it leads on from where it is told to, and its freshness is of now', async (t) => {
  const { dir } = await stateOf(t);
  await publishHost(dir, 'alpha', 'one', NOW);
  const seen = parseOffer((await filesOf(await bytesOf(dir))).get('offer.json') ?? '').checkpoint;
  const from = headOf(seen).size;
  await publishHost(dir, 'alpha', 'two', NOW);
  const later = NOW + dir.root.maxAge + 100;
  const offer = parseOffer(
    (await filesOf(await bytesOf(dir, { from, now: later }))).get('offer.json') ?? '',
  );
  const root = { root: dir.root, envelope: dir.roots.at(-1)?.envelope ?? '' };
  const { checkpoint, freshAt } = verifyOfferedLog(offer, root, seen, later);
  assert.ok(checkpoint.size > from);
  assert.equal(freshAt, later);
  await assert.rejects(make(dir, { from: 999 }), { code: 'E_USAGE' });
});

test('what a system of the host has is left out, where it is said or asked for', async (t) => {
  const { dir } = await stateOf(t);
  const { toplevel, closure } = await publishHost(dir, 'alpha', 'one', NOW);
  await publishHost(dir, 'alpha', 'two', NOW);
  const { paths, ofPaths, bases } = await make(dir, { base: toplevel });
  // The library is the same.
  assert.deepEqual([paths, ofPaths, bases], [1, 2, [toplevel]]);
  assert.equal((await make(dir)).paths, 2);
  const [library] = closure;
  await assert.rejects(make(dir, { base: library?.path ?? 'nothing' }), { code: 'E_USAGE' });
});

test('what is not there is not made up', async (t) => {
  const { dir } = await stateOf(t);
  await assert.rejects(make(dir), { code: 'E_HOST_UNKNOWN' });
  await publishHost(dir, 'alpha', 'one', NOW);
  const { members } = await make(dir);
  const nar = members.findLast(({ name }) => name.startsWith('nar/'))?.name ?? '';
  const blob = parseBlobId(nar.slice(4, 68));
  assert.ok(blob !== null);
  await dir.blobs.delete(blob);
  await assert.rejects(make(dir), { code: 'E_CACHE_INCOMPLETE' });
  // One that goes after it was looked for, and one that is cut.
  await assert.rejects(Array.fromAsync(writeMembers(members)), { code: 'E_CACHE_INCOMPLETE' });
});

test('as a command: it overwrites nothing, and leaves nothing of what failed', async (t) => {
  const { dir, top } = await stateOf(t);
  await publishHost(dir, 'alpha', 'one', NOW);
  const out = join(top, '../alpha.tar');
  const bundle = ['host', 'bundle', 'alpha', '--state', top, '--out', out];
  const said = JSON.parse(await fleetOk([...bundle, '--json']));
  assert.deepEqual([said.host, said.paths, said.ofPaths, said.from], ['alpha', 2, 2, 0]);
  const bytes = await readFile(out);
  assert.equal(bytes.length, said.bytes);
  const again = await fleet(bundle);
  assert.match(again.stderr, /exists already \[E_STATE_EXISTS\]/);
  assert.deepEqual(await readFile(out), bytes);
  await fleetOk([...bundle.slice(0, -1), `${out}.2`]);
  assert.deepEqual(await readFile(`${out}.2`), bytes);
  for (const [args, code] of [
    [['--from', '-1'], /E_USAGE/],
    [['--from', '1e3'], /E_USAGE/],
    [['--all', '--base', said.toplevel], /E_USAGE/],
  ] as const) {
    assert.match((await fleet([...bundle.slice(0, -1), `${out}.3`, ...args])).stderr, code);
  }
  const [nar = ''] = [...(await filesOf(bytes)).keys()].filter((name) => name.startsWith('nar/'));
  const hash = nar.slice(4, 68);
  const blobs = await readdir(top, { recursive: true });
  const file = blobs.find((name) => name.endsWith(hash) || name.replaceAll('/', '').endsWith(hash));
  const path = join(top, file ?? '');
  await writeFile(path, Buffer.alloc((await stat(path)).size + 1));
  assert.match((await fleet([...bundle.slice(0, -1), `${out}.3`])).stderr, /E_CACHE_INCOMPLETE/);
  assert.deepEqual((await readdir(join(top, '..'))).sort(), ['alpha.tar', 'alpha.tar.2', 'state']);
});
