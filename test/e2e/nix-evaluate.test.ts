// Flakes, hosts and what they are to run, asked of the real Nix and the real git.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { after, test } from 'node:test';
import type { FleetError } from '../../src/errors.ts';
import { currentSystem } from '../../src/nix/command.ts';
import { describeFlake, evaluateHost, listHosts } from '../../src/nix/evaluate.ts';
import { invalidPaths } from '../../src/nix/query.ts';
import { nix, openScratch, refused, writeFiles } from '../helpers/nix-scratch.ts';

const scratch = await openScratch();
after(() => scratch[Symbol.asyncDispose]());

let counter = 0;
/** A flake in a directory of its own; names without characters that flake references cannot hold. */
async function flake(files: Record<string, string>): Promise<string> {
  counter += 1;
  const dir = join(scratch.dir, `flake-${counter}`);
  await writeFiles(dir, files);
  return dir;
}

const outputs = (hosts: string): string =>
  `{ outputs = { self }: { nixosConfigurations = { ${hosts} }; }; }`;
const toplevel = (name: string, more = ''): string =>
  `{ config.system.build.toplevel = derivation {
       name = "${name}"; system = "${currentSystem()}"; builder = "builtin:buildenv";
       manifest = builtins.toFile "about" "${name}"; derivations = [ ];
     }; ${more} }`;

test('a bare directory', async () => {
  const dir = await flake({
    'flake.nix': outputs(`
      lantern = ${toplevel('lantern', 'config.services.fleet.agent.settings = { tags = [ "x" ]; };')};
      "9a-b" = ${toplevel('nine')};`),
  });
  const source = await describeFlake(dir);
  assert.equal(source.rev, null);
  assert.equal(source.dirty, false);
  assert.equal(source.lockSha256, null);
  assert.equal(source.narHash, (await nix(['nix', 'hash', 'path', dir])).trim());
  assert.deepEqual(await listHosts(source), ['9a-b', 'lantern']);

  const lantern = await evaluateHost(source, 'lantern');
  assert.equal(lantern.attribute, 'nixosConfigurations.lantern');
  assert.equal(lantern.system, currentSystem());
  assert.deepEqual(lantern.settings, { tags: ['x'] });
  assert.match(lantern.drvPath, /-lantern\.drv$/);
  assert.match(lantern.toplevel, /-lantern$/);
  assert.deepEqual(await invalidPaths([lantern.drvPath]), []);

  const nine = await evaluateHost(source, '9a-b');
  assert.equal(nine.attribute, 'nixosConfigurations."9a-b"');
  assert.deepEqual(nine.settings, {});
});

test('a source that changes after it was described is not what is evaluated', async () => {
  const dir = await flake({ 'flake.nix': outputs(`a = ${toplevel('first')};`) });
  const source = await describeFlake(dir);
  await writeFiles(dir, { 'flake.nix': outputs(`a = ${toplevel('second')};`) });
  assert.match((await evaluateHost(source, 'a')).toplevel, /-first$/);
});

test('a git repository: clean, dirty, in a subdirectory, with a lock file', async () => {
  const lock = '{"nodes":{"root":{}},"root":"root","version":7}\n';
  const dir = await flake({
    'sub/flake.nix': outputs(`a = ${toplevel('a')};`),
    'sub/flake.lock': lock,
  });
  const git = (...args: string[]): string => {
    const identity = ['-c', 'user.name=t', '-c', 'user.email=t@example.org'];
    const run = spawnSync('git', ['-C', dir, ...identity, ...args], { encoding: 'utf8' });
    assert.equal(run.status, 0, run.stderr);
    return run.stdout.trim();
  };
  git('init', '-q');
  git('add', '.');
  git('commit', '-q', '-m', 'one');
  const clean = await describeFlake(`git+file://${dir}?dir=sub`);
  assert.equal(clean.rev, git('rev-parse', 'HEAD'));
  assert.equal(clean.dirty, false);
  assert.match(clean.narHash ?? '', /^sha256-/);
  assert.equal(clean.lockSha256, createHash('sha256').update(lock).digest('hex'));
  assert.deepEqual(await listHosts(clean), ['a']);

  await writeFiles(dir, { 'sub/flake.nix': outputs(`b = ${toplevel('b')};`) });
  const dirty = await describeFlake(join(dir, 'sub'));
  assert.equal(dirty.rev, null);
  assert.equal(dirty.dirty, true);
  assert.deepEqual(await listHosts(dirty), ['b']);
  assert.deepEqual(await listHosts(clean), ['a']);
});

test('refusals', async () => {
  const named = async (files: Record<string, string>) => describeFlake(await flake(files));
  await assert.rejects(describeFlake(join(scratch.dir, 'nowhere')), refused('E_FLAKE', /nowhere/));
  for (const reference of ['', '--impure', '.#a']) {
    await assert.rejects(describeFlake(reference), refused('E_FLAKE', /not a flake reference/));
  }
  await assert.rejects(describeFlake('git+https://me:hunter2@example.org/x'), (error) => {
    assert.doesNotMatch(String(error), /hunter2/);
    return refused('E_FLAKE', /password/)(error);
  });
  for (const reference of [
    'git+https://hunter2@example.org/x',
    'git+https://example.org/x?private_token=hunter2',
    'tarball+https://example.org/x.tar?a=b&API-KEY=hunter2',
  ]) {
    await assert.rejects(describeFlake(reference), (error) => {
      assert.doesNotMatch(String(error), /hunter2/);
      return refused('E_FLAKE', /password/)(error);
    });
  }
  await assert.rejects(named({ 'flake.nix': '{ outputs = ' }), refused('E_FLAKE', /syntax error/));
  const inputs = await flake({ 'flake.nix': outputs('') });
  const unlocked = `{ inputs.x.url = "path:${inputs}"; outputs = _: { }; }`;
  await assert.rejects(named({ 'flake.nix': unlocked }), (error) => {
    assert.match((error as FleetError).hint, /nix flake lock/);
    return refused('E_FLAKE', /lock file/)(error);
  });

  const none = await named({ 'flake.nix': '{ outputs = _: { }; }' });
  await assert.rejects(listHosts(none), refused('E_NO_HOSTS', /provides no nixosConfigurations/));
  const empty = await named({ 'flake.nix': outputs('') });
  await assert.rejects(listHosts(empty), refused('E_NO_HOSTS', /is empty/));
  for (const name of ['Lantern', 'a.b', 'a b', 'x'.repeat(64), 'a"; b']) {
    const source = await named({ 'flake.nix': outputs(`${JSON.stringify(name)} = { };`) });
    // Named as it is: that it cannot be a host's stops no other.
    assert.deepEqual(await listHosts(source), [name]);
    await assert.rejects(evaluateHost(source, name), refused('E_HOST_NAME', /not a host name/));
  }
  const dev = `a.config.system.build.toplevel = (derivation {
      name = "x"; system = "${currentSystem()}"; builder = "builtin:buildenv"; outputs = [ "out" "dev" ];
    }).dev;`;
  const odd = await named({ 'flake.nix': outputs(dev) });
  await assert.rejects(evaluateHost(odd, 'a'), refused('E_EVAL', /is an output "dev"/));
  const bad = await named({
    'flake.nix': outputs('a.config = throw "no such option"; b = { };'),
  });
  await assert.rejects(evaluateHost(bad, 'a'), refused('E_EVAL', /host a: .*no such option/));
  await assert.rejects(evaluateHost(bad, 'b'), refused('E_EVAL', /host b: .*config/));
  await assert.rejects(evaluateHost(bad, 'c'), refused('E_EVAL', /host c: .*'c' missing/));
});
