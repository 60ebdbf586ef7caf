// The server cannot be heard from the new system: back to the old one, told once it is heard again, tried again less
// and less often; and in the end whoever cuts the line decides nothing, unless the host's rules say otherwise.
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { readJournal } from '../../src/agent/journal.ts';
import { DEFAULT_ACTIVATION } from '../../src/manifest/activation.ts';
import {
  all,
  atRealTime,
  killDuring,
  logOf,
  plan,
  type Setting,
  setting,
  startOnce,
  systemsOf,
  waitFor,
} from '../helpers/hosts.ts';
import { LOST, rules, verdictOf, WELL } from '../helpers/server-lost.ts';
import { buildSystem } from '../helpers/systems.ts';
import { temporaryDirectory } from '../helpers/temporary.ts';

const systems = await temporaryDirectory();
after(() => systems[Symbol.asyncDispose]());
const one = await buildSystem(systems.path, 'one');
const two = await buildSystem(systems.path, 'two');
const three = await buildSystem(systems.path, 'three');

/** From the moment on that system two runs, nobody answers, until it is gone or `isCut` is taken back. */
async function cutAfterSwitch({ world, host }: Setting): Promise<{ isCut: boolean }> {
  const line = { isCut: true };
  await plan(host, 'do-test-system-two', 'touch /run/switched');
  await plan(host, 'do-test-system-one', 'rm -f /run/switched');
  world.misbehave = (_path, response) => {
    const isSilent = line.isCut && existsSync(join(host.root, 'run/switched'));
    if (isSilent) response.destroy();
    return isSilent;
  };
  return line;
}

const switches = async ({ host }: Setting): Promise<number> =>
  (await logOf(host)).filter((line) => line === 'test system-two').length;

type Cut = Setting & { readonly line: { isCut: boolean } };

async function cutSetting(): Promise<Cut> {
  const s = await setting(one);
  return { ...s, line: await cutAfterSwitch(s) };
}

test('a server that goes away with the switch: back, and the reason told once it is there again', async () => {
  await using s = await cutSetting();
  const { world, host, line } = s;
  world.publish(two, { activation: rules({ confirmSeconds: 4 }) });
  const began = world.reports.length;
  const result = await host.once();
  assert.deepEqual(verdictOf(result), LOST);
  assert.match(result.error?.hint ?? '', /tried again by itself/);
  assert.match(result.outcome?.reason?.text ?? '', /no word of the server in the 4 s/);
  assert.deepEqual(await systemsOf(host), all(one));
  // The old system's line is as it was: the receipt has come.
  assert.deepEqual(
    world.reports.slice(began).map(({ reason }) => reason?.code),
    ['E_SERVER_LOST'],
  );
  assert.equal((await readJournal(host.state)).rejected, null);
  // It is not told again, nor tried, before it is time.
  line.isCut = false;
  world.now += 59;
  const early = await host.once();
  assert.deepEqual(verdictOf(early), LOST);
  assert.match(early.outcome?.reason?.text ?? '', /; tried again from 20.*Z on$/);
  assert.equal(await switches(s), 1);
  assert.equal(world.reports.length, began + 1);
  world.now += 1;
  assert.deepEqual(verdictOf(await host.once()), WELL);
  assert.deepEqual(await systemsOf(host), all(two));
  assert.equal((await readJournal(host.state)).lost, null);
});

test('a server that stays away: the reason waits, and is told when it is back', async () => {
  await using s = await setting(one);
  const { world, host } = s;
  let isGone = false;
  world.misbehave = (path, response) => {
    isGone ||= path.endsWith('/fresh');
    if (isGone) response.destroy();
    return isGone;
  };
  world.publish(two, { activation: rules() });
  const { outcome, receipts } = await host.once();
  assert.deepEqual([outcome?.phase, receipts.queued], ['rolled-back', 1]);
  assert.deepEqual(await systemsOf(host), all(one));
  assert.equal((await host.once()).error?.code, 'E_SERVER_UNREACHABLE');
  assert.equal(world.reports.length, 1);
  world.misbehave = () => false;
  await host.once();
  assert.deepEqual(
    world.reports.map(({ phase, reason }) => [phase, reason?.code]),
    [
      ['in-sync', undefined],
      ['rolled-back', 'E_SERVER_LOST'],
    ],
  );
});

test('nobody at the server’s address any more', async () => {
  await using s = await setting(one);
  const { world, host } = s;
  await plan(host, 'sleep-test-system-two', 0.5);
  world.publish(two, { activation: rules() });
  const running = host.once();
  await waitFor(async () => (await switches(s)) === 1);
  await world.stop();
  const result = await running;
  assert.deepEqual(verdictOf(result), LOST);
  assert.match(result.outcome?.reason?.text ?? '', /REFUSED/);
  assert.deepEqual(await systemsOf(host), all(one));
});

test('a server that is there again in time is enough', async () => {
  await using s = await setting(one);
  const { world, host } = s;
  let asked = 0;
  world.misbehave = (path, response) => {
    if (!path.endsWith('/fresh') || ++asked > 2) return false;
    response.destroy();
    return true;
  };
  world.publish(two, { activation: rules({ confirmSeconds: 60 }) });
  assert.deepEqual(verdictOf(await host.once()), WELL);
  assert.equal(asked, 3);
});

