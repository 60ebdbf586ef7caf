// The agent's half of Nix in chroot stores of the real Nix, with a signed file:// binary cache as
// substituter: fetching, roots, profiles, deletion, repair.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, readdir, readFile, readlink, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { buildDerivation } from '../../src/nix/build.ts';
import { currentSystem } from '../../src/nix/command.ts';
import { invalidPaths, queryPathInfos } from '../../src/nix/query.ts';
import {
  addRoot,
  addRoots,
  deletePath,
  realisePaths,
  repairPath,
  setProfile,
} from '../../src/nix/realise.ts';
import { parseStorePath, type StorePath } from '../../src/nix/storepath.ts';
import {
  nix,
  openScratch,
  refused,
  register,
  storeArguments,
  writeFiles,
} from '../helpers/nix-scratch.ts';

const ABSENT = parseStorePath('/nix/store/00000000000000000000000000000000-absent');

const scratch = await openScratch();
after(() => scratch[Symbol.asyncDispose]());

const { directory } = scratch;

const path = (digit: string, name: string): StorePath =>
  parseStorePath(`/nix/store/${digit.repeat(32)}-${name}`);

const low = path('4', 'low');
const top = path('5', 'top');
let cache: string;
let settings: ReadonlyMap<string, string>;

before(async () => {
  const dir = join(scratch.dir, 'signed');
  await mkdir(dir);
  const key = (name: string): string => join(dir, name);
  await nix(['nix-store', '--generate-binary-cache-key', 'test-1', key('secret'), key('public')]);
  const origin = join(dir, 'origin');
  await register(origin, low, 'low\n', []);
  await register(origin, top, `${low}\n`, [low]);
  const features = ['--extra-experimental-features', 'nix-command'];
  const from = ['--store', origin, ...features];
  await nix(['nix', 'store', 'sign', ...from, '--recursive', '-k', key('secret'), top]);
  cache = join(dir, 'cache');
  await nix(['nix', 'copy', '--from', origin, '--to', `file://${cache}`, ...features, top]);
  settings = new Map([
    ['substituters', `file://${cache}`],
    ['trusted-public-keys', (await readFile(key('public'), 'utf8')).trim()],
  ]);
});

test('a signed closure is fetched and rooted', async () => {
  const root = await directory();
  const link = join(await directory(), 'root');
  await realisePaths([top], { root, settings, addRoot: link });
  assert.deepEqual(await invalidPaths([low, top], { root }), []);
  assert.equal(await readFile(join(root, top), 'utf8'), `${low}\n`);
  assert.equal(await readlink(link), top);
  assert.equal(await deletePath(top, { root }), false);
  assert.equal(await deletePath(low, { root }), false);
  const other = join(await directory(), 'other');
  await addRoot(low, other, { root });
  assert.equal(await readlink(other), low);
});

test('many roots at once, each a link that Nix follows; what is not valid is left out', async () => {
  const root = await directory();
  await realisePaths([top], { root, settings });
  const dir = await directory();
  const link = join(dir, 'systems.7');
  assert.deepEqual([...(await addRoots([low, ABSENT, top], link, { root }))], [ABSENT]);
  assert.deepEqual((await readdir(dir)).sort(), ['systems.7.1', 'systems.7.1-2']);
  assert.equal(await readlink(`${link}.1`), low);
  assert.equal(await readlink(`${link}.1-2`), top);
  for (const path of [low, top]) assert.equal(await deletePath(path, { root }), false);
  // Again, to other paths, as after a publication that failed: the links are replaced.
  assert.equal((await addRoots([top, low], link, { root })).size, 0);
  assert.equal(await readlink(`${link}.1`), top);
  await rm(`${link}.1`);
  assert.equal(await deletePath(top, { root }), true);
  assert.equal(await deletePath(low, { root }), false);
  assert.equal((await addRoots([], link, { root })).size, 0);
});

test('more roots than fit on a command line', async () => {
  const root = await directory();
  await realisePaths([top], { root, settings });
  const dir = await directory();
  const many = Array.from({ length: 3000 }, (_, i) => (i % 2 === 0 ? low : top));
  assert.equal((await addRoots(many, join(dir, 'r'), { root })).size, 0);
  const names = await readdir(dir);
  assert.equal(names.length, many.length);
  assert.equal(new Set(names.map((name) => name.replace(/-\d+$/, ''))).size, 2);
  assert.equal(await readlink(join(dir, 'r.2')), many[names.filter((n) => /^r\.1/.test(n)).length]);
});

test('what no trusted key signed is refused, whatever the settings say', async () => {
  const root = await directory();
  const loose = new Map([...settings, ['require-sigs', 'false'], ['trusted-public-keys', '']]);
  await assert.rejects(
    realisePaths([top], { root, settings: loose }),
    refused('E_NIX_FAILED', /./),
  );
  assert.deepEqual(await invalidPaths([low, top], { root }), [low, top]);
});

