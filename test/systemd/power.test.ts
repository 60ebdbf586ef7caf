// Power that goes away, at every step of an update and at any moment: after the next boot the host is on the old system or the
// new one, whole, and goes on by itself. A cut kills all processes at once; what only real hardware forgets is not tried.
import assert from 'node:assert/strict';
import { randomInt } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { type TestContext, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Step } from '../../src/agent/machine.ts';
import { type Activation, DEFAULT_ACTIVATION } from '../../src/manifest/activation.ts';
import type { BuiltSystem } from '../helpers/systems.ts';
import { temporaryDirectory } from '../helpers/temporary.ts';
import { whyNot } from './machine.ts';
import { currentOf, type Setting, setting, toldOf, waitFor } from './setting.ts';
import { agentUnit, service, systemdSystem } from './system.ts';

const skip = (await whyNot()) ?? false;
const CUTS = Number(process.env['FLEET_POWER_CUTS'] ?? 10);

const top = await temporaryDirectory();
test.after(() => top[Symbol.asyncDispose]());
type Files = Readonly<Record<string, string>>;
const system = (name: string, units: Files = {}, more: Files = {}) =>
  systemdSystem(top.path, name, { 'fleet-agent.service': agentUnit(), ...units }, more);

/** A check that takes its time, and says what `script` says. */
const slowly = (script: string): Partial<Activation> => {
  const command = ['/bin/sh', '-c', `sleep 1; ${script}`];
  return { health: { ...DEFAULT_ACTIVATION.health, commands: [command] }, confirmSeconds: 20 };
};

/** Takes the power away as soon as the journal says that this step was begun, and gives it back. */
async function cutAt({ machine }: Setting, wanted: Step): Promise<void> {
  const file = machine.path('/var/lib/fleet-agent/journal.json');
  await waitFor(`the step ${wanted}`, () => {
    const { transaction } = JSON.parse(readFileSync(file, 'utf8')) as {
      transaction: { step: Step } | null;
    };
    return transaction?.step === wanted;
  });
  await sleep(randomInt(500));
  await machine.cut();
  await machine.boot();
}

const IN_PLACE: readonly Step[] = ['checking', 'activating', 'verifying', 'committing'];
const BY_BOOT: readonly Step[] = ['setting', 'awaiting-boot', 'confirming'];

for (const step of [...IN_PLACE, ...BY_BOOT]) {
  test(`a power cut while ${step}: the old or the new system, whole, then the new one`, {
    skip,
  }, async (t) => {
    const { old, next, s } = await begun(t, step);
    const rules = { ...DEFAULT_ACTIVATION, ...slowly('true') };
    const mode = IN_PLACE.includes(step) ? 'switch' : 'boot';
    const digest = s.world.publish(next, { activation: { ...rules, mode } });
    if (step === 'confirming') {
      // Its own way there: it is booted once it is set.
      await waitFor('it is set', () => s.world.reports.at(-1)?.phase === 'reboot-pending');
      await s.machine.cut();
      await s.machine.boot();
    }
    await cutAt(s, step);
    await isWhole(s, [old, next]);
    // Where it was not set before the cut, somebody has to boot it once more.
    if (mode === 'boot' && (await currentOf(s)) === old.toplevel) {
      await waitFor('it is set', async () => (await entryOf(s)) === next.toplevel);
      await waitFor('and told', () => s.world.reports.at(-1)?.phase === 'reboot-pending');
      await s.machine.cut();
      await s.machine.boot();
    }
    // A host that booted the old one says that it was interrupted, and tries again.
    let told = await toldOf(s, digest);
    if (told.phase !== 'in-sync') {
      assert.deepEqual([told.phase, told.reason?.code], ['rolled-back', 'E_INTERRUPTED']);
      const before = told.counter;
      const isNewer = () => (s.world.reports.at(-1)?.counter ?? 0) > before;
      await waitFor('it is tried again', isNewer);
      told = await toldOf(s, digest);
    }
    assert.equal(told.phase, 'in-sync');
    assert.equal(await currentOf(s), next.toplevel);
    assert.equal(await entryOf(s), next.toplevel);
  });
}

for (const [what, files, script] of [
  ['that is not healthy', {}, 'false'],
  ['whose boot loader fails', { 'boot-fails': '' }, 'true'],
] as const) {
  test(`a power cut while a system ${what} is undone: the old one, and no other`, {
    skip,
  }, async (t) => {
    const { old, s } = await begun(t, `undoing-${script}`);
    const next = await system(`undoing-bad-${script}`, {}, { slow: '', ...files });
    const activation = { ...DEFAULT_ACTIVATION, ...slowly(script), confirmSeconds: 2 };
    const digest = s.world.publish(next, { activation });
    await cutAt(s, 'undoing');
    await isWhole(s, [old, next]);
    const told = await toldOf(s, digest);
    assert.equal(told.phase, 'rolled-back');
    assert.equal(told.reason?.code, script === 'true' ? 'E_SWITCH_FAILED' : 'E_HEALTH');
    assert.equal(await currentOf(s), old.toplevel);
    assert.equal(await entryOf(s), old.toplevel);
  });
}

async function begun(t: TestContext, name: string) {
  const old = await system(`${name}-old`, {}, { slow: '' });
  const next = await system(
    `${name}-new`,
    { 'a.service': service('exec sleep infinity') },
    {
      slow: '',
    },
  );
  return { old, next, s: await setting(t, top.path, old) };
}

const entryOf = async ({ machine }: Setting) => await machine.ok('cat', '/boot/entry');

/** It booted one of these, of which nothing is missing. */
async function isWhole({ machine }: Setting, systems: readonly BuiltSystem[]): Promise<string> {
  const booted = await machine.ok('readlink', '/run/booted-system');
  assert.ok(
    systems.some(({ toplevel }) => toplevel === booted),
    booted,
  );
  await machine.ok('nix-store', '--verify-path', booted);
  return booted;
}

test(`${CUTS} power cuts in mid-update: the old or the new system, whole, and then the newest`, {
  skip,
}, async (t) => {
  const systems = [
    await system('cut-a', { 'a.service': service('exec sleep infinity') }),
    await system('cut-b', { 'b.service': service('exec sleep infinity') }),
  ] as const;
  const s = await setting(t, top.path, systems[0]);
  const { world, machine } = s;
  const ended = new Map<string, number>();
  for (let round = 1; round <= CUTS; round++) {
    const [old, next] = round % 2 === 1 ? systems : [systems[1], systems[0]];
    const digest = world.publish(next);
    // An update takes some two to five seconds from its publication on.
    const ms = randomInt(6000);
    await sleep(ms);
    await machine.cut();
    await machine.boot();
    const at = `round ${round}, ${ms} ms`;
    const booted = await isWhole(s, [old, next]);
    ended.set(
      booted === old.toplevel ? 'old' : 'new',
      (ended.get(booted === old.toplevel ? 'old' : 'new') ?? 0) + 1,
    );
    await waitFor(`${at}: ${next.name} runs and is told of`, async () => {
      const { sha256, phase } = {
        ...world.reports.at(-1)?.manifest,
        phase: world.reports.at(-1)?.phase,
      };
      return sha256 === digest && phase === 'in-sync' && (await currentOf(s)) === next.toplevel;
    });
    assert.equal(await machine.ok('cat', '/boot/entry'), next.toplevel, at);
  }
  t.diagnostic(`after the cut: ${JSON.stringify(Object.fromEntries(ended))}`);
  // Nothing is lost and nothing is told twice.
  assert.deepEqual(
    world.reports.map(({ counter }) => counter),
    world.reports.map((_, i) => i + 1),
  );
});
