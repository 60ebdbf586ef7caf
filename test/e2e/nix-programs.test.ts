// Starting the nix programs, and asking a chroot store, with the real Nix.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import type { FleetError } from '../../src/errors.ts';
import { currentSystem, nixVersion, runNix } from '../../src/nix/command.ts';
import { narHashHex } from '../../src/nix/hash.ts';
import { invalidPaths, queryClosure, queryPathInfos } from '../../src/nix/query.ts';
import { parseStorePath, type StorePath } from '../../src/nix/storepath.ts';
import { nix, openScratch, refused, register, writeFiles } from '../helpers/nix-scratch.ts';

const ABSENT = parseStorePath('/nix/store/00000000000000000000000000000000-absent');

const scratch = await openScratch();
after(() => scratch[Symbol.asyncDispose]());

const { directory } = scratch;

test('the version and the system are told as Nix tells them', async () => {
  assert.match(await nixVersion(), /^(Lix )?[0-9]+\.[0-9]+/);
  const said = await nix(['nix-instantiate', '--eval', '--expr', 'builtins.currentSystem']);
  assert.equal(`"${currentSystem()}"`, said.trim());
});

test('a missing program is E_NIX_MISSING', async () => {
  const env = new Map([['PATH', scratch.dir]]);
  await assert.rejects(
    runNix('nix-store', ['--version'], { env }),
    refused('E_NIX_MISSING', /PATH/),
  );
});

test('a failure carries what Nix said', async () => {
  await assert.rejects(queryClosure([ABSENT]), (error) => {
    assert.ok(
      refused('E_NIX_FAILED', /nix-store --query failed \(exit 1\): path '.*' is not valid/)(error),
    );
    assert.match((error as FleetError).details.join('\n'), /is not valid/);
    return true;
  });
});

test('isolated: nothing of the host’s Nix configuration counts; else it does', async () => {
  const dir = await directory();
  await writeFiles(dir, { 'nix.conf': 'cores = 7\n', 'user.conf': 'max-jobs = 7\n' });
  const host = new Map([
    ['NIX_CONF_DIR', dir],
    ['NIX_USER_CONF_FILES', join(dir, 'user.conf')],
    ['NIX_CONFIG', 'connect-timeout = 7\nkeep-going = true'],
    ['NIX_REMOTE', 'daemon'],
  ]);
  const settings = new Map([['keep-going', 'false']]);
  const ask = async (isolated: boolean): Promise<string[]> => {
    const saved = { ...process.env };
    try {
      for (const [name, value] of host)
        if (name !== 'NIX_REMOTE' || isolated) process.env[name] = value;
      const call = (...args: string[]) => runNix('nix', args, { isolated, settings });
      // Its older name: before 2.20.
      const { stdout } = await call('config', 'show', '--json').catch(() =>
        call('show-config', '--json'),
      );
      const shown = JSON.parse(stdout);
      const names = ['cores', 'max-jobs', 'connect-timeout', 'keep-going', 'substituters'];
      return names.map((name) => `${name} ${shown[name].value}`);
    } finally {
      for (const name of host.keys()) delete process.env[name];
      Object.assign(process.env, saved);
    }
  };
  const [cores, jobs, timeout, keepGoing] = await ask(false);
  assert.deepEqual([cores, jobs, timeout], ['cores 7', 'max-jobs 7', 'connect-timeout 7']);
  assert.equal(keepGoing, 'keep-going false', 'ours win over the caller’s');
  const alone = await ask(true);
  assert.ok(!alone.some((line) => line.endsWith(' 7')), alone.join());
  assert.equal(alone.at(-1), 'substituters ');
});

const path = (digit: string, name: string): StorePath =>
  parseStorePath(`/nix/store/${digit.repeat(32)}-${name}`);

describe('queries of a chroot store', () => {
  const [low, mid, top] = [path('1', 'low'), path('2', 'mid'), path('3', 'top')];
  let root: string;
  before(async () => {
    root = await directory();
    await register(root, low, 'low\n', []);
    await register(root, mid, 'mid\n', [low, mid]);
    await register(root, top, 'top\n', [mid]);
  });

  test('a closure, references first', async () => {
    assert.deepEqual(await queryClosure([top], { root }), [low, mid, top]);
    assert.deepEqual(await queryClosure([], { root }), []);
  });

  test('path infos; what is not valid is left out', async () => {
    const infos = await queryPathInfos([top, ABSENT, mid], { root });
    assert.deepEqual(
      infos.map(({ path, references, deriver }) => ({ path, references, deriver })),
      [
        { path: top, references: [mid], deriver: null },
        { path: mid, references: [low, mid], deriver: null },
      ],
    );
    for (const { path, narHash, narSize } of infos) {
      const nar = spawnSync('nix-store', ['--dump', join(root, path)]).stdout;
      assert.equal(narSize, nar.length);
      assert.equal(narHashHex(narHash), createHash('sha256').update(nar).digest('hex'));
    }
    assert.deepEqual(await queryPathInfos([ABSENT], { root }), []);
  });

  test('more paths than a command line holds', async () => {
    const name = 'n'.repeat(200);
    const absent = Array.from({ length: 12_000 }, (_, i) =>
      parseStorePath(`/nix/store/${String(i).padStart(32, '0')}-${name}`),
    );
    assert.deepEqual(await invalidPaths([...absent, top], { root }), absent);
  });
});
