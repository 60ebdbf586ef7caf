// When an update may begin: windows, people, the line and the battery, through the agent as it is. (Every combination
// of rules: test/agent/policy.test.ts.)
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { readJournal } from '../../src/agent/journal.ts';
import { changeLocal } from '../../src/agent/local.ts';
import type { OnceResult } from '../../src/agent/once-options.ts';
import { NO_WISHES, type Wishes } from '../../src/agent/policy.ts';
import { type Activation, DEFAULT_ACTIVATION } from '../../src/manifest/activation.ts';
import { formatTime } from '../../src/manifest/time.ts';
import { verdictOf } from '../helpers/health.ts';
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
  type TestHost,
} from '../helpers/hosts.ts';
import { withPrograms } from '../helpers/programs-on-path.ts';
import { buildSystem } from '../helpers/systems.ts';
import { temporaryDirectory } from '../helpers/temporary.ts';

const systems = await temporaryDirectory();
after(() => systems[Symbol.asyncDispose]());
const one = await buildSystem(systems.path, 'one');
const two = await buildSystem(systems.path, 'two');
const three = await buildSystem(systems.path, 'three');

const HOUR = 3600;
const rules = (changes: Partial<Activation>): { activation: Activation } => ({
  activation: { ...DEFAULT_ACTIVATION, confirmSeconds: 60, ...changes },
});

/** A window that opens in so many minutes (from the whole one before), for an hour. */
function windowIn(now: number, minutes: number): { window: string; opens: number } {
  const opens = Math.floor(now / 60) * 60 + minutes * 60;
  const [from, to] = [opens, opens + HOUR].map((at) => formatTime(at).slice(11, 16));
  return { window: `${from}-${to} UTC`, opens };
}

/** It waits, with this phase and code, on system one, and is no failure; the server is told once. */
async function waits(
  { world, host }: Setting,
  [phase, code]: readonly [string, string],
  run: () => Promise<OnceResult> = () => host.once(),
): Promise<OnceResult> {
  const before = world.reports.length;
  const result = await run();
  assert.deepEqual([result.outcome?.phase, result.outcome?.reason?.code], [phase, code]);
  assert.equal(result.error, null);
  assert.deepEqual(await systemsOf(host), all(one));
  const told = world.reports.slice(before).map(({ phase }) => phase);
  assert.deepEqual(told, [phase]);
  await run();
  assert.equal(world.reports.length, before + 1);
  return result;
}

/** What somebody at the machine wants of the manifest with this digest. */
const wish = (host: TestHost, sha256: string, { deferredUntil: until, applyNow }: Wishes) =>
  changeLocal(host.state, (local) => ({
    ...local,
    deferred: until === null ? null : { sha256, until, who: 'local group' },
    now: applyNow ? { sha256, who: 'local group' } : null,
  }));

test('a closed window: fetched, told with its time, and switched to once it is open', async () => {
  await using s = await setting(one);
  const { world, host } = s;
  const { window, opens } = windowIn(world.now, 90);
  const digest = world.publish(two, rules({ windows: [window] }));
  const { fetched, next, outcome } = await waits(s, ['awaiting-window', 'window-closed']);
  assert.equal(fetched?.paths, 2);
  assert.equal(next, opens);
  assert.equal(outcome?.reason?.text, `no window is open, until ${formatTime(opens)}`);
  assert.deepEqual((await readJournal(host.state)).ready, { sha256: digest, at: world.now });
  assert.deepEqual(await logOf(host), []);
  // What waits is asked for anew by nobody: the closure file least of all.
  world.requests.length = 0;
  await host.once();
  assert.deepEqual(
    world.requests.map((line) => line.replace(/[?].*/, '')),
    ['GET /v1/hosts/alpha/offer'],
  );
  world.now = opens - 1;
  assert.equal((await host.once()).outcome?.phase, 'awaiting-window');
  world.now = opens;
  const done = await host.once();
  assert.deepEqual([done.outcome?.phase, done.next], ['in-sync', null]);
  assert.deepEqual(await systemsOf(host), all(two));
  assert.equal((await readJournal(host.state)).ready, null);
});

