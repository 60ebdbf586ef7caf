// A system that was switched to has to prove that it is well before it is kept: checks of the manifest, and
// agents that die in between. Nothing is committed that did not pass. (Units that fail: agent-units.test.ts.)
import assert from 'node:assert/strict';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { readJournal } from '../../src/agent/journal.ts';
import { isRefused, rules, SLOW, sh, verdictOf } from '../helpers/health.ts';
import {
  all,
  atRealTime,
  killDuring,
  logOf,
  plan,
  reboot,
  setting,
  systemsOf,
} from '../helpers/hosts.ts';
import { buildSystem } from '../helpers/systems.ts';
import { temporaryDirectory } from '../helpers/temporary.ts';

const systems = await temporaryDirectory();
after(() => systems[Symbol.asyncDispose]());
const one = await buildSystem(systems.path, 'one');
const two = await buildSystem(systems.path, 'two');
const three = await buildSystem(systems.path, 'three');

test('a command that fails: back, with the last line that it said, and not again by itself', async () => {
  await using s = await setting(one);
  const { world, host } = s;
  const script = 'echo one; echo "no door to knock at" >&2; test -e /run/well';
  world.publish(two, { activation: rules(sh(script)) });
  const text = await isRefused(s, one, await host.once());
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
  assert.match(await isRefused(s, one, await s.host.once()), /did not end in 3 s/);
  await new Promise((resolve) => setTimeout(resolve, 3000));
  await assert.rejects(readFile(join(s.host.root, 'run/survived')), { code: 'ENOENT' });
});

test('units where nobody knows any: what cannot be found out does not hold', async () => {
  await using s = await setting(one);
  s.world.publish(two, { activation: rules({ units: ['sshd.service'] }) });
  const text = await isRefused(s, one, await s.host.once());
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
    const text = await isRefused(s, one, await host.once());
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

test('kill -9 during the checks: nothing is committed; the next run checks anew, and repeats no switch', async () => {
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
    assert.equal(tests.length, 1);
    assert.equal((await readJournal(host.state)).transaction, null);
  }
});

test('kill -9 during the checks, then no server, or a reboot: the old system', async () => {
  for (const what of ['no server', 'reboot']) {
    await using s = await atRealTime(one);
    const { world, host } = s;
    world.publish(two, { activation: rules(sh(SLOW), { confirmSeconds: 3 }) });
    await killDuring(host, 'verify system-two');
    await plan(host, 'go', 0);
    await world.stop();
    if (what === 'reboot') {
      await reboot(host, one);
      await host.once({ bootId: 'the next boot' });
    } else assert.deepEqual(verdictOf(await host.once()), ['rolled-back', 'E_SERVER_LOST']);
    assert.deepEqual(await systemsOf(host), all(one), what);
    assert.equal((await readJournal(host.state)).transaction, null);
  }
});
