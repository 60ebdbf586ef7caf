// Activations on a machine whose tools are scripts: every door, from every step, with whatever the journal may say; and whole
// lives of a host, in which agents die at any moment, machines boot, others switch, and the watchdog goes off.
import assert from 'node:assert/strict';
import { chmod, mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, test } from 'node:test';
import fc from 'fast-check';
import { abandon, activate, expire, settle } from '../../src/agent/activate.ts';
import { drive } from '../../src/agent/drive.ts';
import type { Host } from '../../src/agent/host.ts';
import {
  EMPTY_JOURNAL,
  readJournal,
  type Transaction,
  writeJournal,
} from '../../src/agent/journal.ts';
import { STEPS } from '../../src/agent/machine.ts';
import { type ManifestId, readMemory } from '../../src/agent/memory.ts';
import { standingOf } from '../../src/agent/standing.ts';
import { type Activation, DEFAULT_ACTIVATION } from '../../src/manifest/activation.ts';
import { makeReason } from '../../src/manifest/receipt.ts';
import { setting } from '../helpers/hosts.ts';
import {
  dyingHost,
  makeCurrent,
  namesOf,
  sandboxHost,
  systemPath,
  useTools,
} from '../helpers/sandbox-host.ts';
import { temporaryDirectory } from '../helpers/temporary.ts';

/** As a run has it that nobody forces. By-hand switches are what these tests make, and drift is not what they are about. */
const HOW = { retry: false, mayReplace: true, held: null };

const top = await temporaryDirectory();
after(() => top[Symbol.asyncDispose]());
const enrolled = await setting(null);
after(() => enrolled[Symbol.asyncDispose]());
const memory = await readMemory(enrolled.host.state);
await useTools(top.path);

// Of different lengths: see systemPath.
const NAMES = ['old', 'next', 'third', 'newest', 'thelast'] as const;
type Name = (typeof NAMES)[number];
const NAME = fc.constantFrom(...NAMES);

let machines = 0;
async function machine(): Promise<Host> {
  machines += 1;
  return await sandboxHost(join(top.path, `machine-${machines}`), memory, NAMES, 'old');
}

const dirOf = ({ place }: Host): string => place.root ?? '';
const manifestOf = (name: Name): ManifestId => ({
  epoch: 1,
  sequence: 1 + NAMES.indexOf(name),
  sha256: String(NAMES.indexOf(name)).repeat(64),
});
const RULES: Activation = {
  ...DEFAULT_ACTIVATION,
  confirmSeconds: 1,
  health: { ...DEFAULT_ACTIVATION.health, commands: [['is-healthy']] },
};

function transactionOf(change: Partial<Transaction>): Transaction {
  return {
    id: 'one',
    step: 'activating',
    manifest: manifestOf('next'),
    target: systemPath('next'),
    rules: RULES,
    needsServer: false,
    previous: systemPath('old'),
    previousProfile: systemPath('old'),
    bootId: 'boot 0',
    again: false,
    touched: { system: true, boot: false },
    failedBefore: [],
    failedUnits: { added: [], removed: [] },
    foretold: null,
    rebootFor: null,
    exitCode: null,
    handedOver: false,
    done: null,
    why: null,
    ...change,
  };
}

/** What a run does whose server offers `name`; null: its server is away. */
async function run(host: Host, name: Name | null, rules: Activation): Promise<void> {
  const { dir } = host.memory;
  const { transaction } = await readJournal(dir);
  const settled = transaction === null ? null : await settle(host, transaction);
  if (settled?.phase === 'rebooting' || settled?.phase === 'verifying') return;
  if (name !== null) {
    const [manifest, target] = [manifestOf(name), systemPath(name)];
    if ((await standingOf(host, { told: null }, manifest, target, HOW)) === null) {
      const { transaction: unfinished } = await readJournal(dir);
      const plan = { manifest, target, rules, needsServer: false, unfinished };
      const { phase } = await activate(host, plan);
      if (phase === 'awaiting-lock' || phase === 'verifying') return;
    }
  }
  const left = (await readJournal(dir)).transaction;
  if (left !== null) await abandon(host, left, makeReason('E_INTERRUPTED', 'it broke off'));
}

