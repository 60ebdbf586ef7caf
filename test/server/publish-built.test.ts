// What was built is published only while all of it can be served, and what hosts are told to run stays rooted.
import assert from 'node:assert/strict';
import { mkdir, readdir, readlink, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { after, type TestContext, test } from 'node:test';
import { DEFAULT_ACTIVATION } from '../../src/manifest/activation.ts';
import { type BuiltHost, storeClosure } from '../../src/manifest/publish.ts';
import type { PathInfo } from '../../src/nix/closure.ts';
import { parseStorePath, type StorePath } from '../../src/nix/storepath.ts';
import { openGcRoots } from '../../src/server/gcroots.ts';
import { publishPending } from '../../src/server/pending.ts';
import { publishBuilt } from '../../src/server/publish-built.ts';
import { openScratch, refused, register } from '../helpers/nix-scratch.ts';
import { addPath, makeState, publishHosts } from '../helpers/state.ts';
import { temporaryDir } from '../helpers/temporary.ts';

const scratch = await openScratch();
after(() => scratch[Symbol.asyncDispose]());

const NOW = Math.floor(Date.now() / 1000);
const OPTIONS = { noPublish: false, named: false };

function builtOf(host: string, toplevel: StorePath): BuiltHost {
  return {
    ...{ host, system: 'x86_64-linux', toplevel, activation: DEFAULT_ACTIVATION },
    provenance: {
      ...{ flakeRef: 'path:/flake', rev: null, flakeNarHash: null, lockSha256: null },
      attribute: `nixosConfigurations.${host}`,
      drvPath: parseStorePath(`/nix/store/${'0'.repeat(32)}-system.drv`),
      builder: { id: 'box', nixVersion: '2.8.0', system: 'x86_64-linux' },
    },
  };
}

async function world(t: TestContext) {
  const dir = await makeState(await temporaryDir(t), NOW);
  t.after(() => dir[Symbol.asyncDispose]());
  const library = await addPath(dir, 'library', Buffer.from('library'));
  const prepare = async (host: string, text: string) => {
    const system = await addPath(dir, `system-${host}`, Buffer.from(text), [library.path]);
    const closure: readonly PathInfo[] = [library, system];
    const built = builtOf(host, system.path);
    return { host, built, stored: await storeClosure(built, closure, dir.blobs, dir.root.limits) };
  };
  return { dir, library, prepare };
}

const lost = refused('E_CACHE_INCOMPLETE', /1 damaged paths were taken out/);

test('what is taken out of service while a build is published is not told to any host', async (t) => {
  const { dir, library, prepare } = await world(t);
  const one = await prepare('lantern', 'one');
  const meanwhile = {
    keep: async () => {
      await dir.state.dropPath(library.path, NOW);
      return new Set<StorePath>();
    },
  };
  await assert.rejects(publishBuilt(dir, [one], meanwhile, OPTIONS), lost);
  assert.equal(await dir.state.currentManifest('lantern'), null);
  // Stored anew, it is published.
  await addPath(dir, 'library', Buffer.from('library'));
  const still = { keep: async () => new Set<StorePath>() };
  const [result] = await publishBuilt(dir, [one], still, OPTIONS);
  assert.equal(result?.error, null);
  assert.equal((await dir.state.currentManifest('lantern'))?.toplevel, one.built.toplevel);
});

test('what is taken out of service while what waits is published is not told to any host', async (t) => {
  const { dir } = await world(t);
  const { closure } = await publishHosts(dir, ['lantern'], 'one', NOW, true);
  const [library] = closure;
  assert.ok(library !== undefined);
  const state = {
    ...dir.state,
    stageEntries: async (...args: Parameters<typeof dir.state.stageEntries>) => {
      await dir.state.dropPath(library.path, NOW);
      // What is not there cannot be taken out.
      await dir.state.dropPath(library.path, NOW);
      await dir.state.stageEntries(...args);
    },
  };
  const request = { approvals: [], now: NOW };
  await assert.rejects(publishPending({ ...dir, state }, request), lost);
  assert.equal(await dir.state.currentManifest('lantern'), null);
  // Nothing is lost but the path: it waits, and says what is missing.
  const [waits] = await publishPending(dir, request);
  assert.match(waits?.error?.message ?? '', /lacks .*-library/);
  await addPath(dir, 'library', Buffer.from('the same for all'));
  const [done] = await publishPending(dir, request);
  assert.equal(done?.error, null);
});

test('a host that is held is passed over, also where the hold came while it was built, or what waits was made before', async (t) => {
  const { dir, prepare } = await world(t);
  const hosts = [await prepare('lantern', 'one'), await prepare('gateway', 'two')];
  await publishHosts(dir, ['lantern'], 'waits', NOW, true);
  await dir.state.holdHost('lantern', { at: NOW, reason: 'the show is on' });
  const still = { keep: async () => new Set<StorePath>() };
  const results = await publishBuilt(dir, hosts, still, OPTIONS);
  assert.deepEqual(
    results.map((one) => (one.error === null ? one.change : one.error.code)),
    ['E_HOST_HELD', 'new'],
  );
  const [waits] = await publishPending(dir, { approvals: [], now: NOW });
  assert.equal(waits?.error?.code, 'E_HOST_HELD');
  assert.equal(await dir.state.currentManifest('lantern'), null);
  await dir.state.holdHost('lantern', null);
  const [done] = await publishPending(dir, { approvals: [], now: NOW });
  assert.equal(done?.error, null);
});

test('what hosts are told to run is rooted again where the links went, and only there', async (t) => {
  const { dir, library, prepare } = await world(t);
  const root = await scratch.directory();
  const hosts = [await prepare('lantern', 'one'), await prepare('gateway', 'two')];
  await register(root, library.path, 'library', []);
  for (const { built } of hosts) {
    await register(root, built.toplevel, built.host, [library.path]);
  }
  const build = async (prepared: typeof hosts, options = OPTIONS) => {
    await using gcroots = await openGcRoots(dir.layout.gcroots, { root });
    const results = await publishBuilt(dir, prepared, gcroots, options);
    return results.map((one) => (one.error === null ? one.change : one.error.code));
  };
  const links = async () => {
    const names = await readdir(dir.layout.gcroots);
    const pairs = names.map(
      async (name) => [await readlink(join(dir.layout.gcroots, name)), name] as const,
    );
    return new Map(await Promise.all(pairs));
  };
  assert.deepEqual(await build(hosts), ['new', 'new']);
  const before = await links();
  assert.equal(before.size, 2);
  assert.deepEqual(await build(hosts), ['none', 'none']);
  assert.deepEqual(await links(), before);

  // As from a backup, with nothing in it.
  await rm(dir.layout.gcroots, { recursive: true });
  await mkdir(dir.layout.gcroots);
  assert.deepEqual(await build(hosts.slice(0, 1)), ['none']);
  const one = await links();
  assert.deepEqual([...one.keys()], [hosts[0]?.built.toplevel]);
  // The other one's, and a new one that only waits: once each, also the second time.
  const next = await prepare('lantern', 'three');
  await register(root, next.built.toplevel, 'three', [library.path]);
  const all = [next, ...hosts.slice(1)];
  const waits = { ...OPTIONS, noPublish: true };
  assert.deepEqual(await build(all, waits), ['system', 'none']);
  const made = await links();
  assert.deepEqual(
    [...made.keys()].sort(),
    [...hosts, next].map(({ built }) => built.toplevel).sort(),
  );
  await rm(join(dir.layout.gcroots, made.get(next.built.toplevel) ?? ''));
  assert.deepEqual(await build(all, waits), ['system', 'none']);
  assert.deepEqual([...(await links()).keys()].sort(), [...made.keys()].sort());
});
