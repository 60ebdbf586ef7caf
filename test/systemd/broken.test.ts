// Updates that break a machine with a real systemd, each in its way: it ends on the system of before, without help, and tells why.
import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { type Activation, DEFAULT_ACTIVATION } from '../../src/manifest/activation.ts';
import type { BuiltSystem } from '../helpers/systems.ts';
import { temporaryDirectory } from '../helpers/temporary.ts';
import { whyNot } from './machine.ts';
import { currentOf, isActive, type Setting, setting, update, waitFor } from './setting.ts';
import { agentUnit, oneshot, service, systemdSystem } from './system.ts';

const skip = (await whyNot()) ?? false;
const top = await temporaryDirectory();
test.after(() => top[Symbol.asyncDispose]());

type Units = Readonly<Record<string, string>>;

const system = (name: string, units: Units = {}, more: Units = {}) =>
  systemdSystem(top.path, name, { 'fleet-agent.service': agentUnit(), ...units }, more);

/** The host runs, boots and has in its profile what it had, its agent works, and what it told has this reason. */
async function isBack(s: Setting, good: BuiltSystem, [phase, code]: [string, string]) {
  const last = s.world.reports.at(-1);
  assert.deepEqual([last?.phase, last?.reason?.code], [phase, code], last?.reason?.text);
  assert.equal(await currentOf(s), good.toplevel);
  assert.equal(await s.machine.ok('cat', '/boot/entry'), good.toplevel);
  const profile = await s.machine.ok('readlink', '-f', '/nix/var/nix/profiles/system');
  assert.equal(profile, good.toplevel);
  await waitFor('its agent', async () => (await isActive(s, 'fleet-agent')) === 'active');
  const timers = await s.machine.ok('systemctl', 'list-timers');
  assert.doesNotMatch(timers, /fleet-watchdog/);
}

type Case = {
  readonly what: string;
  readonly verdict: [string, string];
  readonly text: RegExp;
  readonly bad: () => Promise<BuiltSystem>;
  readonly good?: Units;
  readonly rules?: Partial<Activation>;
  readonly config?: Readonly<Record<string, unknown>>;
  /** How long it may take, in seconds, on a busy machine. */
  readonly seconds: number;
  readonly before?: (s: Setting) => Promise<void>;
};

const CASES: readonly Case[] = [
  {
    what: 'a unit that fails; one that was failed before does not count',
    verdict: ['rolled-back', 'E_HEALTH'],
    text: /failed, and well before: fails\.service$/,
    good: { 'old.service': oneshot('test ! -e /root/breaks') },
    bad: () =>
      system('fails', {
        'old.service': oneshot('test ! -e /root/breaks'),
        'fails.service': oneshot('exit 3'),
      }),
    rules: { confirmSeconds: 5 },
    seconds: 60,
    before: async ({ machine }) => {
      machine.write('/root/breaks', '');
      await machine.run('systemctl', 'restart', 'old');
    },
  },
  {
    what: 'a switch that hangs',
    verdict: ['rolled-back', 'E_SWITCH_TIMEOUT'],
    text: /test took too long/,
    bad: () => system('hangs', { 'hangs.service': oneshot('sleep infinity') }),
    config: { switchSeconds: 6 },
    seconds: 60,
  },
  {
    what: 'one that cuts the machine off from its server',
    verdict: ['rolled-back', 'E_SERVER_LOST'],
    text: /^no word of the server in the 5 s after the switch/,
    good: { 'net.service': oneshot('echo 127.0.0.1 server.fleet.test >/etc/hosts') },
    bad: () => system('deaf', { 'net.service': oneshot('echo 127.0.0.1 localhost >/etc/hosts') }),
    rules: { confirmSeconds: 5 },
    seconds: 60,
    before: async ({ machine }) => {
      const file = '/var/lib/fleet-agent/agent.json';
      await machine.ok('sed', '-i', 's#//127.0.0.1:#//server.fleet.test:#', file);
    },
  },
  {
    what: 'one whose agent does not start',
    verdict: ['rolled-back', 'E_NOT_CONFIRMED'],
    text: /its agent did not confirm it in 2 s/,
    bad: () =>
      systemdSystem(top.path, 'mute', { 'fleet-agent.service': agentUnit('', '/bin/false') }),
    rules: { confirmSeconds: 2 },
    seconds: 150,
  },
  {
    what: 'one that has no agent',
    verdict: ['rolled-back', 'E_HEALTH'],
    text: /nothing would keep this machine up to date/,
    bad: () => systemdSystem(top.path, 'bare', { 'other.service': service('exec sleep 9999') }),
    seconds: 60,
  },
];