test('every door, from every step, whatever the journal says: nothing happens that the table does not know', async () => {
  const doors = ['settle', 'abandon', 'expire', 'run', 'another'] as const;
  const steps = STEPS.filter((step) => step !== 'idle');
  const pairs = steps.flatMap((step) => doors.map((door) => ({ step, door })));
  const anything = fc.record({
    system: fc.boolean(),
    boot: fc.boolean(),
    again: fc.boolean(),
    handedOver: fc.boolean(),
    bootId: fc.constantFrom('boot 0', 'boot 1'),
    current: NAME,
    profile: NAME,
    previous: fc.constantFrom(null, 'old', 'next'),
    testCode: fc.constantFrom(0, 0, 1, 4, 11, 100),
    bootCode: fc.constantFrom(0, 0, 1, 11),
  });
  for (const { step, door } of pairs) {
    for (const one of fc.sample(anything, { numRuns: 5 })) {
      const host = { ...(await machine()), bootId: one.bootId };
      const dir = dirOf(host);
      await makeCurrent(dir, one.current);
      await writeFile(join(dir, 'run/exit-test-next'), `${one.testCode}\n`);
      await writeFile(join(dir, 'run/exit-boot-old'), `${one.bootCode}\n`);
      const { system, boot, again, handedOver } = one;
      const previous = one.previous === null ? null : systemPath(one.previous);
      const transaction = transactionOf({
        ...{ step, again, handedOver, previous },
        touched: { system, boot },
      });
      await writeJournal(host.memory.dir, { ...EMPTY_JOURNAL, transaction });
      const why = makeReason('E_INTERRUPTED', 'it broke off');
      const what = JSON.stringify({ step, door, ...one });
      try {
        if (door === 'settle') await settle(host, transaction);
        else if (door === 'abandon') await abandon(host, transaction, why);
        else if (door === 'expire') await expire(host, transaction);
        else await run(host, door === 'run' ? 'next' : 'newest', RULES);
      } catch (error) {
        assert.fail(`${what}: ${error}`);
      }
    }
  }
});

test('a switch that brings the machine down is tried again less and less often', async () => {
  const host = await machine();
  const { dir } = host.memory;
  const seen: (string | null)[] = [];
  for (let boot = 1; boot <= 3; boot++) {
    await writeJournal(dir, { ...(await readJournal(dir)), transaction: transactionOf({}) });
    const next = { ...host, bootId: `boot ${boot}` };
    await run(next, null, RULES);
    const { transaction, lost } = await readJournal(dir);
    assert.equal(transaction, null);
    assert.deepEqual([lost?.count, lost?.reason.code], [boot, 'E_INTERRUPTED']);
    const told = { told: null };
    const standing = await standingOf(next, told, manifestOf('next'), systemPath('next'), HOW);
    seen.push(standing?.reason?.text ?? null);
  }
  assert.equal(seen[0], null);
  assert.match(seen[1] ?? '', /^the machine went down in the middle of it; tried again from /);
  // What was only looked at is not what did it.
  const checking = transactionOf({ step: 'checking', touched: { system: false, boot: false } });
  await writeJournal(dir, { ...EMPTY_JOURNAL, transaction: checking });
  await run({ ...host, bootId: 'boot 4' }, null, RULES);
  assert.equal((await readJournal(dir)).lost, null);
});

test('somebody switches to what waits for a boot, and it is not healthy: that is undone, too', async () => {
  const host = await machine();
  const dir = dirOf(host);
  const waits = transactionOf({ step: 'awaiting-boot', touched: { system: false, boot: true } });
  await writeJournal(host.memory.dir, { ...EMPTY_JOURNAL, transaction: waits });
  await writeFile(join(dir, 'run/bad-next'), '');
  await makeCurrent(dir, 'next');
  const attempt = await settle(host, waits);
  assert.deepEqual([attempt?.phase, attempt?.reason?.code], ['rolled-back', 'E_HEALTH']);
  assert.deepEqual(await namesOf(dir), { current: 'old', profile: 'old', boot: 'old' });
});

test('somebody switches away while it is confirmed after a boot: no fault of it', async () => {
  const host = await machine();
  const touched = { system: true, boot: true };
  const confirming = transactionOf({ step: 'confirming', touched });
  await writeJournal(host.memory.dir, { ...EMPTY_JOURNAL, transaction: confirming });
  await makeCurrent(dirOf(host), 'third');
  const attempt = await settle(host, confirming);
  assert.deepEqual([attempt?.phase, attempt?.reason?.code], ['rolled-back', 'E_INTERRUPTED']);
  assert.equal((await readJournal(host.memory.dir)).rejected, null);
});

