// What a real logind and a real bus say of who blocks a reboot and who is logged in.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Situation } from '../../src/agent/policy.ts';
import { Machine, whyNot } from './machine.ts';

const skip = (await whyNot()) ?? false;

const ASK = `import('/fleet/src/agent/situation.ts').then(async ({ readSituation }) =>
  console.log(JSON.stringify(await readSituation(['metered', 'inhibitors', 'sessions']))))`;

test('blocks, delays and sessions that end, as logind tells them', { skip }, async () => {
  await using machine = new Machine();
  await machine.boot();
  const ask = async (): Promise<Situation> =>
    JSON.parse(await machine.ok('/fleet/node_modules/.bin/node', '-e', ASK));
  assert.deepEqual(await ask(), { metered: false, inhibitors: [], sessions: [] });

  const hold = (mode: string, what: string, who: string) =>
    `systemd-inhibit --mode=${mode} --what=${what} --who='${who}' --why=x sleep 600 >/dev/null 2>&1 &`;
  const held = [hold('block', 'shutdown:sleep', 'a backup'), hold('delay', 'sleep', 'a modem')];
  await machine.ok('sh', '-c', `${held.join('\n')}\nsleep 1`);
  assert.deepEqual((await ask()).inhibitors, ['a backup']);

  // One whose user has logged out again, and left something running.
  const manager = 'org.freedesktop.login1 /org/freedesktop/login1 org.freedesktop.login1.Manager';
  const session = `"uusssssussbssa(sv)" 0 $! sshd tty user "" "" 0 "" "" true root 10.0.0.1 0`;
  const create = `busctl call ${manager} CreateSession ${session}`;
  await machine.ok('sh', '-c', `sleep 600 >/dev/null 2>&1 &\n${create}; sleep 1`);
  assert.match(await machine.ok('loginctl', 'list-sessions', '--no-legend'), /root/);
  assert.deepEqual((await ask()).sessions, []);

  await machine.ok('systemctl', 'stop', 'dbus.socket', 'dbus.service');
  for (const answer of Object.values(await ask())) {
    assert.match((answer as { unknown: string }).unknown, /^busctl: /);
  }
});
