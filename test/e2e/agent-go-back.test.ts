// Going back by hand, in real stores: only to the last good system, with the care of any other switch, also when it is
// killed on the way; and what is kept of it.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { readJournal, writeJournal } from '../../src/agent/journal.ts';
import { changeLocal, readLocal } from '../../src/agent/local.ts';
import { readChain, writeChain } from '../../src/agent/receipts.ts';
import { goBack, plead } from '../../src/agent/wishes.ts';
import { fleet, fleetOk } from '../helpers/cli.ts';
import {
  all,
  atRealTime,
  killDuring,
  logOf,
  plan,
  type Setting,
  setting,
  switchEnded,
  systemsOf,
  type TestHost,
} from '../helpers/hosts.ts';
import { buildSystem } from '../helpers/systems.ts';
import { temporaryDirectory } from '../helpers/temporary.ts';

const systems = await temporaryDirectory();
after(() => systems[Symbol.asyncDispose]());
const one = await buildSystem(systems.path, 'one');
const two = await buildSystem(systems.path, 'two');
const three = await buildSystem(systems.path, 'three');

/** A host that went from one to two. */
async function updated(make: typeof atRealTime = setting): Promise<Setting> {
  const s = await make(one);
  s.world.publish(two);
  assert.equal((await s.host.once()).outcome?.phase, 'in-sync');
  await rm(join(s.host.root, 'run/log'));
  return s;
}

async function wantBack(
  { world, host }: Pick<Setting, 'world' | 'host'>,
  reason = 'no sound',
): Promise<void> {
  await changeLocal(host.state, (local) => goBack(local, reason, 'local group', world.now));
}

/** Has a request wait. */
async function ask(host: TestHost, text: string, id: string, at: number): Promise<void> {
  await changeLocal(host.state, (local) => plead(local, { id, text, who: 'root' }, at));
}

test('back to the last good system, which runs and boots; what was left is held, and told', async () => {
  await using s = await updated();
  const { world, host } = s;
  await wantBack(s);
  const { outcome, error } = await host.once();
  assert.equal(error, null);
  assert.deepEqual([outcome?.phase, outcome?.reason?.text], ['held', 'no sound']);
  assert.deepEqual(await systemsOf(host), all(one));
  assert.deepEqual(await logOf(host), ['check system-one', 'test system-one', 'boot system-one']);
  const { who, phase, reason, manifest } = world.reports.at(-1) ?? {};
  assert.deepEqual([who, phase, reason?.code], ['local group', 'held', 'user-rollback']);
  assert.equal(manifest?.sha256, world.digest());
  const told = world.reports.length;
  for (let run = 0; run < 2; run++) assert.equal((await host.once()).outcome?.phase, 'held');
  assert.equal(world.reports.length, told);
  // Root's force tries what is held; so does the admin's word, whatever it names.
  assert.equal((await host.once({ retry: true })).outcome?.phase, 'in-sync');
  assert.equal(world.reports.at(-1)?.who, 'root');
  assert.deepEqual(await systemsOf(host), all(two));
  await wantBack(s);
  await host.once();
  assert.deepEqual(await systemsOf(host), all(one));
  world.publish(two);
  assert.equal((await host.once()).outcome?.phase, 'in-sync');
  assert.deepEqual(await systemsOf(host), all(two));
});

test('the way back survives an update that failed, and the garbage collector', async () => {
  await using s = await updated();
  const { world, host } = s;
  await plan(host, 'exit-test-system-three', 1);
  world.publish(three);
  assert.equal((await host.once()).outcome?.phase, 'rolled-back');
  await rm(join(host.root, 'nix/var/nix/profiles'), { recursive: true, force: true });
  execFileSync('nix-store', ['--store', host.root, '--gc'], { stdio: 'ignore' });
  await wantBack(s);
  assert.equal((await host.once()).outcome?.phase, 'held');
  assert.deepEqual(await systemsOf(host), all(one));
});

