// Units that fail with a switch: which count against the new system, and what is told of them.
import assert from 'node:assert/strict';
import { chmod, mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, test } from 'node:test';
import type { OnceOptions, OnceResult } from '../../src/agent/once-options.ts';
import { isRefused, rules, SLOW, sh, verdictOf } from '../helpers/health.ts';
import {
  all,
  atRealTime,
  killDuring,
  logOf,
  plan,
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
  assert.match(
    await isRefused(s, one, result),
    /failed, and well before: new\.service, new\.timer/,
  );
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
  const text = await isRefused(s, one, await withSystemctl(host));
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
  const text = await isRefused(s, one, await withSystemctl(s.host));
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
  assert.deepEqual(await logOf(host), []);
  await rm(join(host.root, 'run/mute'));
  assert.equal((await withSystemctl(host)).outcome?.phase, 'in-sync');
});

test('a systemd that stops answering after the switch is no success', async () => {
  await using s = await setting(one);
  const { world, host } = s;
  await failed(host);
  await plan(host, 'do-test-system-two', 'touch /run/mute');
  world.publish(two, { activation: rules({}) });
  assert.match(await isRefused(s, one, await withSystemctl(host)), /systemctl list-units/);
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