test('a system without the agent’s unit is not kept, whatever onFailure says', async () => {
  const host = await machine();
  const dir = dirOf(host);
  const rules: Activation = { ...RULES, onFailure: 'keep' };
  const verifying = transactionOf({ step: 'verifying', rules });
  await writeJournal(host.memory.dir, { ...EMPTY_JOURNAL, transaction: verifying });
  await makeCurrent(dir, 'next');
  const unit = { file: join(dir, 'no-unit'), was: 'something' };
  const attempt = await settle({ ...host, unit }, verifying);
  assert.deepEqual([attempt?.phase, attempt?.reason?.code], ['rolled-back', 'E_HEALTH']);
  assert.equal((await namesOf(dir)).current, 'old');
});

test('a watchdog is armed before the one of before is let go, and none is left in the end', async () => {
  const host = await machine();
  const verifying = transactionOf({ step: 'verifying' });
  const before = join(host.memory.dir, 'switch/armed-one-before');
  await writeFile(before, '');
  const broken = { ...host, unit: { file: join(dirOf(host), 'unit'), was: 'old' } };
  await writeFile(broken.unit.file, 'new');
  await makeCurrent(dirOf(host), 'next');
  await writeJournal(host.memory.dir, { ...EMPTY_JOURNAL, transaction: verifying });
  const armed = async () =>
    (await readdir(join(host.memory.dir, 'switch'))).filter((name) => name.startsWith('armed-'));
  const path = process.env['PATH'];
  process.env['PATH'] = '/nowhere';
  try {
    await assert.rejects(settle(broken, verifying), { code: 'E_PREFLIGHT' });
  } finally {
    process.env['PATH'] = path;
  }
  assert.ok((await armed()).includes('armed-one-before'));
  assert.equal((await settle(broken, verifying))?.phase, 'verifying');
  assert.equal((await armed()).length, 1);
  assert.ok(!(await armed()).includes('armed-one-before'));
  const { transaction } = await readJournal(host.memory.dir);
  assert.equal(transaction?.handedOver, true);
  if (transaction !== null) assert.equal((await settle(broken, transaction))?.phase, 'in-sync');
  assert.deepEqual(await armed(), []);
});

test('systemd that does not boot the machine: it waits, and that is told', async () => {
  const host = await machine();
  const bin = join(dirOf(host), 'bin');
  await mkdir(bin);
  await writeFile(join(bin, 'systemctl'), '#!/bin/sh\necho inhibited >&2\nexit 1\n');
  await chmod(join(bin, 'systemctl'), 0o755);
  const path = process.env['PATH'];
  process.env['PATH'] = `${bin}:${path}`;
  try {
    const waits = transactionOf({ step: 'awaiting-boot' });
    const told = {
      phase: 'reboot-pending',
      reason: makeReason('x', 'waits'),
      exitCode: 0,
    } as const;
    const attempt = await drive(host, waits, { event: 'may-boot', told });
    assert.equal(attempt?.phase, 'reboot-pending');
    assert.match(attempt?.reason?.text ?? '', /^waits; systemd does not boot .*inhibited/s);
    await writeFile(join(bin, 'systemctl'), '#!/bin/sh\n');
    const booting = await drive(host, waits, { event: 'may-boot', told });
    assert.deepEqual([booting?.phase, booting?.reason], ['rebooting', told.reason]);
  } finally {
    process.env['PATH'] = path;
  }
});

test('a generation that was deleted meanwhile: what ran before is what boots again', async () => {
  const host = await machine();
  const dir = dirOf(host);
  const touched = { system: true, boot: true };
  const why = makeReason('E_HEALTH', 'not healthy');
  const undoing = {
    step: 'undoing',
    touched,
    why,
    previousProfile: systemPath('gone-by-now'),
  } as const;
  await writeJournal(host.memory.dir, { ...EMPTY_JOURNAL, transaction: transactionOf(undoing) });
  await makeCurrent(dir, 'next');
  assert.equal((await settle(host, transactionOf(undoing)))?.phase, 'rolled-back');
  assert.deepEqual(await namesOf(dir), { current: 'old', profile: 'old', boot: 'old' });
});

test('what is given up is what ran before: the machine runs and boots that again', async () => {
  // The one that was tried in between could not be undone; then this one was offered again, and somebody booted another.
  const host = { ...(await machine()), bootId: 'boot 1' };
  const dir = dirOf(host);
  const next = systemPath('next');
  const touched = { system: true, boot: true };
  const before = { touched, previous: next, previousProfile: next };
  const committing = transactionOf({ ...before, step: 'committing', again: true });
  await writeJournal(host.memory.dir, { ...EMPTY_JOURNAL, transaction: committing });
  const attempt = await settle(host, committing);
  assert.deepEqual([attempt?.phase, attempt?.reason?.code], ['rolled-back', 'E_INTERRUPTED']);
  assert.deepEqual(await namesOf(dir), { current: 'next', profile: 'next', boot: 'next' });
  assert.equal((await readJournal(host.memory.dir)).transaction, null);
});