test('one that waited and failed is over: it is not ready any more', async () => {
  await using s = await setting(one);
  const { world, host } = s;
  const { window, opens } = windowIn(world.now, 90);
  world.publish(two, rules({ windows: [window] }));
  await waits(s, ['awaiting-window', 'window-closed']);
  await plan(host, 'exit-test-system-two', 1);
  world.now = opens;
  assert.equal((await host.once()).outcome?.phase, 'rolled-back');
  const { ready, rejected } = await readJournal(host.state);
  assert.deepEqual([ready, rejected?.reason.code], [null, 'E_SWITCH_FAILED']);
});

test('an emergency passes over a window, a person, the battery and the line, and looks at none of them', async () => {
  await using s = await setting(one);
  const { world, host } = s;
  const given = rules({
    windows: [windowIn(world.now, 90).window],
    ask: true,
    deferral: { maxHours: 48 },
    waitWhile: { batteryBelow: 100, metered: true, inhibitors: true, sessions: true },
  });
  const said: string[] = [];
  const digest = world.publish(two, { ...given, emergency: true });
  await wish(host, digest, { deferredUntil: world.now + HOUR, applyNow: false });
  const asked = join(world.dir, 'asked');
  const run = () => host.once({ say: (line) => said.push(line) });
  const { outcome } = await withPrograms({ busctl: `echo >${asked}; exit 1` }, run);
  assert.equal(outcome?.phase, 'in-sync');
  assert.deepEqual(await systemsOf(host), all(two));
  assert.equal(said.filter((line) => line.includes('emergency')).length, 2);
  await assert.rejects(readFile(asked), { code: 'ENOENT' });
});

test('a person is asked, puts it off, and cannot beyond the deadline', async () => {
  await using s = await setting(one);
  const { world, host } = s;
  const since = world.now;
  const digest = world.publish(two, rules({ ask: true, deferral: { maxHours: 8 } }));
  const { next } = await waits(s, ['awaiting-user', 'asked']);
  assert.equal(next, since + 8 * HOUR);
  const run = () => host.once();
  await wish(host, digest, { deferredUntil: since + 2 * HOUR, applyNow: false });
  assert.equal((await waits(s, ['awaiting-user', 'deferred'], run)).next, since + 2 * HOUR);
  await wish(host, digest, { deferredUntil: since + 1000 * HOUR, applyNow: false });
  const told = world.reports.length;
  for (let i = 0; i < 2; i++) assert.equal((await run()).next, since + 8 * HOUR);
  // Until another time is news, once.
  const texts = world.reports.slice(told).map(({ reason }) => reason?.text);
  assert.deepEqual(texts, [`put off at the machine until ${formatTime(since + 8 * HOUR)}`]);
  world.now = since + 8 * HOUR - 1;
  assert.deepEqual(verdictOf(await run()), ['awaiting-user', 'deferred']);
  // Another manifest has a deadline of its own.
  world.publish(three, rules({ ask: true, deferral: { maxHours: 8 } }));
  assert.equal((await run()).next, world.now + 8 * HOUR);
  assert.deepEqual(await systemsOf(host), all(one));
  world.now += 8 * HOUR;
  assert.equal((await run()).outcome?.phase, 'in-sync');
  assert.deepEqual(await systemsOf(host), all(three));
});

test('"apply now" is of the manifest that it was said of', async () => {
  await using s = await setting(one);
  const { world, host } = s;
  const { window } = windowIn(world.now, 90);
  const digest = world.publish(two, rules({ ask: true, windows: [window] }));
  const run = () => host.once();
  await waits(s, ['awaiting-user', 'asked']);
  await wish(host, digest, { ...NO_WISHES, applyNow: true });
  assert.equal((await run()).outcome?.phase, 'in-sync');
  world.publish(three, rules({ ask: true, windows: [window] }));
  assert.deepEqual(verdictOf(await run()), ['awaiting-user', 'asked']);
  assert.deepEqual(await systemsOf(host), all(two));
});

test('a clock that was ahead when the system came does not lengthen the wait for ever', async () => {
  await using s = await setting(one);
  const { world, host } = s;
  const right = world.now;
  world.publish(two, rules({ ask: true }));
  world.now += 250;
  world.freshAt = right;
  assert.equal((await host.once()).next, right + 250 + 24 * HOUR);
  world.now = right;
  assert.equal((await host.once()).next, right + 24 * HOUR);
});

const bus = (has: boolean, word: number): string =>
  `case "$*" in *NameHasOwner*) echo '{"type":"b","data":[${has}]}';; *) echo '{"type":"u","data":${word}}';; esac`;

