// What the cache must keep, and the reasons that are told; and the box's own roots, released with it.
import assert from 'node:assert/strict';
import { lutimes, readdir, rm, stat, symlink } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { generateSecretKey } from '../../src/ed25519.ts';
import { publicKeyOfSecret } from '../../src/keyfile.ts';
import { type Receipt, signReceipt } from '../../src/manifest/receipt.ts';
import { collect } from '../../src/server/collect.ts';
import { openGcRoots } from '../../src/server/gcroots.ts';
import { publishPending } from '../../src/server/pending.ts';
import { retentionRoots } from '../../src/server/retention.ts';
import type { StateDir } from '../../src/server/statedir.ts';
import { acquireLease, tryLockFile } from '../../src/storage/lease.ts';
import { storePath } from '../helpers/paths.ts';
import { hex } from '../helpers/rows.ts';
import { makeState, publishHost, publishHosts } from '../helpers/state.ts';
import { temporaryDir } from '../helpers/temporary.ts';

const NOW = 1_800_000_000;

test('the newest manifests, what a host runs and boots, and pins, each with its reason', async (t) => {
  await using dir = await makeState(await temporaryDir(t), NOW);
  const { state } = dir;
  const tops = [];
  for (const text of ['one', 'two', 'three']) {
    tops.push((await publishHost(dir, 'lantern', text, NOW)).toplevel);
  }
  const [one, two, three] = tops;
  assert.ok(one && two && three);
  await state.addPin({ name: 'demo', path: one, createdAt: NOW });
  assert.deepEqual(await retentionRoots(state, 2), [
    { path: two, reason: 'manifest 1.2 of lantern' },
    { path: three, reason: 'manifest 1.3 of lantern' },
    { path: one, reason: 'pinned as demo' },
  ]);

  // Enrolled, and its last report says what it runs.
  const secret = generateSecretKey();
  await state.invite({ secretHash: hex('secret'), host: 'lantern', expiresAt: NOW + 100 });
  const key = { publicKey: publicKeyOfSecret(secret), tokenHash: hex('token'), now: NOW };
  assert.equal(await state.enrol({ secretHash: hex('secret'), ...key }), 'enrolled');
  const receipt: Receipt = {
    ...{ fleet: dir.root.fleet, host: 'lantern', counter: 1, previous: null, manifest: null },
    ...{
      checkpoint: null,
      conflict: null,
      phase: 'in-sync',
      reason: null,
      booted: storePath('booted'),
    },
    ...{ current: storePath('current'), profile: null, exitCode: null },
    ...{
      failedUnits: { added: [], removed: [] },
      who: 'policy',
      times: { started: NOW, finished: NOW },
    },
  };
  const { envelope, digest } = signReceipt(receipt, secret);
  const row = { host: 'lantern', counter: 1, digest, previous: null, receivedAt: NOW };
  assert.equal(await state.addReport({ ...row, envelope }), 'stored');
  const roots = await retentionRoots(state, 1);
  assert.deepEqual(
    roots.filter(({ reason }) => /report/.test(reason)),
    [
      { path: storePath('current'), reason: 'lantern runs it, by its last report' },
      { path: storePath('booted'), reason: 'lantern booted it, by its last report' },
    ],
  );
});

test('a receipt that cannot be read keeps nothing, and stops nothing', async () => {
  const life = { publicKey: null, enrolledAt: null, lastSeen: null };
  const record = {
    ...{ host: 'a', ...life, heldAt: null, heldReason: null },
    ...{ progress: null, progressAt: null },
  };
  const report = {
    host: 'a',
    counter: 1,
    digest: '',
    previous: null,
    receivedAt: 1,
    envelope: '{"x":1}',
  };
  const state = {
    recentManifests: async () => [],
    pendingManifests: async () => [],
    status: async () => [{ record, manifest: null, report, conflicts: [] }],
    pins: async () => [],
  };
  assert.deepEqual(await retentionRoots(state, 1), []);
});

test('links to systems that are retained no longer are released, and no others', async (t) => {
  await using dir = await makeState(await temporaryDir(t), NOW);
  const tops: string[] = [];
  for (const text of ['one', 'two', 'three']) {
    tops.push((await publishHost(dir, 'lantern', text, NOW)).toplevel);
  }
  const [one = '', two = '', three = ''] = tops;
  const { fence = 0 } = (await dir.state.leaseHolder()) ?? {};
  assert.ok(fence >= 3);
  const links = dir.layout.gcroots;
  const targets = new Map([
    ['systems.1.1', one],
    ['systems.2.1', two],
    ['systems.2.1-2', three],
    ['systems.2.2-17', three],
    // Of the last publication, which may not have been committed when it was looked up what is kept.
    [`systems.${fence}.1`, '/nix/store/x'],
    [`systems.${fence + 1}.1`, '/nix/store/x'],
    // As they were once.
    ['lantern-1-1', one],
    ['lantern-1-3', three],
    [`building-${process.pid}-x-1-1`, one],
    ['other', one],
  ]);
  for (const [name, target] of targets) await symlink(target, join(links, name));
  const config = { ...dir.config, keepManifests: 1, keepUnusedDays: 0 };
  await using gcroots = await openGcRoots(links);
  // A build of ours that is going on protects all that was stored since it began.
  assert.ok((await gcroots.oldestBuild()) <= Date.now() / 1000);
  const later = Math.floor(Date.now() / 1000) + 100;
  const done = await collect({ ...dir, config }, { dryRun: false, now: later });
  // Of several links to the same system one is left.
  const left = await readdir(links);
  const rest = left.filter((name) => !/^systems\.2\./.test(name)).sort();
  const recent = [`systems.${fence}.1`, `systems.${fence + 1}.1`];
  assert.deepEqual(rest, [`building-${process.pid}-x-1-1`, 'other', ...recent].sort());
  assert.deepEqual(
    left.filter((name) => /^systems\.2\./.test(name)).map((name) => targets.get(name)),
    [three],
  );
  assert.equal(done?.releasedLinks, 5);
  // Once another publication came, it is known what became of this one.
  await dir.state.recordLease(process.pid, NOW);
  const again = await collect({ ...dir, config }, { dryRun: false, now: later });
  assert.equal(again?.releasedLinks, 1);
  assert.ok(!(await readdir(links)).includes(`systems.${fence}.1`));
});

