// examples/demo with the real Nix: its hosts build offline, sandbox or not, a change reaches the hosts it
// should, and switch-to-configuration does what its callers rely on. Systems are switched in a mount
// namespace of their own, with directories of this test on /run and /nix/var.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { existsSync, readFileSync, readlinkSync } from 'node:fs';
import { cp, lstat, mkdir, readFile, realpath, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, test } from 'node:test';
import type { FleetError } from '../../src/errors.ts';
import { buildDerivation } from '../../src/nix/build.ts';
import { currentSystem } from '../../src/nix/command.ts';
import { describeFlake, evaluateHost, listHosts } from '../../src/nix/evaluate.ts';
import { queryClosure } from '../../src/nix/query.ts';
import type { StorePath } from '../../src/nix/storepath.ts';
import { openScratch, writeFiles } from '../helpers/nix-scratch.ts';

const scratch = await openScratch();
after(() => scratch[Symbol.asyncDispose]());

const demo = join(scratch.dir, 'demo');
await cp('examples/demo', demo, { recursive: true });
await writeFile(join(demo, 'system.nix'), `"${currentSystem()}"\n`);
// Nothing that an earlier run left in the store will do.
await writeFile(join(demo, 'boot/initrd'), randomUUID());

let links = 0;
async function build(sandbox: 'true' | 'false', hosts?: readonly string[]) {
  const flake = await describeFlake(demo);
  const built = new Map<string, StorePath>();
  for (const host of hosts ?? (await listHosts(flake))) {
    const { drvPath, toplevel, system } = await evaluateHost(flake, host);
    assert.equal(system, currentSystem());
    links += 1;
    const outLink = join(scratch.dir, `result-${links}`);
    const settings = new Map([
      ['sandbox', sandbox],
      ['substituters', ''],
    ]);
    assert.equal(await buildDerivation(drvPath, { outLink, settings }), toplevel);
    built.set(host, toplevel);
  }
  return built;
}

const first = await build('false');
const lantern = first.get('lantern') ?? assert.fail();

test('three hosts in the shape of NixOS systems', async () => {
  assert.deepEqual([...first.keys()], ['archive', 'gateway', 'lantern']);
  for (const [host, toplevel] of first) {
    const text = (name: string) => readFile(join(toplevel, name), 'utf8');
    assert.match(await text('nixos-version'), /^26\.05/);
    assert.equal(await text('system'), currentSystem());
    assert.equal(await text('etc/hostname'), `${host}\n`);
    assert.match(await realpath(join(toplevel, 'kernel')), /^\/nix\/store\/.*-linux-.*\/kernel$/);
    for (const name of ['initrd', 'kernel-modules', 'sw/bin/fleet-demo-release']) {
      assert.ok(existsSync(join(toplevel, name)), `${host}: ${name}`);
    }
    for (const name of ['activate', 'bin/switch-to-configuration']) {
      assert.ok(((await lstat(await realpath(join(toplevel, name)))).mode & 0o111) !== 0, name);
    }
    const paths = (await queryClosure([toplevel])).length;
    if (host === 'archive') assert.ok(paths >= 150, `${paths} paths`);
    else assert.ok(paths >= 10 && paths < 30, `${host}: ${paths} paths`);
  }
});

test('the sandbox makes no difference to what is built', async (t) => {
  await writeFile(join(demo, 'boot/kernel'), randomUUID());
  const other = await build('true').catch((error: unknown) => {
    // Some containers allow none; Nix says so before it builds anything.
    if (/sandboxed build|namespace/.test(String((error as FleetError).details))) return null;
    throw error;
  });
  if (other === null) return t.skip('this machine allows no sandbox');
  for (const [host, toplevel] of other) {
    assert.notEqual(toplevel, first.get(host));
    assert.equal(
      (await queryClosure([toplevel])).length,
      (await queryClosure([first.get(host) ?? assert.fail()])).length,
    );
  }
});

test('a change reaches the hosts it should', async () => {
  const names = ['archive', 'gateway', 'lantern'];
  const changed = async (file: string, text: string): Promise<string[]> => {
    const before = await build('false');
    await writeFile(join(demo, file), text);
    const now = await build('false');
    return names.filter((name) => before.get(name) !== now.get(name));
  };
  assert.deepEqual(await changed('hosts/lantern/tree/etc/motd', 'changed\n'), ['lantern']);
  assert.deepEqual(await changed('hosts/archive/edition', 'second\n'), ['archive']);
  assert.deepEqual(await changed('release/nixos-version', '26.05.2 (demo)\n'), names);
});

/** A machine: what lies on /run and /nix/var while one of its systems is switched to. */
async function machine() {
  links += 1;
  const dir = join(scratch.dir, `machine-${links}`);
  await mkdir(join(dir, 'run'), { recursive: true });
  await mkdir(join(dir, 'var'));
  const script = `mount --bind "$1/run" /run && mount --bind "$1/var" /nix/var || exit 77
    shift; exec "$@"`;
  const user = process.getuid?.() === 0 ? [] : ['--map-root-user'];
  return {
    call: (...command: string[]) => {
      const args = ['--mount', ...user, 'sh', '-c', script, 'sh', dir, ...command];
      const run = spawnSync('unshare', args, { encoding: 'utf8' });
      assert.notEqual(run.status, 77, `no mount namespace: ${run.stderr}`);
      return run;
    },
    current: () => {
      const link = join(dir, 'run/current-system');
      return existsSync(join(dir, 'run')) && spawnSync('test', ['-L', link]).status === 0
        ? readlinkSync(link)
        : null;
    },
    bootEntry: () => {
      const file = join(dir, 'var/fleet-demo/boot-entry');
      return existsSync(file) ? readFileSync(file, 'utf8').trim() : null;
    },
  };
}