test('what only booted before did not run: where nothing else is known, nothing is said to be rolled back', async () => {
  const host = await machine();
  const dir = dirOf(host);
  const why = makeReason('E_HEALTH', 'not healthy');
  const before = { previous: null, previousProfile: systemPath('next') };
  const undoing = transactionOf({ ...before, step: 'undoing', why });
  await writeJournal(host.memory.dir, { ...EMPTY_JOURNAL, transaction: undoing });
  await makeCurrent(dir, 'next');
  const attempt = await settle(host, undoing);
  assert.deepEqual([attempt?.phase, attempt?.reason?.code], ['failed', 'E_HEALTH']);
  assert.match(attempt?.reason?.text ?? '', /^going back: no system of before is known; /);
});

test('what somebody switched to before it was offered is not healthy: the machine goes back to its profile', async () => {
  const host = await machine();
  const dir = dirOf(host);
  await makeCurrent(dir, 'next');
  await writeFile(join(dir, 'run/bad-next'), '');
  await run(host, 'next', RULES);
  const { transaction, rejected } = await readJournal(host.memory.dir);
  assert.deepEqual([transaction, rejected?.reason.code], [null, 'E_HEALTH']);
  assert.deepEqual(await namesOf(dir), { current: 'old', profile: 'old', boot: 'old' });
});

test('a journal of an agent from before all this: it is gone on with, and ends on one system', async () => {
  for (const step of ['activating', 'verifying', 'committing', 'undoing'] as const) {
    for (const bootId of ['boot 0', 'boot 1']) {
      const host = { ...(await machine()), bootId };
      const dir = dirOf(host);
      const touched = { system: true, boot: step === 'committing' };
      const { manifest, target, previous, previousProfile } = transactionOf({});
      const done = step === 'committing' ? { phase: 'in-sync', reason: null, exitCode: 0 } : null;
      const why = step === 'undoing' ? { code: 'E_SWITCH_FAILED', text: 'it failed' } : null;
      const then = { step, manifest, target, previous, previousProfile, touched, done, why };
      const transaction = { ...then, bootId: 'boot 0' };
      const text = JSON.stringify({ version: 1, transaction, rejected: null });
      await writeFile(join(host.memory.dir, 'journal.json'), text);
      if (bootId === 'boot 0') await makeCurrent(dir, 'next');
      await run(host, null, RULES);
      assert.equal((await readJournal(host.memory.dir)).transaction, null);
      const isKept = bootId === 'boot 0' && (step === 'verifying' || step === 'committing');
      const name = isKept ? 'next' : 'old';
      const all = { current: name, profile: name, boot: name };
      assert.deepEqual(await namesOf(dir), all, `${step}, ${bootId}`);
    }
  }
});

test('without a watchdog for it nothing is set for the next boot, and the next run is free', async () => {
  const host = await machine();
  const target = systemPath('next');
  const plan = { manifest: manifestOf('next'), target, needsServer: false, unfinished: null };
  let asked = 0;
  const failing = new Proxy(host, {
    get(of, name, receiver) {
      if (name === 'hasSystemd') asked += 1;
      // First for the units that are failed, then for the watchdog.
      if (name === 'hasSystemd' && asked === 2) throw new Error('no space');
      return Reflect.get(of, name, receiver);
    },
  });
  const attempt = await activate(failing, { ...plan, rules: { ...RULES, mode: 'boot' } });
  assert.deepEqual([attempt.phase, attempt.reason?.code], ['rolled-back', 'E_PREFLIGHT']);
  assert.match(attempt.reason?.text ?? '', /^no watchdog for the switch: no space/);
  assert.deepEqual(await namesOf(dirOf(host)), { current: 'old', profile: 'old', boot: 'old' });
  const { transaction, rejected } = await readJournal(host.memory.dir);
  assert.deepEqual([transaction, rejected], [null, null]);
  const log = await readFile(join(dirOf(host), 'run/log'), 'utf8');
  assert.doesNotMatch(log, /next/);
});

