// What is coming, compared with what was booted: whether a restart is needed, also for systems that say it in other ways.
import assert from 'node:assert/strict';
import { mkdir, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { needsReboot } from '../../src/agent/coming.ts';
import { placeAt } from '../../src/agent/place.ts';
import { parseStorePath, type StorePath } from '../../src/nix/storepath.ts';
import { temporaryDir } from '../helpers/temporary.ts';

type Parts = { links?: Record<string, string>; files?: Record<string, unknown> };

const LINKS = {
  kernel: '/nix/store/k1/bzImage',
  initrd: '/nix/store/i1/initrd',
  'kernel-modules': '/nix/store/m1',
};

async function machine(t: TestContext) {
  const root = await temporaryDir(t);
  let count = 0;
  return {
    place: placeAt(root),
    async system({ links = LINKS, files = {} }: Parts = {}): Promise<StorePath> {
      const path = parseStorePath(`/nix/store/${String(++count).repeat(32)}-system`);
      await mkdir(join(root, path), { recursive: true });
      for (const [name, to] of Object.entries(links)) await symlink(to, join(root, path, name));
      for (const [name, json] of Object.entries(files)) {
        await writeFile(join(root, path, name), JSON.stringify(json));
      }
      return path;
    },
  };
}

test('the same kernel, initrd and modules need no restart; another of any does', async (t) => {
  const { place, system } = await machine(t);
  const booted = await system();
  const systems = { booted, current: booted, profile: booted };
  assert.equal(await needsReboot(place, await system(), systems), false);
  for (const name of Object.keys(LINKS)) {
    const other = await system({ links: { ...LINKS, [name]: '/nix/store/other' } });
    assert.equal(await needsReboot(place, other, systems), true, name);
  }
  const { kernel: _, ...without } = LINKS;
  assert.equal(await needsReboot(place, await system({ links: without }), systems), true);
});

test('triggers are compared with what was booted, inhibitors with what runs, by the keys that both have', async (t) => {
  const { place, system } = await machine(t);
  const booted = await system({ files: { 'reboot-triggers': { dbus: 1, old: 1 } } });
  const current = await system({ files: { 'switch-inhibitors': { init: 'a' } } });
  const systems = { booted, current, profile: current };
  const coming = async (files: Record<string, unknown>) =>
    await needsReboot(place, await system({ files }), systems);
  assert.equal(await coming({ 'reboot-triggers': { dbus: 1, new: 2 } }), false);
  assert.equal(await coming({ 'reboot-triggers': { dbus: 2 } }), true);
  assert.equal(await coming({ 'switch-inhibitors': { init: 'a' } }), false);
  assert.equal(await coming({ 'switch-inhibitors': { init: 'b' } }), true);
  assert.equal(await coming({ 'switch-inhibitors': [] }), false);
});

test('where nothing is known to be booted, nothing is said', async (t) => {
  const { place, system } = await machine(t);
  const target = await system();
  const none = { booted: null, current: target, profile: target };
  assert.equal(await needsReboot(place, target, none), null);
  const gone = parseStorePath(`/nix/store/${'z'.repeat(32)}-gone`);
  assert.equal(await needsReboot(place, target, { ...none, booted: gone }), null);
});