test('a metered line, or one of which nobody knows: nothing is fetched', async () => {
  await using s = await setting(one);
  const { world, host } = s;
  world.publish(two, rules({ waitWhile: { metered: true } }));
  for (const [script, code] of [
    [bus(true, 1), 'metered'],
    [bus(true, 0), 'metered-unknown'],
    ['echo "no bus" >&2; exit 1', 'metered-unknown'],
  ] as const) {
    world.requests.length = 0;
    const { outcome, fetched } = await withPrograms({ busctl: script }, () => host.once());
    assert.deepEqual([outcome?.phase, outcome?.reason?.code], ['manifest-pending', code]);
    assert.equal(fetched, null);
    const asked = world.requests.filter((line) => /closures|nar/.test(line));
    assert.deepEqual(asked, []);
  }
  assert.equal((await readJournal(host.state)).ready, null);
  assert.deepEqual(
    world.reports.slice(1).map(({ reason }) => reason?.code),
    ['metered', 'metered-unknown'],
  );
  const free = await withPrograms({ busctl: bus(true, 4) }, () => host.once());
  assert.equal(free.outcome?.phase, 'in-sync');
  assert.deepEqual(await systemsOf(host), all(two));
});

test('somebody is logged in, or blocks it, or nobody knows: fetched, and not switched to', async () => {
  await using s = await setting(one);
  const { world, host } = s;
  const session = '["c1",1000,"alice","seat0","/org/freedesktop/login1/session/c1"]';
  const lock = '["shutdown","a backup","x","block",0,7]';
  const login = (sessions: string, locks: string): string => `case "$*" in
    *ListSessions) echo '{"type":"a(susso)","data":[[${sessions}]]}';;
    *ListInhibitors) echo '{"type":"a(ssssuu)","data":[[${locks}]]}';;
    *Class*) echo '{"type":"s","data":"user"}'; echo '{"type":"s","data":"active"}';; *) exit 9;; esac`;
  const digest = world.publish(two, rules({ waitWhile: { inhibitors: true, sessions: true } }));
  const there = async (script: string, wishes = NO_WISHES) => {
    await wish(host, digest, wishes);
    return await withPrograms({ busctl: script }, () => host.once());
  };
  await waits(s, ['awaiting-user', 'inhibited'], () => there(login(session, lock)));
  const held = await waits(s, ['awaiting-user', 'logged-in'], () => there(login(session, '')));
  assert.equal(held.outcome?.reason?.text, 'somebody is logged in');
  await waits(s, ['staged', 'inhibitors-unknown'], () => there('exit 1'));
  // Who says so is there; who makes a backup is not asked.
  const applyNow = { ...NO_WISHES, applyNow: true };
  await waits(s, ['awaiting-user', 'inhibited'], () => there(login(session, lock), applyNow));
  assert.equal((await there(login(session, ''), applyNow)).outcome?.phase, 'in-sync');
  assert.deepEqual(await systemsOf(host), all(two));
});

test('windows of no form that is known: refused before anything is fetched', async () => {
  await using s = await setting(one);
  const { world, host } = s;
  world.publish(two, rules({ windows: ['Sat *-*-* 03:00'] }));
  const { outcome, error, fetched } = await host.once();
  assert.deepEqual([outcome?.phase, error?.code, error?.exitCode], ['refused', 'E_WINDOW', 3]);
  assert.equal(fetched, null);
  assert.deepEqual(await systemsOf(host), all(one));
});

test('a switch that broke off goes on, though its window has closed meanwhile', async () => {
  await using s = await atRealTime(one);
  const { world, host } = s;
  const { window } = windowIn(world.now, 0);
  world.publish(two, rules({ windows: [window] }));
  await plan(host, 'sleep-test-system-two', 2);
  await killDuring(host, 'test system-two');
  world.now += 2 * HOUR;
  world.uptime += 2 * HOUR;
  const { outcome } = await host.once();
  assert.equal(outcome?.phase, 'in-sync');
  assert.deepEqual(await systemsOf(host), all(two));
});

test('once --json says when it is to be looked at again, and ends with 0', async () => {
  await using s = await atRealTime(one);
  const { window, opens } = windowIn(s.world.now, 90);
  s.world.publish(two, rules({ windows: [window] }));
  const { done } = startOnce(s.host);
  const { code, stdout } = await done;
  const { phase, next, error } = JSON.parse(stdout);
  assert.deepEqual([code, phase, next, error], [0, 'awaiting-window', opens, null]);
});
