// An agent that dies, or meets another, or a machine that does not let it work.
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { chmod, mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { tryLock } from '../../src/agent/lock.ts';
import { agentStatus } from '../../src/agent/status.ts';
import { fleet } from '../helpers/cli.ts';
import {
  all,
  atRealTime,
  killDuring,
  plan,
  setting,
  startOnce,
  systemsOf,
  waitFor,
} from '../helpers/hosts.ts';
import { buildSystem } from '../helpers/systems.ts';
import { temporaryDirectory } from '../helpers/temporary.ts';

const systems = await temporaryDirectory();
after(() => systems[Symbol.asyncDispose]());
const one = await buildSystem(systems.path, 'one');
const two = await buildSystem(systems.path, 'two');

test('two agents at once: the second one is told', async () => {
  await using s = await setting(one);
  await plan(s.host, 'sleep-test-system-two', 1);
  s.world.publish(two);
  const first = s.host.once();
  await waitFor(() => existsSync(join(s.host.root, 'run/log')));
  await assert.rejects(s.host.once(), { code: 'E_AGENT_BUSY' });
  assert.equal((await first).outcome?.phase, 'in-sync');
});

test('kill -9 while the switch runs: it ends by itself, and the next run goes on', async () => {
  await using s = await atRealTime(one);
  const { world, host } = s;
  await plan(host, 'sleep-test-system-two', 2);
  world.publish(two);
  await killDuring(host, 'test system-two');
  assert.equal((await agentStatus(host.state)).underWay?.step, 'activating');
  assert.equal((await systemsOf(host)).profile, one.toplevel);
  // Not before the first switch has ended: never two at a time.
  const next = await host.once();
  assert.equal(next.outcome?.phase, 'in-sync');
  assert.deepEqual(await systemsOf(host), all(two));
});

test('kill -9 while the switch runs, then no server: back to the old system', async () => {
  await using s = await atRealTime(one);
  const { world, host } = s;
  await plan(host, 'sleep-test-system-two', 1);
  world.publish(two);
  await killDuring(host, 'test system-two');
  await waitFor(async () => (await systemsOf(host)).current === two.toplevel);
  await world.stop();
  const { outcome, error } = await host.once();
  assert.deepEqual([outcome?.phase, outcome?.reason?.code], ['rolled-back', 'E_INTERRUPTED']);
  assert.equal(error?.code, 'E_SERVER_UNREACHABLE');
  assert.deepEqual(await systemsOf(host), all(one));
});

test('kill -9 while the boot loader is written: the next run completes it, server or not', async () => {
  await using s = await atRealTime(one);
  const { world, host } = s;
  await plan(host, 'sleep-boot-system-two', 1);
  world.publish(two);
  await killDuring(host, 'boot system-two');
  await world.stop();
  await host.once();
  assert.deepEqual(await systemsOf(host), all(two));
  assert.equal((await agentStatus(host.state)).underWay, null);
});

test('kill -9 while it goes back: the next run completes that', async () => {
  await using s = await atRealTime(one);
  const { world, host } = s;
  await plan(host, 'exit-test-system-two', 2);
  await plan(host, 'sleep-test-system-one', 1);
  world.publish(two);
  await killDuring(host, 'test system-one');
  const { outcome } = await host.once();
  assert.equal(outcome?.phase, 'rolled-back');
  assert.deepEqual(await systemsOf(host), all(one));
  assert.equal(world.reports.at(-1)?.reason?.code, 'E_SWITCH_FAILED');
});

test('kill -9 at any moment: the next run ends in sync', async () => {
  await using s = await atRealTime(one);
  const { world, host } = s;
  const started = performance.now();
  world.publish(two);
  assert.equal((await startOnce(host).done).code, 0);
  const duration = performance.now() - started;
  for (let moment = 0; moment < 6; moment++) {
    const target = moment % 2 === 0 ? one : two;
    world.publish(target);
    const { child, done } = startOnce(host);
    await sleep(duration * (0.3 + 0.12 * moment));
    child.kill('SIGKILL');
    await done;
    const { outcome, error } = await host.once();
    assert.equal(error, null, `moment ${moment}`);
    assert.equal(outcome?.phase, 'in-sync');
    assert.deepEqual(await systemsOf(host), all(target));
    assert.equal((await agentStatus(host.state)).underWay, null);
  }
  const counters = world.reports.map(({ counter }) => counter);
  assert.deepEqual(
    counters,
    counters.map((_, i) => i + 1),
  );
});

test('a switch of an agent that died and that never ends', async () => {
  await using s = await setting(one, { switchSeconds: 1 });
  await mkdir(join(s.host.state, 'switch'), { recursive: true });
  const held = await tryLock(join(s.host.state, 'switch/lock'));
  assert.ok(held);
  s.world.publish(two);
  const { outcome, error } = await s.host.once();
  assert.deepEqual([outcome?.phase, error?.code], ['awaiting-lock', 'E_SWITCH_LOCKED']);
  assert.deepEqual(await systemsOf(s.host), all(one));
  await held[Symbol.asyncDispose]();
  assert.equal((await s.host.once()).outcome?.phase, 'in-sync');
});

test('a machine without namespaces, or without unshare: said before anything is fetched', async () => {
  await using s = await setting(one);
  s.world.publish(two);
  const bin = join(s.host.root, 'bin');
  await mkdir(bin);
  const path = process.env['PATH'] ?? '';
  const fake = join(bin, 'unshare');
  await writeFile(fake, '#!/bin/sh\necho "unshare: Operation not permitted" >&2; exit 1\n');
  await chmod(fake, 0o755);
  s.world.requests.length = 0;
  try {
    process.env['PATH'] = `${bin}:${path}`;
    const { error } = await s.host.once();
    assert.equal(error?.code, 'E_NAMESPACE');
    assert.match(error.message, /Operation not permitted/);
    // Only flock is left, which the agent needs first.
    await rm(fake);
    await writeFile(join(bin, 'flock'), '#!/bin/sh\nexit 0\n', { mode: 0o755 });
    process.env['PATH'] = bin;
    assert.equal((await s.host.once()).error?.code, 'E_TOOL_MISSING');
  } finally {
    process.env['PATH'] = path;
  }
  assert.ok(s.world.requests.every((line) => !line.includes('/nar/')));
  assert.deepEqual(await systemsOf(s.host), all(one));
});

test('receipts that the server refuses are kept, and the host goes on', async () => {
  await using s = await setting(one);
  const { world, host } = s;
  world.misbehave = (path, response) => {
    const document = '{"error":"E_RECEIPT_CHAIN","message":"a fork"}';
    return path.endsWith('/reports') && Boolean(response.writeHead(409).end(document));
  };
  world.publish(two);
  const { outcome, error, receipts } = await host.once();
  assert.deepEqual([outcome?.phase, error, receipts.queued], ['in-sync', null, 1]);
  assert.equal(receipts.problem?.code, 'E_RECEIPT_REFUSED');
  assert.match(receipts.problem?.message ?? '', /a fork/);
});

test('an agent belongs to the place it was enrolled for', async () => {
  await using s = await setting(one);
  const elsewhere = join(s.host.root, 'elsewhere');
  for (const verb of ['once', 'status']) {
    const args = ['agent', '--root', elsewhere, '--state', s.host.state, verb];
    const { code, stderr } = await fleet(args);
    assert.equal(code, 2);
    assert.match(stderr, /E_USAGE/);
  }
  const { code, stdout } = await fleet(['agent', '--state', s.host.state, 'status']);
  assert.equal(code, 0);
  assert.match(stdout, /^host +alpha \(x86_64-linux\) of fleet world\.test$/m);
  assert.match(stdout, /^phase +in-sync, since /m);
});

test('not enrolled, and half forgotten, by their codes', async () => {
  await using s = await setting(one);
  const args = ['agent', '--state', s.host.state];
  const none = await fleet(['agent', '--state', join(s.host.root, 'none'), 'once', '--json']);
  assert.equal(none.code, 1);
  assert.equal(JSON.parse(none.stdout).error.code, 'E_AGENT_NOT_ENROLLED');
  assert.ok(!existsSync(join(s.host.root, 'none')));
  // agent.json alone is lost: what was accepted must not be forgotten by enrolling over it.
  await rm(join(s.host.state, 'agent.json'));
  const file = join(s.host.root, 'again.json');
  s.world.now = Math.floor(Date.now() / 1000);
  const { enrolFileOf } = await import('../helpers/world.ts');
  await writeFile(file, enrolFileOf(s.world));
  const again = await fleet([...args, 'enroll', file]);
  assert.equal(again.code, 1);
  assert.match(again.stderr, /E_STATE_INCOMPLETE/);
  assert.match(await readFile(join(s.host.state, 'trust.json'), 'utf8'), /"sequence": 1/);
});