test('no way back: none known, none twice, none that is gone, none below minSequence', async () => {
  await using fresh = await setting(one);
  await wantBack(fresh);
  assert.equal((await fresh.host.once()).error?.code, 'E_NO_WAY_BACK');
  // The wish is over, and updates go on.
  assert.equal((await readLocal(fresh.host.state)).back, null);
  assert.equal((await fresh.host.once()).outcome?.phase, 'in-sync');

  await using gone = await updated();
  const journal = await readJournal(gone.host.state);
  const lastGood = { toplevel: three.toplevel, manifest: null };
  await writeJournal(gone.host.state, { ...journal, lastGood });
  await wantBack(gone);
  assert.match((await gone.host.once()).error?.message ?? '', /is no longer in the store/);

  await using old = await updated();
  const before = await readJournal(old.host.state);
  const { running } = before;
  assert.ok(running?.manifest);
  const newer = { ...running, manifest: { ...running.manifest, epoch: 2 } };
  await writeJournal(old.host.state, { ...before, running: newer });
  await wantBack(old);
  assert.match((await old.host.once()).error?.message ?? '', /of an epoch before this one/);
  assert.deepEqual(await systemsOf(old.host), all(two));

  await using s = await updated();
  const { world, host } = s;
  world.publish(two, { sequence: 5, minSequence: 2 });
  assert.equal((await host.once()).outcome?.phase, 'in-sync');
  await wantBack(s);
  const { error } = await host.once();
  assert.equal(error?.code, 'E_NO_WAY_BACK');
  assert.match(error?.message ?? '', /is of sequence 1, and the admin allows none below 2/);
  assert.deepEqual(await systemsOf(host), all(two));
  // The next one lifts that, and of what runs the newest number counts.
  world.publish(three, { sequence: 6, minSequence: 5 });
  assert.equal((await host.once()).outcome?.phase, 'in-sync');
  await wantBack(s);
  assert.equal((await host.once()).outcome?.phase, 'held');
  assert.deepEqual(await systemsOf(host), all(two));
  await wantBack(s);
  assert.equal((await host.once()).error?.code, 'E_NO_WAY_BACK');
});

test('a system of before that has another agent is handed over to it, which holds what was left', async () => {
  await using s = await updated();
  const { host } = s;
  const unitFile = await ownUnit(s);
  await wantBack(s);
  assert.equal((await host.once({ unitFile })).outcome?.phase, 'verifying');
  assert.notEqual((await readLocal(host.state)).back, null);
  for (let run = 0; run < 2; run++) {
    assert.equal((await host.once({ unitFile })).outcome?.phase, 'held');
    assert.deepEqual(await systemsOf(host), all(one));
  }
});

test('one that fails after it was handed over is undone, and not tried again', async () => {
  await using s = await updated();
  const { host } = s;
  const unitFile = await ownUnit(s);
  await plan(host, 'exit-boot-system-one', 1);
  await wantBack(s);
  assert.equal((await host.once({ unitFile })).outcome?.phase, 'verifying');
  assert.equal((await host.once({ unitFile })).outcome?.phase, 'in-sync');
  assert.equal(s.world.reports.at(-2)?.phase, 'rolled-back');
  assert.deepEqual(await systemsOf(host), all(two));
  assert.deepEqual([(await readLocal(host.state)).back], [null]);
  assert.equal((await readJournal(host.state)).rejected, null);
});

/** The unit of this agent, which is another one in one and in two. */
async function ownUnit({ host }: Setting): Promise<string> {
  const file = join(host.root, 'run/unit');
  await writeFile(file, 'two');
  for (const { name } of [one, two]) {
    await plan(host, `do-test-system-${name}`, `echo ${name} >/run/unit`);
  }
  return file;
}

test('a way back that fails is undone, and says nothing about any manifest', async () => {
  await using s = await updated();
  const { world, host } = s;
  await plan(host, 'exit-test-system-one', 1);
  await wantBack(s);
  const { outcome } = await host.once();
  assert.deepEqual([outcome?.phase, outcome?.who], ['rolled-back', 'local group']);
  assert.deepEqual(await systemsOf(host), all(two));
  const { rejected, lastGood } = await readJournal(host.state);
  assert.equal(rejected, null);
  assert.equal(lastGood?.toplevel, one.toplevel);
  const local = await readLocal(host.state);
  assert.deepEqual([local.back, local.held], [null, null]);
  assert.equal((await host.once()).outcome?.phase, 'in-sync');
  assert.equal(world.reports.at(-1)?.phase, 'in-sync');
});

test('kill -9 on the way back, at each step: the next run goes on with it', async () => {
  for (const action of ['check', 'test', 'boot']) {
    await using s = await updated(atRealTime);
    const { world, host } = s;
    await plan(host, `sleep-${action}-system-one`, 1);
    await wantBack(s);
    await killDuring(host, `${action} system-one`);
    await switchEnded(host);
    await rm(join(host.root, `run/sleep-${action}-system-one`));
    const { outcome } = await host.once();
    assert.equal(outcome?.phase, 'held', action);
    assert.deepEqual(await systemsOf(host), all(one), action);
    const { running, lastGood, transaction } = await readJournal(host.state);
    assert.deepEqual([running?.toplevel, lastGood, transaction], [one.toplevel, null, null]);
    assert.equal(running?.manifest?.sequence, 1);
    assert.equal(world.reports.at(-1)?.reason?.code, 'user-rollback');
  }
});

