// Going back, broken off in every way: "rolled back" is only said of a machine that runs and boots the
// system of before, and what was no fault of the new system is tried again.
import assert from 'node:assert/strict';
import { rm, symlink } from 'node:fs/promises';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { readJournal } from '../../src/agent/journal.ts';
import { tryLock } from '../../src/agent/lock.ts';
import {
  all,
  atRealTime,
  killDuring,
  logOf,
  plan,
  reboot,
  setting,
  startOnce,
  switchEnded,
  systemsOf,
  type TestHost,
  waitFor,
} from '../helpers/hosts.ts';
import { buildSystem } from '../helpers/systems.ts';
import { temporaryDirectory } from '../helpers/temporary.ts';

const systems = await temporaryDirectory();
after(() => systems[Symbol.asyncDispose]());
const one = await buildSystem(systems.path, 'one');
const two = await buildSystem(systems.path, 'two');
const three = await buildSystem(systems.path, 'three');

const unplan = (host: TestHost, what: string) => rm(join(host.root, 'run', what));

async function stepOf(host: TestHost): Promise<string | null> {
  return (await readJournal(host.state)).transaction?.step ?? null;
}

test('a boot loader that is not restored is no rollback; each run tries again', async () => {
  for (const code of [1, 11]) {
    await using s = await setting(one);
    const { world, host } = s;
    await plan(host, 'exit-boot-system-two', 1);
    await plan(host, 'exit-boot-system-one', code);
    world.publish(two);
    for (const time of ['first', 'second']) {
      const { outcome } = await host.once();
      assert.equal(outcome?.phase, 'failed', time);
      assert.equal((await systemsOf(host)).profile, one.toplevel);
      assert.equal((await systemsOf(host)).current, one.toplevel);
      assert.equal(await stepOf(host), 'undoing');
    }
    assert.match(world.reports.at(-1)?.reason?.text ?? '', /the boot loader: .* boot ended with/);
    await unplan(host, 'exit-boot-system-one');
    const { outcome } = await host.once();
    assert.deepEqual([outcome?.phase, outcome?.reason?.code], ['rolled-back', 'E_SWITCH_FAILED']);
    assert.deepEqual(await systemsOf(host), all(one));
    assert.equal(await stepOf(host), null);
    // What was right again stayed so.
    assert.equal((await logOf(host)).filter((line) => line === 'test system-one').length, 1);
  }
});

test('kill -9 while the boot loader is restored', async () => {
  await using s = await atRealTime(one);
  const { world, host } = s;
  await plan(host, 'exit-boot-system-two', 1);
  await plan(host, 'sleep-boot-system-one', 1);
  await plan(host, 'exit-boot-system-one', 1);
  world.publish(two);
  await killDuring(host, 'boot system-one');
  await unplan(host, 'exit-boot-system-one');
  assert.equal((await systemsOf(host)).boot, two.toplevel);
  assert.equal((await host.once()).outcome?.phase, 'rolled-back');
  assert.deepEqual(await systemsOf(host), all(one));
});

test('a power cut while a commit is undone, and a boot into the refused system', async () => {
  await using s = await atRealTime(one);
  const { world, host } = s;
  await plan(host, 'exit-boot-system-two', 1);
  await plan(host, 'sleep-boot-system-one', 1);
  world.publish(two);
  await killDuring(host, 'boot system-one');
  // The instant before: the profile was not set back yet.
  const profile = join(host.root, 'nix/var/nix/profiles/system');
  await rm(profile);
  await symlink('system-2-link', profile);
  await switchEnded(host);
  await plan(host, 'sleep-boot-system-one', 0);
  await reboot(host, two);
  const { outcome } = await host.once({ bootId: 'the next boot' });
  assert.deepEqual([outcome?.phase, outcome?.reason?.code], ['rolled-back', 'E_SWITCH_FAILED']);
  assert.deepEqual(await systemsOf(host), all(one));
  assert.equal(await stepOf(host), null);
});

test('a reboot takes back what was only activated: nothing is run for that', async () => {
  for (const line of ['test system-two', 'test system-one']) {
    await using s = await atRealTime(one);
    const { world, host } = s;
    if (line === 'test system-one') await plan(host, 'exit-test-system-two', 2);
    await plan(host, `sleep-${line.replace(' ', '-')}`, 1);
    world.publish(two);
    await killDuring(host, line);
    await switchEnded(host);
    await world.stop();
    await reboot(host, one);
    const before = await logOf(host);
    await host.once({ bootId: 'the next boot' });
    assert.deepEqual(await logOf(host), before);
    assert.deepEqual(await systemsOf(host), all(one));
    assert.equal(await stepOf(host), null);
  }
});

test('a power cut before the boot loader was finished: back, and then anew', async () => {
  await using s = await atRealTime(one);
  const { world, host } = s;
  await plan(host, 'sleep-boot-system-two', 1);
  world.publish(two);
  await killDuring(host, 'boot system-two');
  await switchEnded(host);
  await reboot(host, one);
  assert.equal((await host.once({ bootId: 'the next boot' })).outcome?.phase, 'in-sync');
  assert.deepEqual(await systemsOf(host), all(two));
  assert.deepEqual(world.reports.map(({ phase }) => phase).slice(1), ['rolled-back', 'in-sync']);
});

