// A system that was switched to has to prove that it is well before it is kept: checks of the manifest, units that
// failed, agents that die in between. Nothing is committed that did not pass.
import assert from 'node:assert/strict';
import { chmod, mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { readJournal } from '../../src/agent/journal.ts';
import type { OnceOptions, OnceResult } from '../../src/agent/once.ts';
import { type Activation, DEFAULT_ACTIVATION, type Health } from '../../src/manifest/activation.ts';
import {
  all,
  atRealTime,
  killDuring,
  logOf,
  plan,
  reboot,
  type Setting,
  setting,
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

/** Rules with these checks, which have so many seconds. */
function rules(health: Partial<Health>, changes: Partial<Activation> = {}): Activation {
  const checks = { ...DEFAULT_ACTIVATION.health, ...health };
  return { ...DEFAULT_ACTIVATION, confirmSeconds: 3, ...changes, health: checks };
}

const sh = (script: string): Partial<Health> => ({ commands: [['/bin/sh', '-c', script]] });

const verdictOf = ({ outcome }: OnceResult) => [outcome?.phase, outcome?.reason?.code];

/** Back on system one, whose boot loader was never touched, and the manifest is not tried again by itself. */
async function isRefused({ world, host }: Setting, result: OnceResult): Promise<string> {
  assert.deepEqual(verdictOf(result), ['rolled-back', 'E_HEALTH']);
  assert.equal(result.error?.code, 'E_ROLLED_BACK');
  assert.deepEqual(await systemsOf(host), all(one));
  const log = (await logOf(host)).filter((line) => line.includes('system-'));
  assert.deepEqual(log, ['check system-two', 'test system-two', 'test system-one']);
  const { phase, reason } = world.reports.at(-1) ?? {};
  assert.deepEqual([phase, reason?.code], ['rolled-back', 'E_HEALTH']);
  assert.deepEqual(verdictOf(await host.once()), ['rolled-back', 'E_HEALTH']);
  assert.deepEqual(
    (await logOf(host)).filter((line) => line.includes('system-')),
    log,
  );
  return reason?.text ?? '';
}

test('a command that fails: back, with the last line that it said, and not again by itself', async () => {
  await using s = await setting(one);
  const { world, host } = s;
  const script = 'echo one; echo "no door to knock at" >&2; test -e /run/well';
  world.publish(two, { activation: rules(sh(script)) });
  const text = await isRefused(s, await host.once());
  assert.match(text, /not healthy in the 3 s .*\/bin\/sh -c .* ended with 1: no door to knock at$/);
  // Root says so: then it is.
  await writeFile(join(host.root, 'run/well'), '');
  assert.equal((await host.once({ retry: true })).outcome?.phase, 'in-sync');
  assert.deepEqual(await systemsOf(host), all(two));
  // A newer one would have been taken anyway.
  world.publish(three);
  assert.equal((await host.once()).outcome?.phase, 'in-sync');
});

test('commands see the new system where it will be, from /, and nothing that is secret', async () => {
  await using s = await setting(one);
  const { world, host } = s;
  const script = 'readlink /run/current-system >/run/seen; pwd >>/run/seen; env >>/run/seen';
  world.publish(two, { activation: rules(sh(script), { confirmSeconds: 60 }) });
  process.env['NIX_CONFIG'] = 'access-tokens = x=secret';
  try {
    assert.equal((await host.once()).outcome?.phase, 'in-sync');
  } finally {
    delete process.env['NIX_CONFIG'];
  }
  const [current, cwd, ...env] = (await readFile(join(host.root, 'run/seen'), 'utf8')).split('\n');
  assert.deepEqual([current, cwd], [two.toplevel, '/']);
  assert.ok(env.some((line) => line.startsWith('PATH=/run/current-system/sw/bin:')));
  const names = env.filter((line) => line !== '').map((line) => line.split('=')[0]);
  const known = ['HOME', 'LANG', 'LOCALE_ARCHIVE', 'OLDPWD', 'PATH', 'PWD', 'SHLVL', '_'];
  assert.deepEqual(
    names.filter((name) => !known.includes(name ?? '')),
    [],
  );
});

test('what comes and goes and ends well is well', async () => {
  await using s = await setting(one);
  const { world, host } = s;
  // Holds the first time, and from the fourth on; the other from the second on.
  const script = 'echo x >>/run/count; n=$(wc -l </run/count); test "$n" -ge 4 || test "$n" = 1';
  const other = 'echo x >>/run/count-2; test "$(wc -l </run/count-2)" -ge 2';
  const commands = [...(sh(script).commands ?? []), ...(sh(other).commands ?? [])];
  world.publish(two, { activation: rules({ commands }, { confirmSeconds: 60 }) });
  assert.equal((await host.once()).outcome?.phase, 'in-sync');
  assert.deepEqual(await systemsOf(host), all(two));
  // Never both at once before.
  assert.match(await readFile(join(host.root, 'run/count'), 'utf8'), /^(x\n){4,}$/);
});

test('a command that hangs is ended with all that it started, and is no success', async () => {
  await using s = await setting(one);
  const script = 'trap "" TERM; (trap "" TERM; sleep 4; touch /run/survived) & sleep 600';
  s.world.publish(two, { activation: rules(sh(script)) });
  assert.match(await isRefused(s, await s.host.once()), /did not end in 3 s/);
  await new Promise((resolve) => setTimeout(resolve, 3000));
  await assert.rejects(readFile(join(s.host.root, 'run/survived')), { code: 'ENOENT' });
});

test('units where nobody knows any: what cannot be found out does not hold', async () => {
  await using s = await setting(one);
  s.world.publish(two, { activation: rules({ units: ['sshd.service'] }) });
  const text = await isRefused(s, await s.host.once());
  assert.match(text, /sshd\.service: no systemd runs here/);
});

test('http and tcp: the new system has to answer', async () => {
  for (const name of ['http', 'tcp'] as const) {
    await using s = await setting(one);
    const { world, host } = s;
    const { port } = new URL(world.url);
    const url = `${world.url}/health`;
    let status = 500;
    world.misbehave = (path, response) =>
      path === '/health' && Boolean(response.writeHead(status, { location: '/' }).end());
    const health =
      name === 'http'
        ? { http: [{ url, status: 204 }] }
        : { tcp: [{ host: '127.0.0.1', port: 1 }] };
    world.publish(two, { activation: rules(health) });
    const text = await isRefused(s, await host.once());
    assert.match(text, name === 'http' ? /\/health answered 500, not 204/ : /port 1: .*REFUSED/);
    status = 204;
    const well = { http: [{ url, status }], tcp: [{ host: '127.0.0.1', port: Number(port) }] };
    world.publish(two, { activation: rules(well, { confirmSeconds: 60 }) });
    assert.equal((await host.once()).outcome?.phase, 'in-sync');
    assert.deepEqual(await systemsOf(host), all(two));
  }
});

test('onFailure keep leaves an unhealthy system running, and does not boot it', async () => {
  await using s = await setting(one);
  const { world, host } = s;
  world.publish(two, { activation: rules(sh('exit 3'), { onFailure: 'keep', confirmSeconds: 1 }) });
  const { outcome, error } = await host.once();
  assert.deepEqual([outcome?.phase, error?.code], ['failed', 'E_HEALTH']);
  assert.deepEqual(await systemsOf(host), { ...all(one), current: two.toplevel });
  assert.deepEqual(verdictOf(await host.once()), ['failed', 'E_HEALTH']);
  assert.deepEqual(await logOf(host), ['check system-two', 'test system-two']);
});

test('another switch while it is checked: back, not its fault, and then anew', async () => {
  await using s = await setting(one);
  const { world, host } = s;
  const script = `test -e /run/again || { touch /run/again; ln -sfn ${three.toplevel} /run/current-system; }`;
  world.publish(two, { activation: rules(sh(script), { confirmSeconds: 60 }) });
  const result = await host.once();
  assert.deepEqual(verdictOf(result), ['rolled-back', 'E_INTERRUPTED']);
  assert.match(result.outcome?.reason?.text ?? '', /another switch .*-system-three/);
  assert.deepEqual(await systemsOf(host), all(one));
  assert.equal((await host.once()).outcome?.phase, 'in-sync');
  assert.deepEqual(await systemsOf(host), all(two));
});

/** Tells the log that the checks began, and waits there until the file `go` says how to end. */
const SLOW =
  'echo "verify system-two" >>/run/log; until [ -e /run/go ]; do sleep 0.1; done; exit $(cat /run/go)';

test('kill -9 during the checks: nothing is committed; the next run switches and checks anew', async () => {
  for (const status of [0, 1]) {
    await using s = await atRealTime(one);
    const { world, host } = s;
    world.publish(two, { activation: rules(sh(SLOW), { confirmSeconds: status === 0 ? 60 : 5 }) });
    await killDuring(host, 'verify system-two');
    assert.equal((await readJournal(host.state)).transaction?.step, 'verifying');
    assert.deepEqual(await systemsOf(host), { ...all(one), current: two.toplevel });
    await plan(host, 'go', status);
    const { outcome } = await host.once();
    assert.equal(outcome?.phase, status === 0 ? 'in-sync' : 'rolled-back');
    assert.deepEqual(await systemsOf(host), all(status === 0 ? two : one));
    const tests = (await logOf(host)).filter((line) => line === 'test system-two');
    assert.equal(tests.length, 2);
    assert.equal((await readJournal(host.state)).transaction, null);
  }
});

test('kill -9 during the checks, then no server, or a reboot: the old system', async () => {
  for (const what of ['no server', 'reboot']) {
    await using s = await atRealTime(one);
    const { world, host } = s;
    world.publish(two, { activation: rules(sh(SLOW), { confirmSeconds: 60 }) });
    await killDuring(host, 'verify system-two');
    await plan(host, 'go', 0);
    await world.stop();
    if (what === 'reboot') {
      await reboot(host, one);
      await host.once({ bootId: 'the next boot' });
    } else assert.deepEqual(verdictOf(await host.once()), ['rolled-back', 'E_INTERRUPTED']);
    assert.deepEqual(await systemsOf(host), all(one), what);
    assert.equal((await readJournal(host.state)).transaction, null);
  }
});

/**
 * A run on a machine whose systemctl prints the file `failed` of /run. It shows what the agent makes of such words,
 * not that systemd says them: no systemd runs where these tests do.
 */
async function withSystemctl(
  host: TestHost,
  options: Partial<OnceOptions> = {},
): Promise<OnceResult> {
  const bin = join(host.root, 'bin');
  await mkdir(bin, { recursive: true });
  const run = join(host.root, 'run');
  const script = `#!/bin/sh
case "$1" in
  list-units) [ ! -e ${run}/mute ] || exit 1
    for unit in $(cat ${run}/failed); do echo "$unit loaded failed failed Some words"; done ;;
  is-active) shift 2; for unit; do if grep -qx "$unit" ${run}/failed; then echo failed; else echo active; fi; done ;;
esac
`;
  await writeFile(join(bin, 'systemctl'), script);
  await chmod(join(bin, 'systemctl'), 0o755);
  const path = process.env['PATH'] ?? '';
  process.env['PATH'] = `${bin}:${path}`;
  try {
    return await host.once({ hasSystemd: true, ...options });
  } finally {
    process.env['PATH'] = path;
  }
}

const failed = (host: TestHost, ...units: string[]) =>
  writeFile(join(host.root, 'run/failed'), units.map((name) => `${name}\n`).join(''));

/** For sh: these units are failed from now on. */
const failing = (...units: string[]): string =>
  `: >/run/failed; for unit in ${units.join(' ')}; do echo "$unit" >>/run/failed; done`;

test('units that fail after the switch, and had not before: back, and the receipt names them', async () => {
  await using s = await setting(one);
  const { world, host } = s;
  await failed(host, 'old.service', 'mended.service');
  await plan(host, 'do-test-system-two', failing('old.service', 'new.service', 'new.timer'));
  world.publish(two, { activation: rules({}) });
  const result = await withSystemctl(host);
  assert.match(await isRefused(s, result), /failed, and well before: new\.service, new\.timer/);
  const { failedUnits } = world.reports.at(-1) ?? {};
  const expected = { added: ['new.service', 'new.timer'], removed: ['mended.service'] };
  assert.deepEqual(failedUnits, expected);
});

test('units that had failed before are no fault of the new system', async () => {
  for (const code of [0, 4]) {
    await using s = await setting(one);
    const { world, host } = s;
    await failed(host, 'old.service', 'mended.service');
    await plan(host, 'exit-test-system-two', code);
    await plan(host, 'do-test-system-two', failing('old.service'));
    world.publish(two);
    const { outcome } = await withSystemctl(host);
    // Exit 4 as well: all that are failed were so before.
    assert.deepEqual([outcome?.phase, outcome?.exitCode], ['in-sync', code]);
    assert.deepEqual(await systemsOf(host), all(two));
    const { failedUnits } = world.reports.at(-1) ?? {};
    assert.deepEqual(failedUnits, { added: [], removed: ['mended.service'] });
  }
});

test('exit 4 and no unit that is failed: degraded, as nobody knows what it was', async () => {
  await using s = await setting(one);
  await failed(s.host);
  await plan(s.host, 'exit-test-system-two', 4);
  s.world.publish(two);
  const { outcome } = await withSystemctl(s.host);
  assert.deepEqual([outcome?.phase, outcome?.reason?.code], ['in-sync-degraded', 'units-failed']);
  assert.deepEqual(await systemsOf(s.host), all(two));
});

test('units must be active', async () => {
  await using s = await setting(one);
  const { world, host } = s;
  await failed(host, 'web.service');
  world.publish(two, { activation: rules({ units: ['ssh.service', 'web.service'] }) });
  const text = await isRefused(s, await withSystemctl(host));
  assert.match(text, /: web\.service is failed$/);
  await failed(host);
  assert.equal((await withSystemctl(host, { retry: true })).outcome?.phase, 'in-sync');
});

test('a failed switch names the units that failed, too; a private host names none', async () => {
  for (const privacy of [false, true]) {
    await using s = await setting(one, { privacy });
    const { world, host } = s;
    await failed(host, 'old.service');
    await plan(host, 'exit-test-system-two', 2);
    await plan(host, 'do-test-system-two', failing('new.service'));
    world.publish(two);
    await withSystemctl(host);
    const { failedUnits, reason } = world.reports.at(-1) ?? {};
    assert.equal(reason?.code, 'E_SWITCH_FAILED');
    const known = { added: ['new.service'], removed: ['old.service'] };
    assert.deepEqual(failedUnits, privacy ? { added: [], removed: [] } : known);
  }
});

test('a unit that fails because it is checked has failed', async () => {
  await using s = await setting(one);
  await failed(s.host);
  s.world.publish(two, { activation: rules(sh(failing('woken.service'))) });
  const text = await isRefused(s, await withSystemctl(s.host));
  assert.match(text, /failed, and well before: woken\.service$/);
});

test('a unit that fails and is well again in time is no fault', async () => {
  await using s = await setting(one);
  const { world, host } = s;
  await failed(host);
  await plan(host, 'do-test-system-two', failing('new.service'));
  await plan(host, 'exit-test-system-two', 4);
  const mended = 'echo x >>/run/count; test "$(wc -l </run/count)" -lt 3 || : >/run/failed';
  world.publish(two, { activation: rules(sh(mended), { confirmSeconds: 60 }) });
  // What exit 4 was about, nobody can tell any more.
  assert.equal((await withSystemctl(host)).outcome?.phase, 'in-sync-degraded');
  assert.match(await readFile(join(host.root, 'run/count'), 'utf8'), /^(x\n){3,}$/);
  assert.deepEqual(await systemsOf(host), all(two));
});

test('a systemd that does not answer before the switch: nothing is changed', async () => {
  await using s = await setting(one);
  const { world, host } = s;
  await failed(host);
  await writeFile(join(host.root, 'run/mute'), '');
  world.publish(two);
  const result = await withSystemctl(host);
  assert.deepEqual(verdictOf(result), ['preflight-failed', 'E_PREFLIGHT']);
  assert.match(result.outcome?.reason?.text ?? '', /cannot be found out: systemctl list-units/);
  assert.deepEqual(await logOf(host), ['check system-two']);
  await rm(join(host.root, 'run/mute'));
  assert.equal((await withSystemctl(host)).outcome?.phase, 'in-sync');
});

test('a systemd that stops answering after the switch is no success', async () => {
  await using s = await setting(one);
  const { world, host } = s;
  await failed(host);
  await plan(host, 'do-test-system-two', 'touch /run/mute');
  world.publish(two, { activation: rules({}) });
  assert.match(await isRefused(s, await withSystemctl(host)), /systemctl list-units/);
});

test('what failed before an activation that broke off counts, not what fails in the middle of it', async () => {
  await using s = await atRealTime(one);
  const { world, host } = s;
  await failed(host, 'old.service');
  world.publish(two, { activation: rules(sh(SLOW), { confirmSeconds: 6 }) });
  await killDuring(host, 'verify system-two');
  // As a run with systemd would have left it.
  const file = join(host.state, 'journal.json');
  const journal = JSON.parse(await readFile(file, 'utf8'));
  journal.transaction.failedBefore = ['old.service'];
  await writeFile(file, JSON.stringify(journal));
  await failed(host, 'old.service', 'new.service');
  await plan(host, 'go', 0);
  assert.deepEqual(verdictOf(await withSystemctl(host)), ['rolled-back', 'E_HEALTH']);
  assert.deepEqual(await systemsOf(host), all(one));
});