test('what was missing a moment ago is asked for again', async () => {
  const root = await directory();
  const env = new Map([['XDG_CACHE_HOME', await directory()]]);
  const away = `${cache}-later`;
  const later = new Map([...settings, ['substituters', `file://${away}`]]);
  await mkdir(away);
  await writeFiles(away, { 'nix-cache-info': 'StoreDir: /nix/store\n' });
  await assert.rejects(
    realisePaths([top], { root, env, settings: later }),
    refused('E_NIX_FAILED', /./),
  );
  const copy = spawnSync('cp', ['-r', `${cache}/.`, away]);
  assert.equal(copy.status, 0);
  await realisePaths([top], { root, env, settings: later });
});

test('nothing is ever built', async () => {
  const root = await directory();
  const expression = `derivation { name = "x"; system = "${currentSystem()}"; builder = "builtin:buildenv";
    manifest = "/none"; derivations = [ ]; }`;
  const args = storeArguments(root).slice(1);
  const drv = await nix(['nix-instantiate', ...args, '--expr', expression]);
  const building = realisePaths([parseStorePath(drv.trim())], {
    root,
    settings: new Map([...settings, ['max-jobs', '4'], ['sandbox', 'false']]),
  });
  await assert.rejects(building, refused('E_NIX_FAILED', /./));
});

test('a profile in a chroot store: generations, the newest is the profile', async () => {
  const root = await directory();
  await realisePaths([top], { root, settings });
  const profiles = join(root, 'nix/var/nix/profiles');
  await mkdir(profiles, { recursive: true });
  const profile = join(profiles, 'system');
  await setProfile(profile, low, { root });
  await setProfile(profile, top, { root });
  await setProfile(profile, top, { root });
  assert.equal(await readlink(profile), 'system-2-link');
  assert.equal(await readlink(join(profiles, 'system-1-link')), low);
  assert.equal(await readlink(join(profiles, 'system-2-link')), top);
  const links = (await readdir(profiles)).filter((name) => name.startsWith('system'));
  assert.deepEqual(links.sort(), ['system', 'system-1-link', 'system-2-link']);
  assert.equal(await deletePath(top, { root }), false);
  await assert.rejects(setProfile(profile, ABSENT, { root }), refused('E_NIX_FAILED', /absent/));
  assert.equal(await readlink(profile), 'system-2-link');
});

test('a dead path is deleted, and what refers to it', async () => {
  const root = await directory();
  await realisePaths([top], { root, settings });
  assert.equal(await deletePath(top, { root }), true);
  assert.deepEqual(await invalidPaths([low, top], { root }), [top]);
  assert.equal(existsSync(join(root, top)), false);
  await realisePaths([top], { root, settings });
  assert.equal(await deletePath(low, { root }), true);
  assert.deepEqual(await invalidPaths([low, top], { root }), [low, top]);
  assert.equal(await deletePath(low, { root }), true);
});

test('repair: contents, hash and size become the substituter’s', async () => {
  const root = await directory();
  await register(root, low, 'low\n', []);
  await register(root, top, 'built here, otherwise\n', [low]);
  const [own] = await queryPathInfos([top], { root });
  // Fetching alone leaves a valid path as it is.
  await realisePaths([top], { root, settings });
  assert.deepEqual(await queryPathInfos([top], { root }), [own]);

  await repairPath(top, { root, settings });
  assert.equal(await readFile(join(root, top), 'utf8'), `${low}\n`);
  const [repaired] = await queryPathInfos([top], { root });
  const [origin] = await queryPathInfos([top], { root: join(scratch.dir, 'signed/origin') });
  assert.notEqual(repaired?.narHash, own?.narHash);
  assert.deepEqual(repaired, origin);
});

test('repair never takes references away: the path still differs', async () => {
  const root = await directory();
  const extra = path('6', 'extra');
  await register(root, extra, 'extra\n', []);
  await register(root, low, 'low\n', []);
  await register(root, top, 'built here, otherwise\n', [extra]);
  await repairPath(top, { root, settings });
  const [repaired] = await queryPathInfos([top], { root });
  assert.deepEqual(repaired?.references, [low, extra]);
});

test('a repair that the substituter cannot do changes nothing', async () => {
  const root = await directory();
  const lone = path('7', 'lone');
  await register(root, lone, 'lone\n', []);
  const before = await queryPathInfos([lone], { root });
  await assert.rejects(repairPath(lone, { root, settings }), refused('E_NIX_FAILED', /repair/));
  assert.deepEqual(await queryPathInfos([lone], { root }), before);
  assert.equal(await readFile(join(root, lone), 'utf8'), 'lone\n');
});

test('relative places are refused', async () => {
  await assert.rejects(realisePaths([top], { root: 'x', settings }), RangeError);
  await assert.rejects(realisePaths([top], { settings, addRoot: 'x' }), RangeError);
  await assert.rejects(realisePaths([top, low], { settings, addRoot: '/x' }), RangeError);
  await assert.rejects(setProfile('system', top), RangeError);
  await assert.rejects(buildDerivation(top, { outLink: 'result' }), RangeError);
});