test('a server that takes the question and says nothing is asked anew, on another connection', async () => {
  await using s = await setting(one);
  const { world, host } = s;
  const ports = new Set<number | undefined>();
  world.misbehave = (path, _response, { socket }) => {
    if (path.endsWith('/fresh')) ports.add(socket.remotePort);
    return ports.size === 1;
  };
  world.publish(two, { activation: rules({ confirmSeconds: 12 }) });
  assert.deepEqual(verdictOf(await host.once()), WELL);
  assert.equal(ports.size, 2);
});

/** Runs until the local checks decide, or not; returns how many minutes lay between the switches. */
async function waits(s: Setting, runs: number): Promise<number[]> {
  const { world, host } = s;
  const minutes: number[] = [];
  let last = world.now;
  for (let count = await switches(s); minutes.length < runs; world.now += 60) {
    const { outcome } = await host.once();
    if ((await switches(s)) === count) continue;
    count = await switches(s);
    minutes.push((world.now - last) / 60);
    last = world.now;
    if (outcome?.phase === 'in-sync') break;
    assert.equal(outcome?.reason?.code, 'E_SERVER_LOST');
  }
  return minutes;
}

test('tried again after 1, 4 and 16 minutes; after three losses the local checks decide', async () => {
  await using s = await cutSetting();
  const { world, host } = s;
  const commands = [['/bin/sh', '-c', 'test -e /run/well']];
  const health = { ...DEFAULT_ACTIVATION.health, commands };
  await plan(host, 'well', 1);
  world.publish(two, { activation: rules({ health, confirmSeconds: 2 }) });
  assert.deepEqual(await waits(s, 9), [0, 1, 4, 16]);
  assert.deepEqual(await systemsOf(host), all(two));
  // Of the next manifest, the server is asked again.
  await rm(join(host.root, 'run/switched'));
  world.requests.length = 0;
  world.publish(three, { activation: rules({ confirmSeconds: 60 }) });
  assert.deepEqual(verdictOf(await host.once()), WELL);
  assert.ok(world.requests.some((request) => request.includes('/fresh')));
  // The same news three times was told once.
  const told = world.reports.slice(1).map(({ phase }) => phase);
  assert.deepEqual(told, ['rolled-back', 'in-sync', 'in-sync']);
});

test('after three losses a system that is not healthy is not kept', async () => {
  await using s = await cutSetting();
  const { world, host } = s;
  const commands = [['/bin/sh', '-c', '[ -e /run/well ]']];
  const health = { ...DEFAULT_ACTIVATION.health, commands };
  await plan(host, 'well', 1);
  world.publish(two, { activation: rules({ health, confirmSeconds: 2 }) });
  await waits(s, 3);
  await rm(join(host.root, 'run/well'));
  world.now += 16 * 60;
  const { outcome } = await host.once();
  assert.deepEqual([outcome?.phase, outcome?.reason?.code], ['rolled-back', 'E_HEALTH']);
  assert.deepEqual(await systemsOf(host), all(one));
});

test('serverLost rollback: the server has to be heard, however often it is not', async () => {
  await using s = await cutSetting();
  const { world, host, line } = s;
  world.publish(two, { activation: rules({ serverLost: 'rollback', confirmSeconds: 3 }) });
  assert.deepEqual(await waits(s, 4), [0, 1, 4, 16]);
  assert.deepEqual(await systemsOf(host), all(one));
  line.isCut = false;
  world.now += 64 * 60;
  assert.deepEqual(verdictOf(await host.once()), WELL);
});

test('root need not wait, and a newer manifest does not', async () => {
  await using s = await cutSetting();
  const { world, host, line } = s;
  world.publish(two, { activation: rules() });
  await host.once();
  assert.deepEqual(verdictOf(await host.once({ retry: true })), LOST);
  assert.equal((await readJournal(host.state)).lost?.count, 2);
  line.isCut = false;
  world.publish(two, { activation: rules({ confirmSeconds: 60 }) });
  assert.deepEqual(verdictOf(await host.once()), WELL);
});

test('onFailure keep is about the system, not about the line', async () => {
  await using s = await cutSetting();
  s.world.publish(two, { activation: rules({ onFailure: 'keep' }) });
  assert.deepEqual(verdictOf(await s.host.once()), LOST);
  assert.deepEqual(await systemsOf(s.host), all(one));
});

test('kill -9 while it goes back for that: counted once, and not before it is back', async () => {
  await using s = await atRealTime(one);
  const { world, host } = s;
  await cutAfterSwitch(s);
  await plan(host, 'sleep-test-system-one', 1);
  world.publish(two, { activation: rules() });
  await killDuring(host, 'test system-one');
  const { transaction, lost } = await readJournal(host.state);
  assert.deepEqual([transaction?.step, lost], ['undoing', null]);
  const { outcome } = await host.once();
  assert.deepEqual([outcome?.phase, outcome?.reason?.code], ['rolled-back', 'E_SERVER_LOST']);
  assert.deepEqual(await systemsOf(host), all(one));
  assert.equal((await readJournal(host.state)).lost?.count, 1);
  assert.equal(await switches(s), 1);
});

test('the command line says what it is about, and what happens next', async () => {
  await using s = await atRealTime(one);
  const { world, host } = s;
  await cutAfterSwitch(s);
  world.publish(two, { activation: rules() });
  const { code, stdout, stderr } = await startOnce(host).done;
  assert.equal(code, 1);
  const { phase, error } = JSON.parse(stdout);
  assert.deepEqual([phase, error.code], ['rolled-back', 'E_SERVER_LOST']);
  assert.match(stderr, /tried again by itself/);
  assert.ok(!`${stdout}${stderr}`.includes(world.token));
  assert.ok(!(await readFile(join(host.state, 'journal.json'), 'utf8')).includes(world.token));
});