type Event =
  | { readonly is: 'run'; readonly offer: Name | null; readonly dies: number | null }
  | { readonly is: 'expire'; readonly dies: number | null }
  | { readonly is: 'boot' }
  | { readonly is: 'boot-by-hand'; readonly to: Name }
  | { readonly is: 'switch'; readonly to: Name }
  | { readonly is: 'exit'; readonly action: string; readonly of: Name; readonly code: number };

const DIES = fc.option(fc.integer({ min: 1, max: 60 }), { freq: 2 });
const EVENT: fc.Arbitrary<Event> = fc.oneof(
  {
    weight: 5,
    arbitrary: fc.record({
      is: fc.constant('run' as const),
      offer: fc.constantFrom('next', 'next', 'newest', null),
      dies: DIES,
    }),
  },
  { weight: 1, arbitrary: fc.record({ is: fc.constant('expire' as const), dies: DIES }) },
  { weight: 2, arbitrary: fc.record({ is: fc.constant('boot' as const) }) },
  {
    weight: 1,
    arbitrary: fc.record({
      is: fc.constantFrom('boot-by-hand' as const, 'switch' as const),
      to: fc.constantFrom('old', 'third'),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      is: fc.constant('exit' as const),
      action: fc.constantFrom('check', 'test', 'boot'),
      of: fc.constantFrom('old', 'next', 'newest'),
      code: fc.constantFrom(0, 0, 1, 4, 11, 100),
    }),
  },
);

/** Lets `events` happen, and gives the host as it is then. */
async function live(host: Host, events: readonly Event[], rules: Activation): Promise<Host> {
  const dir = dirOf(host);
  let boots = 0;
  let now = host;
  const boot = async (name: string): Promise<void> => {
    boots += 1;
    now = { ...now, bootId: `boot ${boots}` };
    await makeCurrent(dir, name);
  };
  for (const event of events) {
    if (event.is === 'boot') await boot((await namesOf(dir)).boot);
    else if (event.is === 'boot-by-hand') await boot(event.to);
    else if (event.is === 'switch') await makeCurrent(dir, event.to);
    else if (event.is === 'exit') {
      // One that fails its check is not booted either.
      const code = event.action === 'boot' && event.code > 1 ? 11 : event.code;
      await writeFile(join(dir, `run/exit-${event.action}-${event.of}`), `${code}\n`);
    } else {
      const { host: at, isDead } = dyingHost(now, event.dies ?? Number.POSITIVE_INFINITY);
      try {
        const { transaction } = await readJournal(now.memory.dir);
        if (event.is === 'run') await run(at, event.offer, rules);
        else if (transaction !== null) await expire(at, transaction);
      } catch (error) {
        if (!isDead()) throw error;
      }
    }
  }
  return now;
}

const LIVES = Number(process.env['FLEET_LIVES'] ?? 40);

test(`${LIVES} lives of a host: in the end it is whole, and runs no system that was not healthy`, async () => {
  const life = fc.record({
    events: fc.array(EVENT, { minLength: 2, maxLength: 10 }),
    mode: fc.constantFrom('switch' as const, 'boot' as const),
    isBad: fc.boolean(),
  });
  await fc.assert(
    fc.asyncProperty(life, async ({ events, mode, isBad }) => {
      const host = await machine();
      const dir = dirOf(host);
      const rules = { ...RULES, mode };
      if (isBad) await writeFile(join(dir, 'run/bad-next'), '');
      const lived = await live(host, events, rules);
      // Nothing is in the way any more, and the server is away.
      for (const action of ['check', 'test', 'boot']) {
        for (const name of NAMES)
          await rm(join(dir, `run/exit-${action}-${name}`), { force: true });
      }
      await run(lived, null, rules);
      let now = lived;
      const { transaction } = await readJournal(now.memory.dir);
      if (transaction !== null) {
        assert.equal(transaction.step, 'awaiting-boot');
        now = { ...now, bootId: 'the last boot' };
        await makeCurrent(dir, (await namesOf(dir)).boot);
        await run(now, null, rules);
      }
      assert.equal((await readJournal(now.memory.dir)).transaction, null);
      const { current, profile, boot } = await namesOf(dir);
      assert.equal(boot, profile);
      if (isBad) assert.ok(current !== 'next' && boot !== 'next', `${current} ${boot}`);
      // And what comes is taken.
      await run(now, 'thelast', { ...rules, mode: 'switch' });
      const all = { current: 'thelast', profile: 'thelast', boot: 'thelast' };
      assert.deepEqual(await namesOf(dir), all);
      await rm(dir, { recursive: true });
    }),
    { numRuns: LIVES, endOnFailure: false },
  );
});
