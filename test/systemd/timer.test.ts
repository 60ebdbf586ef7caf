// Hosts whose agent a timer starts, on a machine with a real systemd: an update that brings another agent is confirmed by that one
// long before the timer's next time, also where the update changes how the agent is started.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { DEFAULT_ACTIVATION } from '../../src/manifest/activation.ts';
import { temporaryDirectory } from '../helpers/temporary.ts';
import { whyNot } from './machine.ts';
import {
  currentOf,
  isActive,
  journalOf,
  type Setting,
  setting,
  toldOf,
  waitFor,
} from './setting.ts';
import { agentUnit, systemdSystem, timedAgent } from './system.ts';

const isRunning = async (s: Setting) =>
  ['active', 'activating', 'deactivating'].includes(await isActive(s, 'fleet-agent'));

const skip = (await whyNot()) ?? false;
const top = await temporaryDirectory();
test.after(() => top[Symbol.asyncDispose]());

test('from a service to a timer, to another agent of a timer, and to a service again', {
  skip,
}, async (t) => {
  const service = { 'fleet-agent.service': agentUnit() };
  const s = await setting(t, top.path, await systemdSystem(top.path, 'service-one', service));
  const { world, machine } = s;
  await waitFor('its agent', async () => (await isActive(s, 'fleet-agent')) === 'active');
  const updates = [
    ['timed-one', timedAgent()],
    ['timed-two', timedAgent('Environment=GENERATION=two\n')],
    ['service-two', { 'fleet-agent.service': agentUnit('Environment=GENERATION=three\n') }],
  ] as const;
  for (const [name, units] of updates) {
    const next = await systemdSystem(top.path, name, units);
    const activation = { ...DEFAULT_ACTIVATION, confirmSeconds: 20 };
    const digest = world.publish(next, { activation });
    if (name !== 'timed-one') {
      await waitFor(
        'the run before',
        async () => (await isActive(s, 'fleet-agent')) === 'inactive',
      );
      const isTaken = () => world.reports.some(({ manifest }) => manifest?.sha256 === digest);
      for (let left = 3; left > 0 && !isTaken(); left--) {
        // As its timer does; one whose server does not answer in time has the next.
        await machine.run('systemctl', 'start', 'fleet-agent');
        await waitFor('a run', async () => isTaken() || !(await isRunning(s)));
        if (!isTaken()) t.diagnostic(`a run took nothing up: ${await journalOf(machine)}`);
      }
    }
    const told = await toldOf(s, digest);
    assert.deepEqual([told.phase, told.reason], ['in-sync', null], name);
    assert.equal(await currentOf(s), next.toplevel);
    assert.equal(world.reports.at(-2)?.phase, 'verifying', name);
    const lines = await machine.ok('grep', '-c', `test system-${name}`, '/var/log/switches');
    assert.equal(lines, '1');
  }
  await waitFor('its agent', async () => (await isActive(s, 'fleet-agent')) === 'active');
  const timers = await machine.ok('systemctl', 'list-timers');
  assert.doesNotMatch(timers, /fleet-watchdog/);
});
