// The road by stick with nothing of its own in between: the demo flake, the real server's state, fleet host bundle, and an agent
// as a process whose server is gone; what the server learns once it is back.
import assert from 'node:assert/strict';
import { cp, readFile, readlink, stat, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { test } from 'node:test';
import { fleet, fleetOk, serve, startFleet } from '../helpers/cli.ts';
import { waitFor } from '../helpers/hosts.ts';
import { temporaryDir } from '../helpers/temporary.ts';

test('build → bundle → apply, without the server; then it hears of it', async (t) => {
  const dir = await temporaryDir(t);
  const state = join(dir, 'server');
  const demo = join(dir, 'demo');
  const chroot = join(dir, 'chroot');
  const on = ['--state', state];
  await cp(resolve('examples/demo'), demo, { recursive: true });
  await fleetOk(['init', ...on, '--origin', 'demo.test']);
  const build = () => fleetOk(['build', 'archive', ...on, '--flake', `path:${demo}`]);
  await build();
  const { url, stop } = await serve(t, state);
  const file = join(dir, 'archive.json');
  await fleetOk(['host', 'enroll', 'archive', ...on, '--server', url, '-o', file]);
  const agent = ['agent', '--root', chroot];
  await fleetOk([...agent, 'enroll', file]);
  const config = join(chroot, 'var/lib/fleet-agent/agent.json');
  const settings = JSON.parse(await readFile(config, 'utf8'));
  await writeFile(config, JSON.stringify({ ...settings, clock: 'trusted', patienceSeconds: 2 }));
  assert.equal(JSON.parse(await fleetOk([...agent, 'once', '--json'])).phase, 'in-sync');
  await stop();

  await writeFile(join(demo, 'hosts/archive/edition'), 'second edition\n');
  await build();
  const stick = join(dir, 'stick.tar');
  const made = JSON.parse(
    await fleetOk(['host', 'bundle', 'archive', ...on, '--out', stick, '--json']),
  );
  assert.ok(made.paths > 0 && made.paths < made.ofPaths, JSON.stringify(made));
  assert.ok(made.from > 0 && made.from < made.size);
  const scratch = join(chroot, 'var/lib/fleet-agent/bundle');
  const isThere = () =>
    stat(scratch).then(
      () => true,
      () => false,
    );

  // Half of it, and a run that dies over it.
  const whole = await readFile(stick);
  const half = join(dir, 'half.tar');
  await writeFile(half, whole.subarray(0, whole.length / 2));
  const refused = await fleet([...agent, 'apply', half]);
  assert.equal(refused.code, 3, refused.stderr);
  assert.match(refused.stderr, /E_BUNDLE_FORM/);
  assert.equal(await isThere(), false);
  const all = join(dir, 'all.tar');
  await fleetOk(['host', 'bundle', 'archive', ...on, '--out', all, '--all']);
  const { child, done } = startFleet([...agent, 'apply', all]);
  await waitFor(isThere);
  child.kill('SIGKILL');
  await done;
  assert.equal(await readlink(join(chroot, 'run/current-system')), made.bases[0]);

  const { code, stdout, stderr } = await fleet([...agent, 'apply', stick, '--json']);
  assert.equal(code, 0, stderr);
  const applied = JSON.parse(stdout);
  assert.deepEqual([applied.phase, applied.fetched.paths], ['in-sync', made.paths]);
  assert.equal(applied.receipts.sent, 0);
  assert.equal(await readlink(join(chroot, 'run/current-system')), made.toplevel);
  assert.equal(await isThere(), false);
  for (const [args, code] of [
    [[join(dir, 'none')], /cannot read .*ENOENT \[E_USAGE\]/],
    [[dir], /is not a file \[E_USAGE\]/],
    [['now', '--accept-age'], /E_USAGE/],
  ] as const) {
    assert.match((await fleet([...agent, 'apply', ...args])).stderr, code);
  }

  const back = await serve(t, state, ['--listen', new URL(url).host]);
  assert.equal(back.url, url);
  const next = JSON.parse(await fleetOk([...agent, 'once', '--json']));
  assert.deepEqual([next.phase, next.receipts.queued, next.fetched], ['in-sync', 0, null]);
  const [shown] = JSON.parse(await fleetOk(['status', ...on, '--json'])).hosts;
  assert.deepEqual([shown.phase, shown.actual.current], ['in-sync', made.toplevel]);
  const audit = await fleet(['audit', ...on, '--root', join(state, 'root/1.root.json')]);
  assert.equal(audit.code, 0, audit.stderr);
});
