// The whole road with nothing of its own in between: the demo flake, the real server, the agent as a
// process: in a chroot store, and on "the machine itself" (a mount namespace that looks like one).
import assert from 'node:assert/strict';
import { cp, mkdir, readFile, readlink, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { test } from 'node:test';
import { fleet, fleetOk, run, serve } from '../helpers/cli.ts';
import { temporaryDir } from '../helpers/temporary.ts';

const NAMESPACE = `mount -n --bind "$1/run" /run && mount -n --bind "$1/nix" /nix && shift && exec "$@"`;

test('demo flake → build → serve → enrol → once, for a chroot store and for a machine', async (t) => {
  const dir = await temporaryDir(t);
  const state = join(dir, 'server');
  const demo = join(dir, 'demo');
  await cp(resolve('examples/demo'), demo, { recursive: true });
  await fleetOk(['init', '--state', state, '--origin', 'demo.test']);
  const build = () => fleetOk(['build', '--state', state, '--flake', `path:${demo}`]);
  await build();
  const { url } = await serve(t, state);
  const enrolFile = async (host: string): Promise<string> => {
    const file = join(dir, `${host}.json`);
    await fleetOk(['host', 'enroll', host, '--state', state, '--server', url, '-o', file]);
    return file;
  };
  const phases = async () => {
    const { hosts } = JSON.parse(await fleetOk(['status', '--state', state, '--json']));
    return new Map(
      hosts.map((h: { host: string; phase: string; desired: object; actual: object }) => [
        h.host,
        [h.phase, Reflect.get(h.desired, 'toplevel') === Reflect.get(h.actual ?? {}, 'current')],
      ]),
    );
  };

  // In a chroot store, whose agent's state lies below it.
  const chroot = join(dir, 'chroot');
  const agent = ['agent', '--root', chroot];
  const archive = await enrolFile('archive');
  const enrolled = JSON.parse(await fleetOk([...agent, 'enroll', archive, '--json']));
  assert.deepEqual([enrolled.host, enrolled.root], ['archive', chroot]);
  // The file is good once.
  const thief = await fleet(['agent', '--root', join(dir, 'thief'), 'enroll', archive]);
  assert.equal(thief.code, 1);
  assert.match(
    thief.stderr,
    /used already, by another key \[E_ENROL_REFUSED\]\n.*new enrolment file/,
  );
  const shown = JSON.parse(await fleetOk(['host', 'show', 'archive', '--state', state, '--json']));
  assert.equal(shown.fingerprint, enrolled.fingerprint);
  const first = JSON.parse(await fleetOk([...agent, 'once', '--json']));
  assert.equal(first.phase, 'in-sync');
  assert.ok(first.fetched.paths > 100);
  assert.deepEqual((await phases()).get('archive'), ['in-sync', true]);
  assert.equal(await readlink(join(chroot, 'run/current-system')), first.systems.current);

  // As the machine itself.
  const machine = join(dir, 'machine');
  const own = join(dir, 'machine-state');
  for (const name of ['nix', 'run']) await mkdir(join(machine, name), { recursive: true });
  const command = [process.execPath, resolve('cli/fleet.ts'), 'agent', '--state', own];
  const inside = (...args: string[]) =>
    run('unshare', [
      ...['--mount', '--propagation', 'private', '/bin/sh', '-c', NAMESPACE, 'sh', machine],
      ...[...command, ...args],
    ]);
  const enrol = await inside('enroll', await enrolFile('gateway'));
  assert.equal(enrol.code, 0, enrol.stderr);
  const once = await inside('once', '--json');
  assert.equal(once.code, 0, once.stderr);
  assert.equal(JSON.parse(once.stdout).phase, 'in-sync');
  assert.deepEqual((await phases()).get('gateway'), ['in-sync', true]);

  // A change that fails on one host, and reaches the other.
  await mkdir(join(demo, 'hosts/gateway/tree/demo'));
  await writeFile(join(demo, 'hosts/gateway/tree/demo/exit-test'), '2\n');
  await writeFile(join(demo, 'hosts/archive/edition'), 'second edition\n');
  await build();
  const failed = await inside('once', '--json');
  assert.equal(failed.code, 1);
  assert.equal(JSON.parse(failed.stdout).phase, 'rolled-back');
  const before = JSON.parse(once.stdout).systems.current;
  assert.equal(await readlink(join(machine, 'run/current-system')), before);
  const entry = await readFile(join(machine, 'nix/var/fleet-demo/boot-entry'), 'utf8');
  assert.equal(entry.trim(), before);
  const second = JSON.parse(await fleetOk([...agent, 'once', '--json']));
  assert.equal(second.phase, 'in-sync');
  assert.notEqual(second.systems.current, first.systems.current);
  const after = await phases();
  assert.deepEqual(after.get('archive'), ['in-sync', true]);
  assert.deepEqual(after.get('gateway'), ['rolled-back', false]);

  // Told in order, once each: nothing waits, and the server has the whole chain.
  const status = JSON.parse(await fleetOk([...agent, 'status', '--json']));
  assert.deepEqual([status.queued, status.accepted.sequence], [0, 2]);

  // A replaced token is a reason that a person understands.
  await writeFile(join(chroot, 'var/lib/fleet-agent/token'), 'fleet_not-the-right-one-at-all\n');
  const denied = await fleet([...agent, 'once']);
  assert.equal(denied.code, 1);
  assert.match(denied.stderr, /E_SERVER_AUTH/);
});