for (const { what, verdict, text, bad, good = {}, rules, config, seconds, before } of CASES) {
  test(`${what}: back, and the reason is told`, { skip }, async (t) => {
    const first = await system(`good-${CASES.findIndex((one) => one.what === what)}`, good);
    const s = await setting(t, top.path, first, config);
    await before?.(s);
    const told = await update(s, await bad(), rules, seconds * 1000);
    assert.match(told.reason?.text ?? '', text);
    await isBack(s, first, verdict);
    // And what comes after it is taken.
    const next = await system('next', good);
    assert.equal((await update(s, next)).phase, 'in-sync');
    assert.equal(await currentOf(s), next.toplevel);
  });
}

/** Kernel and what else a boot brings, of that name. */
const kernel = (name: string): Units => ({ kernel: name, initrd: 'same', 'kernel-modules': name });

/** As recent systems say it: a file of what a switch leaves as it was, or of what forbids it. */
const said =
  (file: string) =>
  (name: string): Units => ({
    ...kernel('same'),
    [file]: JSON.stringify({ dbus: name }),
  });

async function bootedBy(
  t: TestContext,
  bad: BuiltSystem,
  rules: Partial<Activation>,
  parts = kernel('one'),
) {
  const first = await system(`boots-${bad.name}`, {}, parts);
  const s = await setting(t, top.path, first);
  // What it runs is what it booted.
  await s.machine.cut();
  await s.machine.boot();
  const told = update(s, bad, { confirmSeconds: 5, ...rules }, 150_000);
  return { first, s, told: await told };
}

for (const [what, parts] of [
  ['kernel', kernel],
  ['reboot-triggers', said('reboot-triggers')],
  ['switch-inhibitors', said('switch-inhibitors')],
] as const) {
  test(`other ${what}, and a host that may boot itself: it does, and confirms the system then`, {
    skip,
  }, async (t) => {
    const next = await system(`${what}-two`, {}, parts('two'));
    const { s, told } = await bootedBy(t, next, { reboot: 'allowed' }, parts('one'));
    assert.deepEqual([told.phase, told.reason], ['in-sync', null]);
    await s.machine.up();
    assert.equal(await s.machine.ok('readlink', '/run/booted-system'), next.toplevel);
    assert.deepEqual(
      s.world.reports.slice(-2).map(({ phase }) => phase),
      ['rebooting', 'in-sync'],
    );
    // Its switch was never run in place.
    const switches = await s.machine.ok('cat', '/var/log/switches');
    assert.doesNotMatch(switches, new RegExp(`system-${next.name}$`, 'm'));
  });
}

test('another kernel, and a host that does not boot itself: switched to, and told as pending', {
  skip,
}, async (t) => {
  const next = await system('kernel-never', {}, kernel('two'));
  const first = await system('boots-never', {}, kernel('one'));
  const s = await setting(t, top.path, first);
  await s.machine.cut();
  await s.machine.boot();
  s.world.publish(next);
  await waitFor('it is pending', () => s.world.reports.at(-1)?.phase === 'reboot-pending');
  const { reason } = s.world.reports.at(-1) ?? {};
  assert.match(reason?.text ?? '', /not before the next boot: kernel, initrd, kernel-modules$/);
  assert.equal(await currentOf(s), next.toplevel);
  await s.machine.cut();
  await s.machine.boot();
  await waitFor('it is in sync', () => s.world.reports.at(-1)?.phase === 'in-sync');
});

test('a system that fails at boot only: set back, and back', { skip }, async (t) => {
  const script = 'test "$(readlink /run/booted-system)" != "$(readlink /run/current-system)"';
  const bad = await system('boot-fails', { 'bad.service': oneshot(script) }, kernel('two'));
  const { first, s, told } = await bootedBy(t, bad, { reboot: 'required' });
  assert.match(told.reason?.text ?? '', /failed, and well before: bad\.service/);
  await s.machine.up();
  await isBack(s, first, ['rolled-back', 'E_HEALTH']);
});

test('a system that boots without an agent that works: the watchdog of the old one goes back', {
  skip,
}, async (t) => {
  const first = await system('watched');
  const s = await setting(t, top.path, first);
  const bad = await systemdSystem(top.path, 'boots-mute', {
    'fleet-agent.service': agentUnit('', '/bin/false'),
  });
  s.world.publish(bad, { activation: { ...DEFAULT_ACTIVATION, mode: 'boot', confirmSeconds: 2 } });
  await waitFor('it is set', () => s.world.reports.at(-1)?.phase === 'reboot-pending');
  const timer = '/etc/systemd/system.control/fleet-watchdog-boot.timer';
  // It would wait for some minutes.
  await s.machine.ok('sed', '-i', 's/OnBootSec=302s/OnBootSec=20s/', timer);
  await s.machine.cut();
  await s.machine.boot();
  assert.equal(await currentOf(s), bad.toplevel);
  await waitFor('it is back', () => s.world.reports.at(-1)?.phase === 'rolled-back');
  await isBack(s, first, ['rolled-back', 'E_NOT_CONFIRMED']);
  await assert.rejects(s.machine.ok('test', '-e', timer));
});