test('links of builds whose process is gone are removed, and ours with us', async (t) => {
  const links = await temporaryDir(t);
  await symlink('/nix/store/x', join(links, 'building-999999999-lantern'));
  await symlink('/nix/store/x', join(links, 'systems.1.1'));
  const gcroots = await openGcRoots(links);
  assert.deepEqual(await readdir(links), ['systems.1.1']);
  for (const host of ['lantern', 'gateway']) {
    await gcroots.building(host, (link) => symlink('/nix/store/x', link));
  }
  assert.equal((await readdir(links)).length, 3);
  await gcroots[Symbol.asyncDispose]();
  assert.deepEqual(await readdir(links), ['systems.1.1']);
});

test('a file that nothing names yet stays while a build goes on that began before it', async (t) => {
  await using dir = await makeState(await temporaryDir(t), NOW);
  const { id } = await dir.blobs.put([Buffer.from('a closure file of a host that was built')]);
  const file = join(dir.layout.blobs, id.slice(0, 2), id.slice(2));
  const daysLater = Math.floor(Date.now() / 1000) + 3 * 86_400;
  {
    await using gcroots = await openGcRoots(dir.layout.gcroots);
    await gcroots.building('lantern', (link) => symlink('/nix/store/x', link));
    const before = new Date(Date.now() - 10_000);
    await lutimes(join(dir.layout.gcroots, `building-${process.pid}-lantern`), before, before);
    await collect(dir, { dryRun: false, now: daysLater });
    assert.ok((await stat(file)).isFile());
  }
  await collect(dir, { dryRun: false, now: daysLater });
  await assert.rejects(stat(file));
});

test('one collection at a time', async (t) => {
  await using dir = await makeState(await temporaryDir(t), NOW);
  const { spawnSync } = await import('node:child_process');
  const lock = tryLockFile(dir.layout.gcLock);
  assert.ok(lock !== null);
  const source = `import { tryLockFile } from ${JSON.stringify(join(process.cwd(), 'src/storage/lease.ts'))};
    process.exit(tryLockFile(${JSON.stringify(dir.layout.gcLock)}) === null ? 7 : 0);`;
  const other = () => spawnSync(process.execPath, ['--input-type=module', '-e', source]).status;
  assert.equal(other(), 7);
  lock[Symbol.dispose]();
  assert.equal(other(), 0);
});

/** `dir`, where something happens just before the first call of `name`, whatever it is that is asked then. */
function before(dir: StateDir, name: keyof StateDir['state'], what: () => Promise<void>): StateDir {
  let happens: (() => Promise<void>) | null = what;
  const state = new Proxy(dir.state, {
    get(object, asked) {
      const value: unknown = Reflect.get(object, asked);
      if (asked !== name || typeof value !== 'function') return value;
      return async (...args: unknown[]) => {
        await happens?.();
        happens = null;
        return await Reflect.apply(value, object, args);
      };
    },
  });
  return { ...dir, state };
}

const QUESTIONS = ['leaseHolder', 'status', 'recentManifests', 'pendingManifests', 'pins'] as const;

for (const question of QUESTIONS) {
  test(`what waited and is published before ${question} is asked is kept`, async (t) => {
    await using dir = await makeState(await temporaryDir(t), NOW);
    await publishHost(dir, 'lantern', 'one', NOW);
    const { toplevel } = await publishHosts(dir, ['lantern'], 'two', NOW, true);
    const { fence } = (await dir.state.leaseHolder()) ?? { fence: 0 };
    const link = `systems.${fence}.1`;
    await symlink(toplevel, join(dir.layout.gcroots, link));
    // Of another publication, so that what came before is no longer the last one.
    const next = await acquireLease({ file: dir.layout.publishLock, state: dir.state });
    await next[Symbol.asyncDispose]();
    const racing = before(dir, question, async () => {
      const published = await publishPending(dir, { approvals: [], now: NOW });
      assert.deepEqual(
        published.map(({ error }) => error),
        [null],
      );
    });
    const done = await collect(racing, { dryRun: false, now: NOW });
    assert.equal(done?.releasedLinks, 0);
    assert.deepEqual(await readdir(dir.layout.gcroots), [link]);
    assert.equal((await dir.state.currentManifest('lantern'))?.toplevel, toplevel);
  });

  test(`a build that ends before ${question} is asked loses nothing`, async (t) => {
    const now = Math.floor(Date.now() / 1000);
    await using dir = await makeState(await temporaryDir(t), now);
    await publishHost(dir, 'lantern', 'one', now);
    const link = join(dir.layout.gcroots, `building-${process.pid}-lantern`);
    await symlink('/nix/store/x', link);
    let toplevel = '';
    const racing = before(dir, question, async () => {
      ({ toplevel } = await publishHost(dir, 'lantern', 'two', now));
      await rm(link);
    });
    const config = { ...dir.config, keepUnusedDays: 0 };
    await collect({ ...racing, config }, { dryRun: false, now: now + 100 });
    const row = await dir.state.currentManifest('lantern');
    assert.ok(row?.toplevel != null && row.toplevel === toplevel);
    assert.equal((await dir.state.cachedPaths([row.toplevel])).length, 1);
  });
}