test('what an earlier run half activated is undone before another is set for the next boot', async () => {
  for (const action of ['check', 'test']) {
    await using s = await atRealTime(one);
    const { world, host } = s;
    await plan(host, 'sleep-test-system-two', 1);
    world.publish(two);
    await killDuring(host, 'test system-two');
    await waitFor(async () => (await systemsOf(host)).current === two.toplevel);
    world.publish(three);
    await plan(host, `exit-${action}-system-three`, 100);
    assert.equal((await host.once()).outcome?.phase, 'reboot-pending');
    assert.deepEqual(await systemsOf(host), { ...all(three), current: one.toplevel }, action);
  }
});

test('a boot loader that waits for another switch is no reason to refuse a system', async () => {
  await using s = await atRealTime(one, { switchSeconds: 1 });
  const { world, host } = s;
  await plan(host, 'sleep-boot-system-two', 0.5);
  world.publish(two);
  await killDuring(host, 'boot system-two');
  await switchEnded(host);
  const held = await tryLock(join(host.state, 'switch/lock'));
  const { outcome, error } = await host.once();
  assert.deepEqual([outcome?.phase, error?.code], ['awaiting-lock', 'E_SWITCH_LOCKED']);
  assert.equal((await systemsOf(host)).current, two.toplevel);
  await held?.[Symbol.asyncDispose]();
  assert.equal((await host.once()).outcome?.phase, 'in-sync');
  assert.deepEqual(await systemsOf(host), all(two));
});

test('an activation that broke off stays as it is while another switch holds the lock', async () => {
  await using s = await atRealTime(one);
  const { world, host } = s;
  await plan(host, 'sleep-test-system-two', 1);
  world.publish(two);
  await killDuring(host, 'test system-two');
  await plan(host, 'exit-test-system-two', 11);
  await plan(host, 'sleep-test-system-two', 0);
  assert.equal((await host.once()).outcome?.phase, 'awaiting-lock');
  assert.equal(await stepOf(host), 'activating');
  await unplan(host, 'exit-test-system-two');
  assert.equal((await host.once()).outcome?.phase, 'in-sync');
  assert.deepEqual(await systemsOf(host), all(two));
});

test('a switch that hangs after its agent died is ended all the same, then undone', async () => {
  await using s = await atRealTime(one, { switchSeconds: 1 });
  const { world, host } = s;
  await plan(host, 'sleep-test-system-two', 600);
  world.publish(two);
  await killDuring(host, 'test system-two');
  await switchEnded(host);
  const { outcome } = await host.once();
  assert.deepEqual([outcome?.phase, outcome?.reason?.code], ['rolled-back', 'E_SWITCH_TIMEOUT']);
  assert.deepEqual(await systemsOf(host), all(one));
});

test('without a profile of before, the system of before is what boots', async () => {
  await using s = await setting(one);
  const { world, host } = s;
  await rm(join(host.root, 'nix/var/nix/profiles/system-1-link'));
  await plan(host, 'exit-boot-system-two', 1);
  world.publish(two);
  assert.equal((await host.once()).outcome?.phase, 'rolled-back');
  assert.deepEqual(await systemsOf(host), all(one));
});

test('where nothing was before, nothing is said to be rolled back', async () => {
  await using s = await setting(null);
  const { world, host } = s;
  await plan(host, 'exit-boot-system-one', 1);
  world.publish(one);
  const { outcome } = await host.once();
  assert.equal(outcome?.phase, 'failed');
  assert.match(outcome?.reason?.text ?? '', /boot loader: no system of before is known/);
  await unplan(host, 'exit-boot-system-one');
  assert.equal((await host.once({ retry: true })).outcome?.phase, 'in-sync');
  assert.deepEqual(await systemsOf(host), all(one));
});

test('kill -9 while the boot loader is written of a system with failed units', async () => {
  await using s = await atRealTime(one);
  const { world, host } = s;
  await plan(host, 'exit-test-system-two', 4);
  await plan(host, 'sleep-boot-system-two', 1);
  world.publish(two);
  await killDuring(host, 'boot system-two');
  assert.equal((await host.once()).outcome?.phase, 'in-sync-degraded');
  const { phase, reason } = world.reports.at(-1) ?? {};
  assert.deepEqual([phase, reason?.code], ['in-sync-degraded', 'units-failed']);
  assert.equal(world.reports.length, 2);
});

test('a fault of fleet itself: undone first, then told', async () => {
  await using s = await atRealTime(one);
  const { world, host } = s;
  await plan(host, 'sleep-test-system-two', 1);
  world.publish(two);
  await killDuring(host, 'test system-two');
  await waitFor(async () => (await systemsOf(host)).current === two.toplevel);
  let asked = 0;
  const clock = (): number => {
    // Once at the start, then to verify.
    if (asked++ === 1) throw new RangeError('a fault');
    return world.now;
  };
  await assert.rejects(host.once({ clock }), { message: 'a fault' });
  assert.deepEqual(await systemsOf(host), all(one));
  assert.equal(await stepOf(host), null);
});

test('a temporary directory that cannot be used keeps nothing from being done or undone', async () => {
  await using s = await atRealTime(one);
  const { world, host } = s;
  const before = process.env['TMPDIR'];
  process.env['TMPDIR'] = join(host.root, 'none');
  try {
    await plan(host, 'exit-boot-system-two', 1);
    world.publish(two);
    assert.equal(JSON.parse((await startOnce(host).done).stdout).phase, 'rolled-back');
    assert.deepEqual(await systemsOf(host), all(one));
    world.publish(three);
    assert.equal((await startOnce(host).done).code, 0);
    assert.deepEqual(await systemsOf(host), all(three));
  } finally {
    if (before === undefined) delete process.env['TMPDIR'];
    else process.env['TMPDIR'] = before;
  }
});
