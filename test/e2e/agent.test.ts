// The agent against the real Nix, in chroot stores: what a host goes through from its enrolment on, and
// each way an activation can end.
import assert from 'node:assert/strict';
import { mkdir, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { enroll } from '../../src/agent/enroll.ts';
import { readMemory } from '../../src/agent/memory.ts';
import { DEFAULT_ACTIVATION } from '../../src/manifest/activation.ts';
import { all, atRealTime, logOf, plan, setting, startOnce, systemsOf } from '../helpers/hosts.ts';
import { buildSystem, SYSTEM } from '../helpers/systems.ts';
import { temporaryDirectory } from '../helpers/temporary.ts';
import { enrolFileOf, HOST, World } from '../helpers/world.ts';

const systems = await temporaryDirectory();
test.after(() => systems[Symbol.asyncDispose]());
const one = await buildSystem(systems.path, 'one');
const two = await buildSystem(systems.path, 'two');
const three = await buildSystem(systems.path, 'three');

test('from enrolment to the first system, and on to the next', async () => {
  await using s = await setting(null);
  const { world, host } = s;
  const nothing = await host.once();
  assert.deepEqual([nothing.outcome, nothing.error], [null, null]);

  world.publish(one);
  const first = await host.once();
  assert.equal(first.error, null);
  assert.equal(first.outcome?.phase, 'in-sync');
  assert.equal(first.fetched?.paths, 2);
  assert.deepEqual(await systemsOf(host), all(one));
  assert.deepEqual(await logOf(host), ['check system-one', 'test system-one', 'boot system-one']);

  world.publish(two);
  const second = await host.once();
  assert.equal(second.outcome?.phase, 'in-sync');
  assert.deepEqual(await systemsOf(host), all(two));
  assert.deepEqual(
    world.reports.map(({ phase, counter, manifest, current }) => [
      phase,
      counter,
      manifest?.sequence,
      current,
    ]),
    [
      ['in-sync', 1, 1, one.toplevel],
      ['in-sync', 2, 2, two.toplevel],
    ],
  );
  const { floor } = (await readMemory(host.state)).trust;
  assert.equal(floor?.sequence, 2);
});

test('in sync: one request, no Nix, no activation, no receipt', async () => {
  await using s = await setting(one);
  const { world, host } = s;
  world.requests.length = 0;
  const again = await host.once();
  assert.equal(again.outcome?.phase, 'in-sync');
  assert.deepEqual(world.requests, [`GET /v1/hosts/${HOST}/offer?root=1&from=4`]);
  assert.deepEqual(await logOf(host), []);
  assert.equal(world.reports.length, 1);
});

test('a rollback by the admin is a deployment of an older path', async () => {
  await using s = await setting(one);
  s.world.publish(two);
  await s.host.once();
  s.world.publish(one, { intent: 'rollback' });
  assert.equal((await s.host.once()).outcome?.phase, 'in-sync');
  assert.deepEqual(await systemsOf(s.host), all(one));
});

test('a local switch in between is set right again, where the rules say so', async () => {
  await using s = await setting(one);
  s.world.publish(one, { activation: { ...DEFAULT_ACTIVATION, drift: 'replace' } });
  await rm(join(s.host.root, 'run/current-system'));
  await symlink(two.toplevel, join(s.host.root, 'run/current-system'));
  assert.equal((await s.host.once()).outcome?.phase, 'in-sync');
  assert.deepEqual(await systemsOf(s.host), all(one));
});

test('mode boot sets the next boot and nothing else', async () => {
  await using s = await setting(one);
  const { world, host } = s;
  world.publish(two, { activation: { ...DEFAULT_ACTIVATION, mode: 'boot' } });
  const { outcome, error } = await host.once();
  assert.deepEqual([outcome?.phase, error], ['reboot-pending', null]);
  assert.deepEqual(await systemsOf(host), { ...all(two), current: one.toplevel });
  assert.deepEqual(await logOf(host), ['boot system-two']);
  assert.equal((await host.once()).outcome?.phase, 'reboot-pending');
  assert.deepEqual(await logOf(host), ['boot system-two']);
  assert.equal(world.reports.length, 2);
  // The reboot.
  await rm(join(host.root, 'run/current-system'));
  await symlink(two.toplevel, join(host.root, 'run/current-system'));
  assert.equal((await host.once()).outcome?.phase, 'in-sync');
  assert.equal(world.reports.at(-1)?.phase, 'in-sync');
});

test('exit 100: only a reboot can do it, so it is set for the next boot', async () => {
  for (const action of ['check', 'test']) {
    await using s = await setting(one);
    await plan(s.host, `exit-${action}-system-two`, 100);
    s.world.publish(two);
    const { outcome, error } = await s.host.once();
    assert.deepEqual([outcome?.phase, outcome?.exitCode, error], ['reboot-pending', 100, null]);
    assert.deepEqual(await systemsOf(s.host), { ...all(two), current: one.toplevel });
  }
});

test('exit 4: the new system runs, some units do not', async () => {
  await using s = await setting(one);
  await plan(s.host, 'exit-test-system-two', 4);
  s.world.publish(two);
  const { outcome, error } = await s.host.once();
  assert.deepEqual([outcome?.phase, outcome?.exitCode, error], ['in-sync-degraded', 4, null]);
  assert.deepEqual(await systemsOf(s.host), all(two));
  assert.equal((await s.host.once()).outcome?.phase, 'in-sync-degraded');
  assert.equal(s.world.reports.length, 2);
});

test('exit 11: another switch holds the lock; later it goes on', async () => {
  for (const action of ['check', 'test', 'boot']) {
    await using s = await setting(one);
    await plan(s.host, `exit-${action}-system-two`, 11);
    s.world.publish(two);
    const { outcome, error } = await s.host.once();
    assert.deepEqual([outcome?.phase, error?.code], ['awaiting-lock', 'E_SWITCH_LOCKED'], action);
    await rm(join(s.host.root, `run/exit-${action}-system-two`));
    assert.equal((await s.host.once()).outcome?.phase, 'in-sync');
    assert.deepEqual(await systemsOf(s.host), all(two), action);
  }
});

test('a failed check changes nothing', async () => {
  await using s = await setting(one);
  await plan(s.host, 'exit-check-system-two', 1);
  s.world.publish(two);
  const { outcome, error } = await s.host.once();
  assert.deepEqual([outcome?.phase, error?.code], ['preflight-failed', 'E_PREFLIGHT']);
  assert.match(outcome?.reason?.text ?? '', /this is check of system-two/);
  assert.deepEqual(await systemsOf(s.host), all(one));
  assert.deepEqual(await logOf(s.host), ['check system-two']);
});

test('a system of an older NixOS, whose program knows no check, is switched to without it', async () => {
  await using s = await setting(one);
  // Its usage begins with its path.
  const old = await buildSystem(systems.path, 'health-check');
  await writeFile(join(s.host.root, 'run/old-system-health-check'), '');
  s.world.publish(old);
  const { outcome, error } = await s.host.once();
  assert.deepEqual([outcome?.phase, error], ['in-sync', null]);
  assert.deepEqual(await systemsOf(s.host), all(old));
});

test('a failed switch ends on the old system, and is not tried again by itself', async () => {
  for (const code of [1, 2, 101]) {
    await using s = await setting(one);
    const { world, host } = s;
    await plan(host, 'exit-test-system-two', code);
    world.publish(two);
    const { outcome, error } = await host.once();
    assert.deepEqual([outcome?.phase, error?.code], ['rolled-back', 'E_ROLLED_BACK']);
    assert.equal(outcome?.exitCode, code);
    assert.deepEqual(await systemsOf(host), all(one));
    assert.deepEqual(await logOf(host), ['check system-two', 'test system-two', 'test system-one']);
    assert.equal(world.reports.at(-1)?.reason?.code, 'E_SWITCH_FAILED');

    const again = await host.once();
    assert.equal(again.error?.code, 'E_ROLLED_BACK');
    assert.equal((await logOf(host)).length, 3);
    assert.equal(world.reports.length, 2);

    await rm(join(host.root, 'run/exit-test-system-two'));
    assert.equal((await host.once({ retry: true })).outcome?.phase, 'in-sync');
    assert.deepEqual(await systemsOf(host), all(two));
  }
});

test('after a rollback a newer manifest is taken', async () => {
  await using s = await setting(one);
  await plan(s.host, 'exit-test-system-two', 2);
  s.world.publish(two);
  await s.host.once();
  s.world.publish(three);
  assert.equal((await s.host.once()).outcome?.phase, 'in-sync');
  assert.deepEqual(await systemsOf(s.host), all(three));
});

test('when going back fails too, that is what is told, and it is tried again', async () => {
  await using s = await setting(one);
  const { world, host } = s;
  await plan(host, 'exit-test-system-two', 2);
  await plan(host, 'exit-test-system-one', 2);
  world.publish(two);
  const { outcome, error } = await host.once();
  assert.deepEqual([outcome?.phase, error?.code], ['failed', 'E_SWITCH_FAILED']);
  assert.match(outcome?.reason?.text ?? '', /going back/);
  assert.equal((await systemsOf(host)).profile, one.toplevel);
  await rm(join(host.root, 'run/exit-test-system-one'));
  await rm(join(host.root, 'run/log'));
  await host.once();
  assert.deepEqual(await logOf(host), ['test system-one']);
  assert.deepEqual(await systemsOf(host), all(one));
  assert.deepEqual(world.reports.map(({ phase }) => phase).slice(1), ['failed', 'rolled-back']);
});

test('onFailure keep leaves the failed system running, but does not boot it', async () => {
  await using s = await setting(one);
  await plan(s.host, 'exit-test-system-two', 2);
  s.world.publish(two, { activation: { ...DEFAULT_ACTIVATION, onFailure: 'keep' } });
  assert.equal((await s.host.once()).outcome?.phase, 'failed');
  assert.deepEqual(await systemsOf(s.host), { ...all(one), current: two.toplevel });
  assert.equal((await s.host.once()).outcome?.phase, 'failed');
  assert.deepEqual(await logOf(s.host), ['check system-two', 'test system-two']);
});

test('a boot loader that cannot be written: the old profile and system again', async () => {
  await using s = await setting(one);
  await plan(s.host, 'exit-boot-system-two', 1);
  s.world.publish(two);
  assert.equal((await s.host.once()).outcome?.phase, 'rolled-back');
  assert.deepEqual(await systemsOf(s.host), all(one));
  assert.deepEqual((await logOf(s.host)).slice(2), [
    'boot system-two',
    'boot system-one',
    'test system-one',
  ]);
});

test('a switch that says it did, but did not, is a failure', async () => {
  await using s = await setting(one);
  // Where the link would be made there is a directory.
  await rm(join(s.host.root, 'run/current-system'));
  await mkdir(join(s.host.root, 'run/current-system'));
  s.world.publish(two);
  const { outcome } = await s.host.once();
  assert.equal(outcome?.phase, 'failed');
  assert.match(outcome?.reason?.text ?? '', /the current system is null/);
  assert.equal((await systemsOf(s.host)).profile, one.toplevel);
});

test('a switch that never ends is ended, and undone', async () => {
  await using s = await setting(one, { switchSeconds: 1 });
  await plan(s.host, 'sleep-test-system-two', 600);
  s.world.publish(two);
  const { outcome } = await s.host.once();
  assert.deepEqual([outcome?.phase, outcome?.reason?.code], ['rolled-back', 'E_SWITCH_TIMEOUT']);
  assert.deepEqual(await systemsOf(s.host), all(one));
});

test('a system without switch-to-configuration is refused', async () => {
  await using s = await setting(one);
  s.world.publish(await buildSystem(systems.path, 'bare', false));
  const { outcome, error } = await s.host.once();
  assert.deepEqual([outcome?.phase, error?.code], ['failed', 'E_NOT_NIXOS']);
  assert.deepEqual(await systemsOf(s.host), all(one));
});

test('the end of a host changes nothing on it, and is the end', async () => {
  await using s = await setting(one);
  const { world, host } = s;
  const { floor } = (await readMemory(host.state)).trust;
  assert.ok(floor);
  world.decommission({ epoch: floor.epoch, sequence: floor.sequence, sha256: floor.digest });
  const { outcome, error } = await host.once();
  assert.deepEqual([outcome?.phase, error], ['decommissioned', null]);
  world.publish(two);
  world.requests.length = 0;
  assert.equal((await host.once()).outcome?.phase, 'decommissioned');
  assert.deepEqual(world.requests, []);
  assert.deepEqual(await systemsOf(host), all(one));
  assert.equal(world.reports.length, 2);
});

test('receipts wait for a server that is away, in order, and are not lost or doubled', async () => {
  await using s = await setting(one);
  const { world, host } = s;
  const away = (path: string): boolean => path.endsWith('/reports');
  world.misbehave = (path, response) => away(path) && Boolean(response.writeHead(503).end());
  world.publish(two);
  assert.deepEqual((await host.once()).receipts.queued, 1);
  await plan(host, 'exit-test-system-three', 2);
  world.publish(three);
  assert.equal((await host.once()).receipts.queued, 2);
  // The server takes one, and the answer is lost.
  world.misbehave = (path, response) => {
    if (away(path)) response.end = () => response.destroy();
    return false;
  };
  await host.once();
  world.misbehave = () => false;
  const { receipts } = await host.once();
  assert.deepEqual([receipts.queued, receipts.problem], [0, null]);
  assert.deepEqual(
    world.reports.map(({ counter, phase }) => [counter, phase]),
    [
      [1, 'in-sync'],
      [2, 'in-sync'],
      [3, 'rolled-back'],
    ],
  );
});

test('nothing of what is secret reaches the switch, the output, or the log', async () => {
  await using s = await atRealTime(one);
  const { world, host } = s;
  await plan(host, 'exit-test-system-two', 2);
  world.publish(two);
  const { stdout, stderr, code } = await startOnce(host).done;
  assert.equal(code, 1);
  assert.equal(JSON.parse(stdout).phase, 'rolled-back');
  assert.match(stderr, /E_ROLLED_BACK/);
  const environment = await readFile(join(host.root, 'run/env'), 'utf8');
  const logs = join(host.state, 'switch');
  const texts = [stdout, stderr, environment];
  for (const name of await readdir(logs)) texts.push(await readFile(join(logs, name), 'utf8'));
  const key = (await readFile(join(host.state, 'host-key.pem'), 'utf8')).split('\n')[1] ?? '';
  for (const secret of [world.token, world.secret, key]) {
    for (const text of texts) assert.ok(!text.includes(secret));
  }
  assert.doesNotMatch(environment, /^NIX_CONFIG=/m);
});

test('enrolment: again with the same key until it is done, then never', async () => {
  await using dir = await temporaryDirectory();
  await using world = await World.open(dir.path);
  const state = join(dir.path, 'deep/state');
  const file = enrolFileOf(world);
  const options = { dir: state, file, host: null, system: SYSTEM, root: null, now: world.now };
  world.misbehave = (_, response) => Boolean(response.writeHead(503).end());
  await assert.rejects(enroll(options), { code: 'E_SERVER_BUSY' });
  await assert.rejects(readMemory(state), { code: 'E_AGENT_NOT_ENROLLED' });
  const key = await readFile(join(state, 'host-key.pem'), 'utf8');
  world.misbehave = () => false;
  await assert.rejects(enroll({ ...options, host: 'beta' }), { code: 'E_HOST_MISMATCH' });
  await assert.rejects(enroll({ ...options, now: world.now + 9000 }), { code: 'E_ENROL_EXPIRED' });
  await assert.rejects(enroll({ ...options, system: 'x y' }), { code: 'E_USAGE' });
  await enroll(options);
  assert.equal(await readFile(join(state, 'host-key.pem'), 'utf8'), key);
  assert.equal((await readMemory(state)).token, world.token);
  await assert.rejects(enroll(options), { code: 'E_STATE_EXISTS' });
});