const program = (toplevel: StorePath): string => join(toplevel, 'bin/switch-to-configuration');

test('each verb does its part', async () => {
  const { call, current, bootEntry } = await machine();
  const state = () => ({ current: current(), boot: bootEntry() });
  const run = (verb: string) => call(program(lantern), verb);

  assert.equal(run('check').status, 0);
  assert.deepEqual(state(), { current: null, boot: null });

  const dry = run('dry-activate');
  assert.equal(dry.status, 0);
  assert.match(dry.stderr, /would activate/);
  assert.deepEqual(state(), { current: null, boot: null });

  assert.equal(run('test').status, 0);
  assert.deepEqual(state(), { current: lantern, boot: null });
  assert.doesNotMatch(run('dry-activate').stderr, /would/);

  assert.equal(run('boot').status, 0);
  assert.deepEqual(state(), { current: lantern, boot: lantern });

  const gateway = first.get('gateway') ?? assert.fail();
  assert.equal(call(program(gateway), 'boot').status, 0);
  assert.deepEqual(state(), { current: lantern, boot: gateway });
  assert.equal(call(program(gateway), 'switch').status, 0);
  assert.deepEqual(state(), { current: gateway, boot: gateway });

  // Called through the link, it still names its own store path.
  assert.equal(call('/run/current-system/bin/switch-to-configuration', 'test').status, 0);
  assert.deepEqual(state(), { current: gateway, boot: gateway });
  assert.match(call('/run/current-system/sw/bin/fleet-demo-release').stdout, /^26\.05/);
});

test('refusals change nothing', async () => {
  const { call, current, bootEntry } = await machine();
  for (const args of [[], ['upgrade'], ['test', 'now'], ['']]) {
    const run = call(program(lantern), ...args);
    assert.equal(run.status, 1);
    assert.match(run.stderr, /^Usage: /);
  }
  const lock = '/run/nixos/switch-to-configuration.lock';
  call('mkdir', '/run/nixos');
  for (const verb of ['switch', 'boot', 'test', 'dry-activate', 'check']) {
    assert.equal(call('flock', lock, program(lantern), verb).status, 11, verb);
  }
  const nobody = process.getuid?.() === 0 ? { uid: 65534, gid: 65534 } : {};
  const run = spawnSync(program(lantern), ['test'], { ...nobody, encoding: 'utf8' });
  assert.equal(run.status, 1);
  assert.match(run.stderr, /must be run as the root user/);
  assert.equal(current(), null);
  assert.equal(bootEntry(), null);
});

// verb, status, whether the system is the current one afterwards, whether it is what boots
const outcomes: [verb: string, status: number, current: boolean, boots: boolean][] = [
  ['test', 1, false, false],
  ['test', 2, true, false],
  ['test', 4, true, false],
  ['test', 100, false, false],
  ['test', 101, false, false],
  ['switch', 1, false, false],
  ['switch', 2, true, true],
  ['switch', 4, true, true],
  ['switch', 100, false, true],
  ['boot', 1, false, false],
  ['check', 1, false, false],
];
test('a host can be made to end with any of the real exit codes', async () => {
  for (const [verb, status, isCurrent, boots] of outcomes) {
    const name = `${verb} ${status}`;
    await writeFiles(join(demo, 'hosts/gateway/tree/demo'), { [`exit-${verb}`]: `${status}\n` });
    const toplevel = (await build('false', ['gateway'])).get('gateway') ?? assert.fail();
    const { call, current, bootEntry } = await machine();
    assert.equal(call(program(lantern), 'switch').status, 0);
    assert.equal(call(program(toplevel), verb).status, status, name);
    assert.equal(current(), isCurrent ? toplevel : lantern, name);
    assert.equal(bootEntry(), boots ? toplevel : lantern, name);
    // The way back, by the old system's own path.
    assert.equal(call(program(lantern), 'test').status, 0);
    assert.equal(current(), lantern);
  }
});

test('without the pre-switch checks, when NIXOS_NO_CHECK says so', async () => {
  await writeFiles(join(demo, 'hosts/gateway/tree/demo'), { 'exit-test': '1\n' });
  const toplevel = (await build('false', ['gateway'])).get('gateway') ?? assert.fail();
  const { call, current } = await machine();
  assert.equal(call('env', 'NIXOS_NO_CHECK=1', program(toplevel), 'test').status, 1);
  assert.equal(current(), toplevel);
});

test('documents of the archive differ by one line between editions', async () => {
  const documents = async (): Promise<Map<string, StorePath>> => {
    const archive = (await build('false', ['archive'])).get('archive') ?? assert.fail();
    const paths = (await queryClosure([archive])).filter((path) => /-document-/.test(path));
    return new Map(paths.map((path) => [path.slice(path.indexOf('document-')), path]));
  };
  await writeFile(join(demo, 'hosts/archive/edition'), 'third\n');
  const third = await documents();
  await writeFile(join(demo, 'hosts/archive/edition'), 'fourth\n');
  const fourth = await documents();
  assert.equal(third.size, 170);
  assert.deepEqual([...third.keys()].sort(), [...fourth.keys()].sort());
  for (const [name, path] of third) {
    const other = fourth.get(name) ?? assert.fail();
    const lines = (await readFile(path, 'utf8')).split('\n');
    assert.equal(lines[0], 'Edition: third');
    const rest = (await readFile(other, 'utf8')).split('\n').slice(1);
    assert.deepEqual(rest, lines.slice(1));
  }
});
