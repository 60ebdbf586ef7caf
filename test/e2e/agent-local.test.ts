// People at the machine, as processes of real users: what members of the local group may ask the agent for, what
// outsiders are told, and what a client that misbehaves can do.
import assert from 'node:assert/strict';
import { rm, stat } from 'node:fs/promises';
import { connect, type Socket } from 'node:net';
import { dirname, join } from 'node:path';
import { after, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { readLocal } from '../../src/agent/local.ts';
import type { AgentStatus } from '../../src/agent/status.ts';
import { DEFAULT_ACTIVATION } from '../../src/manifest/activation.ts';
import { fleet, startFleet } from '../helpers/cli.ts';
import { all, atRealTime, plan, startOnce, systemsOf, waitFor } from '../helpers/hosts.ts';
import { configure, GROUP, person, startDoor } from '../helpers/local-group.ts';
import { buildSystem } from '../helpers/systems.ts';
import { temporaryDirectory } from '../helpers/temporary.ts';

const systems = await temporaryDirectory();
after(() => systems[Symbol.asyncDispose]());
const one = await buildSystem(systems.path, 'one');
const two = await buildSystem(systems.path, 'two');

const DEFERRABLE = { ...DEFAULT_ACTIVATION, deferral: { maxHours: 8 } };
const TRUSTED = { clock: 'trusted' };

/** Sends `bytes` to the socket; returns what comes back until the connection ends. */
async function raw(socket: string, bytes: string | Uint8Array): Promise<string> {
  const connection = connect(socket);
  let text = '';
  connection.setEncoding('utf8').on('data', (data: string) => {
    text += data;
  });
  connection.on('error', () => {});
  connection.write(bytes);
  await new Promise((resolve) => connection.once('close', resolve));
  return text;
}

function stall(socket: string): Socket {
  return connect(socket).on('error', () => {});
}

test('a member sees what is coming, puts it off, applies it, goes back; the next thing comes by itself', async (t) => {
  await using s = await atRealTime(one, TRUSTED);
  const { world, host } = s;
  // Another switch is going on: it is fetched, and waits.
  await plan(host, 'exit-check-system-two', 11);
  world.publish(two, { activation: DEFERRABLE });
  assert.equal((await host.once()).outcome?.phase, 'awaiting-lock');
  const { socket } = await startDoor(t, host);
  const member = async (...args: string[]) => await person('member', socket, args);

  const status = JSON.parse((await member('status', '--json')).stdout) as AgentStatus;
  const { coming, wayBack } = status.local;
  assert.equal(coming?.toplevel, two.toplevel);
  assert.equal(coming?.latest, (coming?.since ?? 0) + 8 * 3600);
  assert.deepEqual(
    coming?.packages?.map(({ name }) => name),
    ['files-one', 'files-two', 'system-one', 'system-two'],
  );
  assert.equal(wayBack.toplevel, null);
  assert.match((await member('status')).stdout, /put it off +until .* at the latest/);

  const late = await member('defer', '9h');
  assert.equal(late.code, 1);
  assert.match(late.stderr, /it may be put off until \S+Z at the latest \[E_LOCAL_DEFERRAL\]/);
  assert.match((await member('defer', '4h')).stdout, /^Put off until /);
  await rm(join(host.root, 'run/exit-check-system-two'));
  const { outcome } = await host.once();
  assert.deepEqual([outcome?.phase, outcome?.who], ['awaiting-user', 'local group']);
  assert.equal(world.reports.at(-1)?.reason?.code, 'deferred');
  assert.deepEqual(await systemsOf(host), all(one));

  assert.equal((await member('apply', 'now')).code, 0);
  await waitFor(async () => world.reports.at(-1)?.phase === 'in-sync');
  assert.deepEqual(await systemsOf(host), all(two));
  assert.equal(world.reports.at(-1)?.who, 'local group');
  assert.match((await member('apply', 'now')).stderr, /E_LOCAL_NOTHING/);
  assert.match((await member('defer', '1h')).stderr, /E_LOCAL_NOTHING/);

  const back = await member('rollback', '--reason', 'the screen is black');
  assert.match(back.stdout, /goes back to \S+system-one/);
  await waitFor(async () => world.reports.at(-1)?.phase === 'held');
  assert.deepEqual(await systemsOf(host), all(one));
  const { reason, who } = world.reports.at(-1) ?? {};
  assert.deepEqual(reason, { code: 'user-rollback', text: 'the screen is black' });
  assert.equal(who, 'local group');
  assert.match((await member('rollback', '--reason', 'more')).stderr, /E_NO_WAY_BACK/);
  assert.equal((await host.once()).outcome?.phase, 'held');
  assert.deepEqual(await systemsOf(host), all(one));

  world.publish(two);
  assert.equal((await host.once()).outcome?.phase, 'in-sync');
  assert.deepEqual(await systemsOf(host), all(two));
  assert.equal((await readLocal(host.state)).held, null);
});

test('an outsider is told who may, and what to do', async (t) => {
  await using s = await atRealTime(one, TRUSTED);
  const { socket } = await startDoor(t, s.host);
  for (const args of [['status'], ['defer', '4h'], ['apply', 'now'], ['request', 'hello']]) {
    const { code, stderr } = await person('outsider', socket, args);
    assert.equal(code, 1, args.join(' '));
    assert.match(stderr, /may not use .*control\.sock \[E_LOCAL_ACCESS\]\n {2}→ ask the admin/);
  }
  const { mode, gid } = await stat(socket);
  assert.deepEqual([mode & 0o777, gid], [0o660, GROUP.gid]);
  assert.equal((await stat(dirname(socket))).mode & 0o022, 0);
});

test('without a group, the socket is for root alone; without an agent, it says so', async (t) => {
  await using s = await atRealTime(one, { ...TRUSTED, localGroup: null });
  const { host } = s;
  await configure(host, { localGroup: GROUP.name });
  const { socket, stop } = await startDoor(t, host, ['--poll', '3600']);
  await stop();
  const { code, stderr } = await person('member', socket, ['status']);
  assert.equal(code, 1);
  assert.match(stderr, /no agent listens at .* \[E_LOCAL_NO_AGENT\]/);
});

test('malformed questions get a code and an end; floods and stalled clients stop nobody', async (t) => {
  await using s = await atRealTime(one, TRUSTED);
  const { socket, stderr } = await startDoor(t, s.host);
  for (const line of [
    '\n',
    'hello\n',
    '{"version":9}\n',
    '\u0000\u0001\n',
    `${'x'.repeat(5000)}`,
  ]) {
    assert.match(await raw(socket, line), /"code":"E_LOCAL_PROTOCOL"/, JSON.stringify(line));
  }
  const long = { version: 1, verb: 'request', text: 'x'.repeat(1025) };
  assert.match(await raw(socket, `${JSON.stringify(long)}\n`), /"code":"E_LOCAL_WORDS"/);
  // As many that say nothing as there is room for, and more.
  const stalled = Array.from({ length: 40 }, () => stall(socket));
  const dripping = setInterval(() => stalled[0]?.write(' '), 100);
  const flood = Array.from({ length: 200 }, () => raw(socket, '{"version":1,"verb":"news"}\n'));
  await Promise.all(flood);
  await sleep(6000);
  clearInterval(dripping);
  for (const connection of stalled) connection.destroy();
  const { code } = await person('member', socket, ['request', 'still there?']);
  assert.equal(code, 0);
  assert.equal((await readLocal(s.host.state)).requests.length <= 1, true);
  await waitFor(() => s.world.reports.at(-1)?.request?.text === 'still there?');
  assert.doesNotMatch(stderr(), /E_INTERNAL/);
});

test('only so many requests an hour are taken', async (t) => {
  await using s = await atRealTime(one, TRUSTED);
  const { socket } = await startDoor(t, s.host);
  const ask = (n: number) =>
    raw(socket, `${JSON.stringify({ version: 1, verb: 'request', text: `wish ${n}` })}\n`);
  for (let n = 1; n <= 6; n++) assert.match(await ask(n), /"accepted":true/);
  assert.match(await ask(7), /"code":"E_RATE_LIMITED"/);
  await waitFor(() => s.world.reports.filter(({ request }) => request !== undefined).length === 6);
  const told = s.world.reports.flatMap(({ request, who }) => (request ? [[request, who]] : []));
  assert.deepEqual(
    told,
    [1, 2, 3, 4, 5, 6].map((n) => [{ number: n, text: `wish ${n}` }, 'local group']),
  );
  assert.deepEqual(await systemsOf(s.host), all(one));
});

test('an agent that cannot have its socket says why, and does all else', async (t) => {
  await using s = await atRealTime(one, TRUSTED);
  const { world, host } = s;
  world.publish(two);
  const args = ['--state', host.state, '--poll', '3600', '--group', 'no-such-group'];
  const { child, done, stderr } = startFleet(['agent', 'run', ...args]);
  t.after(async () => {
    child.kill('SIGTERM');
    await done;
  });
  await waitFor(() => world.reports.at(-1)?.manifest?.sha256 === world.digest());
  assert.match(stderr(), /there is no group no-such-group \[E_LOCAL_SOCKET\]/);
  assert.equal((await systemsOf(host)).current, two.toplevel);
});

test('agents that are killed at any moment lose no request, and tell none twice', async () => {
  await using s = await atRealTime(one, TRUSTED);
  const { world, host } = s;
  const asked: string[] = [];
  for (let n = 1; n <= 8; n++) {
    const text = `wish ${n}`;
    const kept = await fleet(['agent', 'request', text, '--state', host.state]);
    assert.equal(kept.code, 0, kept.stderr);
    asked.push(text);
    const { child, done } = startOnce(host);
    await sleep(250 + 75 * n);
    child.kill('SIGKILL');
    await done;
  }
  assert.equal((await host.once()).error, null);
  const told = world.reports.flatMap(({ request }) => (request ? [request] : []));
  assert.deepEqual(
    told,
    asked.map((text, i) => ({ number: i + 1, text })),
  );
  assert.equal((await readLocal(host.state)).requests.length, 0);
});
