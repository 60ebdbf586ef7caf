// Agents on machines with a real systemd: `fleet agent run` as a service, switches that stop and start real units, its
// own unit replaced while it works, power that goes away at any moment.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { DEFAULT_ACTIVATION } from '../../src/manifest/activation.ts';
import { temporaryDirectory } from '../helpers/temporary.ts';
import { whyNot } from './machine.ts';
import { currentOf, isActive, setting, update, waitFor } from './setting.ts';
import { agentUnit, service, systemdSystem } from './system.ts';

const skip = (await whyNot()) ?? false;

const top = await temporaryDirectory();
test.after(() => top[Symbol.asyncDispose]());
const system = (name: string, units: Readonly<Record<string, string>> = {}) =>
  systemdSystem(top.path, name, { 'fleet-agent.service': agentUnit(), ...units });

test('the service finds an update, and units are stopped, started and replaced', {
  skip,
}, async (t) => {
  const one = await system('units-one', {
    'stays.service': service('exec sleep infinity'),
    'goes.service': service('exec sleep infinity'),
  });
  const two = await system('units-two', {
    'stays.service': service('exec sleep infinity'),
    'comes.service': service('exec sleep infinity'),
  });
  const s = await setting(t, top.path, one);
  const { machine } = s;
  assert.deepEqual(
    await Promise.all(['stays', 'goes', 'fleet-agent'].map((unit) => isActive(s, unit))),
    ['active', 'active', 'active'],
  );
  const pid = await machine.ok('systemctl', 'show', '-P', 'MainPID', 'stays');
  const agent = await machine.ok('systemctl', 'show', '-P', 'MainPID', 'fleet-agent');
  assert.equal((await update(s, two)).phase, 'in-sync');
  assert.equal(await currentOf(s), two.toplevel);
  assert.deepEqual(await Promise.all(['stays', 'goes', 'comes'].map((unit) => isActive(s, unit))), [
    'active',
    'inactive',
    'active',
  ]);
  assert.equal(await machine.ok('systemctl', 'show', '-P', 'MainPID', 'stays'), pid);
  // Its own unit was the same all the time.
  assert.equal(await machine.ok('systemctl', 'show', '-P', 'MainPID', 'fleet-agent'), agent);
  await waitFor(
    'systemd knows the phase',
    async () =>
      (await machine.ok('systemctl', 'show', '-P', 'StatusText', 'fleet-agent')) === 'in-sync',
  );
  // And after a boot it is the same.
  await machine.cut();
  await machine.boot();
  assert.equal(await currentOf(s), two.toplevel);
  assert.equal(await machine.ok('readlink', '/run/booted-system'), two.toplevel);
  await waitFor(
    'its units',
    async () =>
      (await isActive(s, 'comes')) === 'active' && (await isActive(s, 'fleet-agent')) === 'active',
  );
});

test('an update that replaces the agent’s own unit: the switch goes on, and the new agent takes over', {
  skip,
}, async (t) => {
  const one = await system('own-one');
  const two = await systemdSystem(top.path, 'own-two', {
    'fleet-agent.service': agentUnit('Environment=GENERATION=two\n'),
    'slow.service': `[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sleep 3\n`,
  });
  const three = await systemdSystem(top.path, 'own-three', {
    'fleet-agent.service': agentUnit('Environment=GENERATION=two\n'),
  });
  const s = await setting(t, top.path, one);
  const { world, machine } = s;
  const agent = await machine.ok('systemctl', 'show', '-P', 'MainPID', 'fleet-agent');
  await update(s, two);
  const told = world.reports.slice(-2).map(({ phase, reason }) => [phase, reason]);
  assert.deepEqual(told, [
    ['verifying', null],
    ['in-sync', null],
  ]);
  assert.equal(await machine.ok('grep', '-c', 'own-two', '/var/log/switches'), '1');
  await waitFor('another agent', async () => {
    const now = await machine.ok('systemctl', 'show', '-P', 'MainPID', 'fleet-agent');
    return now !== agent && now !== '0';
  });
  const now = await machine.ok('systemctl', 'show', '-P', 'MainPID', 'fleet-agent');
  assert.match(await machine.ok('cat', `/proc/${now}/environ`), /GENERATION=two/);
  await update(s, three);
  assert.equal(world.reports.at(-1)?.phase, 'in-sync');
});

test('an update waits while a program blocks shutdown, and comes once it does not', {
  skip,
}, async (t) => {
  const s = await setting(t, top.path, await system('blocked-one'));
  const { world, machine } = s;
  const block = 'systemd-inhibit --mode=block --what=shutdown --who=backup --why=x sleep infinity';
  await machine.ok('systemd-run', '--unit=backup', '/bin/sh', '-c', `exec ${block}`);
  await waitFor('the block', async () => (await machine.ok('systemd-inhibit')).includes('backup'));
  const two = await system('blocked-two');
  const waitWhile = { inhibitors: true, sessions: true };
  world.publish(two, { activation: { ...DEFAULT_ACTIVATION, waitWhile } });
  await waitFor('it waits', () => world.reports.at(-1)?.phase === 'awaiting-user');
  assert.deepEqual(world.reports.at(-1)?.reason, {
    code: 'inhibited',
    text: 'shutdown or sleep is blocked by backup',
  });
  assert.notEqual(await currentOf(s), two.toplevel);
  await machine.ok('systemctl', 'stop', 'backup');
  await waitFor('it comes', () => world.reports.at(-1)?.phase === 'in-sync');
  assert.equal(await currentOf(s), two.toplevel);
});

test('an agent that is killed or hangs is started anew by systemd', { skip }, async (t) => {
  const s = await setting(t, top.path, await system('killed-one'));
  const { machine, world } = s;
  const pidOf = async () => await machine.ok('systemctl', 'show', '-P', 'MainPID', 'fleet-agent');
  for (const signal of ['KILL', 'STOP']) {
    // One that is only being started is not watched yet.
    await waitFor('it is there', async () => (await isActive(s, 'fleet-agent')) === 'active');
    const before = await pidOf();
    await machine.ok('systemctl', 'kill', '-s', signal, '--kill-whom=main', 'fleet-agent');
    await waitFor(
      `another one after ${signal}`,
      async () => !['0', before].includes(await pidOf()),
    );
  }
  await update(s, await system('killed-two'));
  assert.equal(world.reports.at(-1)?.phase, 'in-sync');
});
