// The watchdog of a switch, gone off: it goes back however long that takes, and disturbs nobody whom it is not about.
import assert from 'node:assert/strict';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { readJournal, writeJournal } from '../../src/agent/journal.ts';
import { tryLock } from '../../src/agent/lock.ts';
import { memoryFiles } from '../../src/agent/memory.ts';
import { watch } from '../../src/agent/watch.ts';
import { DEFAULT_ACTIVATION } from '../../src/manifest/activation.ts';
import {
  all,
  atRealTime,
  killDuring,
  PROGRAM,
  plan,
  reboot,
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

/** The watchdog of the transaction in the journal, quickly; what it says goes to `said`. */
async function wake(host: TestHost, said: string[], bootId = 'chroot store'): Promise<void> {
  const { transaction } = await readJournal(host.state);
  await watch({
    dir: host.state,
    expired: transaction?.id ?? '',
    program: PROGRAM,
    clock: () => Math.floor(Date.now() / 1000),
    isSynchronised: async () => true,
    bootId,
    say: (line) => said.push(line),
    pause: { first: 50, most: 100 },
  });
}

test('another switch is going on when it goes off: it goes back once that ended', async () => {
  await using s = await atRealTime(one);
  const { world, host } = s;
  await plan(host, 'sleep-test-system-two', 1);
  world.publish(two);
  await killDuring(host, 'test system-two');
  await switchEnded(host);
  await plan(host, 'exit-test-system-one', 11);
  const said: string[] = [];
  const done = wake(host, said);
  await waitFor(() => said.length >= 3);
  assert.match(said[0] ?? '', /^failed: going back: .* test ended with 11/);
  assert.equal((await systemsOf(host)).current, two.toplevel);
  await rm(join(host.root, 'run/exit-test-system-one'));
  await done;
  assert.match(said.at(-1) ?? '', /^rolled-back: an activation broke off/);
  assert.deepEqual(await systemsOf(host), all(one));
  assert.equal((await readJournal(host.state)).transaction, null);
  assert.equal(world.reports.at(-1)?.phase, 'rolled-back');
});

test('an agent that works is not killed after the first time', async () => {
  await using s = await atRealTime(one);
  const { world, host } = s;
  await plan(host, 'sleep-test-system-two', 1);
  world.publish(two);
  await killDuring(host, 'test system-two');
  await switchEnded(host);
  await plan(host, 'exit-test-system-one', 11);
  const said: string[] = [];
  const done = wake(host, said);
  await waitFor(() => said.length >= 1);
  // It lies with this process, which would be the one to be killed.
  let lock = await tryLock(memoryFiles(host.state).lock);
  while (lock === null) lock = await tryLock(memoryFiles(host.state).lock);
  await waitFor(() => said.some((line) => /another agent works/.test(line)));
  await rm(join(host.root, 'run/exit-test-system-one'));
  await lock[Symbol.asyncDispose]();
  await done;
  assert.deepEqual(await systemsOf(host), all(one));
});

test('one whose activation ended, or waits for a boot, does nothing', async () => {
  await using s = await atRealTime(one);
  const { world, host } = s;
  world.publish(two, { activation: { ...DEFAULT_ACTIVATION, mode: 'boot' } });
  assert.equal((await host.once()).outcome?.phase, 'reboot-pending');
  const { transaction } = await readJournal(host.state);
  assert.equal(transaction?.step, 'awaiting-boot');
  const said: string[] = [];
  await wake(host, said);
  assert.deepEqual(said, []);
  assert.deepEqual((await readJournal(host.state)).transaction, transaction);
  // It booted, and nobody confirmed it.
  await reboot(host, two);
  await wake(host, said, 'the next boot');
  assert.match(said.join(), /^rolled-back: its agent did not confirm it in 120 s$/);
  assert.deepEqual(await systemsOf(host), all(one));
  // Of another one.
  await using lock = await tryLock(memoryFiles(host.state).lock);
  assert.ok(lock);
  await wake(host, said);
  assert.equal(said.length, 1);
});

test('a power cut while it was set for the next boot: what booted then is watched, and confirmed', async () => {
  await using s = await atRealTime(one);
  const { world, host } = s;
  for (const name of ['watchdog', 'agent']) {
    world.publish(two, { activation: { ...DEFAULT_ACTIVATION, mode: 'boot', confirmSeconds: 5 } });
    await plan(host, 'sleep-boot-system-two', 0);
    assert.equal((await host.once()).outcome?.phase, 'reboot-pending');
    // The instant before its end was written.
    const journal = await readJournal(host.state);
    if (journal.transaction === null) throw new Error('nothing waits');
    const transaction = { ...journal.transaction, step: 'setting' } as const;
    await writeJournal(host.state, { ...journal, transaction });
    await reboot(host, two);
    if (name === 'watchdog') {
      const said: string[] = [];
      await wake(host, said, 'the next boot');
      assert.match(said.join(), /^rolled-back: its agent did not confirm it/);
      assert.deepEqual(await systemsOf(host), all(one));
    } else {
      const { outcome } = await host.once({ bootId: 'the next boot' });
      assert.equal(outcome?.phase, 'in-sync');
      assert.deepEqual(await systemsOf(host), all(two));
    }
  }
});