test('a wish that no run could begin for an hour is over', async () => {
  await using s = await updated();
  const { world, host } = s;
  await wantBack(s);
  world.now += 3700;
  assert.equal((await host.once()).outcome?.phase, 'in-sync');
  assert.equal((await readLocal(host.state)).back, null);
  assert.deepEqual(await systemsOf(host), all(two));
});

test('requests are told in order, once each, also after a death between the receipt and its note', async () => {
  await using s = await setting(one);
  const { world, host } = s;
  const told = () => world.reports.flatMap(({ request }) => (request ? [request] : []));
  await ask(host, 'first', '1'.repeat(16), world.now);
  // Nobody is there: it becomes a receipt that waits.
  world.misbehave = (_path, response) => {
    response.destroy();
    return true;
  };
  assert.equal((await host.once()).error?.code, 'E_SERVER_UNREACHABLE');
  await ask(host, 'second', '2'.repeat(16), world.now);
  const before = await readFile(join(host.state, 'local.json'));
  await host.once();
  assert.equal((await readLocal(host.state)).requests.length, 0);
  assert.equal((await readChain(host.state)).queue.length, 2);
  // It died when the receipt was durable, and local.json was not yet.
  await writeFile(join(host.state, 'local.json'), before);
  await ask(host, 'third', '3'.repeat(16), world.now);
  world.misbehave = () => false;
  await host.once();
  assert.deepEqual(told(), [
    { number: 1, text: 'first' },
    { number: 2, text: 'second' },
    { number: 3, text: 'third' },
  ]);
  assert.equal(world.reports.at(-1)?.who, 'root');
  assert.equal(world.reports.at(-1)?.phase, 'in-sync');
  assert.equal((await readLocal(host.state)).requests.length, 0);
});

test('where the queue is full a request waits', async () => {
  await using s = await setting(one);
  const { world, host } = s;
  await ask(host, 'patience', '1'.repeat(16), world.now);
  const chain = await readChain(host.state);
  const full = Array.from({ length: 256 }, () => '{}');
  // Half of it is for what becomes of updates.
  for (const length of [256, 128]) {
    await writeChain(host.state, { ...chain, queue: full.slice(0, length) });
    await host.once();
    assert.equal((await readLocal(host.state)).requests.length, 1);
  }
  world.publish(two);
  await host.once();
  assert.equal((await readChain(host.state)).queue.length, 129);
  assert.equal((await readLocal(host.state)).requests.length, 1);
  await writeChain(host.state, chain);
  await host.once();
  assert.equal(world.reports.at(-1)?.request?.text, 'patience');
});

test('a damaged local.json stops no update: what can be read stays, and commands refuse until then', async () => {
  await using s = await updated();
  const { world, host } = s;
  await wantBack(s);
  await host.once();
  const file = join(host.state, 'local.json');
  const text = await readFile(file, 'utf8');
  await writeFile(file, text.replace('"requests": []', '"requests": [7]'));
  const refused = await fleet(['agent', 'request', 'x', '--state', host.state]);
  assert.equal(refused.code, 1);
  assert.match(refused.stderr, /local\.json is damaged: .*\[E_AGENT_STATE_CORRUPT\]/);
  const status = await fleet(['agent', 'status', '--state', host.state]);
  assert.match(status.stdout, /local\.json +.*is damaged/);
  assert.equal((await host.once()).outcome?.phase, 'held');
  assert.equal((await readdir(host.state)).filter((name) => /damaged/.test(name)).length, 1);

  await writeFile(file, 'nonsense');
  world.publish(three);
  assert.equal((await host.once()).outcome?.phase, 'in-sync');
  assert.deepEqual(await systemsOf(host), all(three));
});

test('reset-trust names what a damaged local.json loses, and makes it whole', async () => {
  await using s = await updated();
  const { host } = s;
  await wantBack(s);
  await host.once();
  const file = join(host.state, 'local.json');
  const text = await readFile(file, 'utf8');
  await writeFile(file, text.replace('"coming": null', '"coming": 7'));
  const args = ['agent', 'reset-trust', '--yes', '--json', '--state', host.state];
  const { damaged, kept } = JSON.parse(await fleetOk(args));
  assert.equal(damaged.length, 1);
  assert.match(damaged[0].lost.join(), /^since when an update waits/);
  assert.match(kept[0], /^local\.json\.damaged-/);
  assert.equal((await readLocal(host.state)).held?.reason, 'no sound');
  assert.equal((await host.once()).outcome?.phase, 'held');
});
