// People at a machine with a real systemd: users of its own, one of the local group and one who is not, who have no more than
// the command line.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { AgentStatus } from '../../src/agent/status.ts';
import { DEFAULT_ACTIVATION } from '../../src/manifest/activation.ts';
import { temporaryDirectory } from '../helpers/temporary.ts';
import { whyNot } from './machine.ts';
import { currentOf, setting, waitFor } from './setting.ts';
import { agentUnit, systemdSystem } from './system.ts';

const skip = (await whyNot()) ?? false;
const top = await temporaryDirectory();
test.after(() => top[Symbol.asyncDispose]());

const GROUP = 'fleet-local';
const UNIT = agentUnit('RuntimeDirectory=fleet-agent\nRuntimeDirectoryMode=0755\n');
const system = (name: string) => systemdSystem(top.path, name, { 'fleet-agent.service': UNIT });

test('a user of the local group sees, defers, applies, goes back and asks; another cannot', {
  skip,
}, async (t) => {
  const [one, two] = [await system('people-one'), await system('people-two')];
  const s = await setting(t, top.path, one, { localGroup: GROUP });
  const { world, machine } = s;
  await machine.ok('groupadd', GROUP);
  await machine.ok('useradd', '--groups', GROUP, 'alice');
  await machine.ok('useradd', 'bob');
  // The agent found no such group when it began.
  await machine.ok('systemctl', 'restart', 'fleet-agent');
  await machine.ok('sh', '-c', 'until [ -S /run/fleet-agent/control.sock ]; do sleep 0.1; done');
  const person = async (name: string, ...args: string[]) =>
    await machine.run('runuser', '-u', name, '--', '/fleet/bin/fleet', 'agent', ...args);
  const alice = async (...args: string[]): Promise<string> => {
    const { code, stdout, stderr } = await person('alice', ...args);
    assert.equal(code, 0, `${args.join(' ')}: ${stderr}`);
    return stdout;
  };
  const last = () => world.reports.at(-1);

  const rules = { ...DEFAULT_ACTIVATION, ask: true, deferral: { maxHours: 8 } };
  world.publish(two, { activation: rules });
  await waitFor('she is asked', () => last()?.phase === 'awaiting-user');
  const status = JSON.parse(await alice('status', '--json')) as AgentStatus;
  assert.equal(status.local.coming?.toplevel, two.toplevel);
  await alice('defer', '4h');
  await waitFor('it is put off', () => last()?.reason?.code === 'deferred');
  assert.equal(last()?.who, 'local group');
  assert.equal(await currentOf(s), one.toplevel);

  for (const args of [
    ['status'],
    ['defer', '1h'],
    ['apply', 'now'],
    ['rollback', '--reason', 'no'],
    ['request', 'gimp'],
  ]) {
    const { code, stderr } = await person('bob', ...args);
    assert.equal(code, 1, args.join(' '));
    assert.match(stderr, /\[E_LOCAL_ACCESS\]\n +→ .*fleet-local/, args.join(' '));
  }
  const told = world.reports.length;

  await alice('apply', 'now');
  await waitFor('it is applied', () => last()?.phase === 'in-sync');
  assert.deepEqual([last()?.who, await currentOf(s)], ['local group', two.toplevel]);
  await alice('request', 'please install gimp');
  await waitFor('it is told', () => last()?.request?.text === 'please install gimp');
  await alice('rollback', '--reason', 'the screen flickers');
  await waitFor('it is held', () => last()?.phase === 'held');
  const { who, reason } = last() ?? {};
  assert.deepEqual([who, reason?.code], ['local group', 'user-rollback']);
  assert.match(reason?.text ?? '', /the screen flickers/);
  assert.equal(await currentOf(s), one.toplevel);
  assert.equal(await machine.ok('cat', '/boot/entry'), one.toplevel);
  assert.ok(world.reports.slice(told).every(({ request }) => request?.text !== 'gimp'));
});
