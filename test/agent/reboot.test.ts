// Whether a switch can bring all of a system, or only a boot can, for systems that say so in either way.
import assert from 'node:assert/strict';
import { mkdir, symlink, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { placeAt } from '../../src/agent/place.ts';
import { whyReboot } from '../../src/agent/reboot.ts';
import { parseStorePath, type StorePath } from '../../src/nix/storepath.ts';
import { temporaryDir } from '../helpers/temporary.ts';

type Parts = { links?: Record<string, string>; files?: Record<string, string> };

const LINKS = {
  kernel: '/nix/store/k1/bzImage',
  initrd: '/nix/store/i1/initrd',
  'kernel-modules': '/nix/store/m1/modules',
};

async function machine(t: TestContext) {
  const root = await temporaryDir(t);
  let count = 0;
  return {
    place: placeAt(root),
    async system({ links = LINKS, files = {} }: Parts = {}): Promise<StorePath> {
      const path = parseStorePath(`/nix/store/${String(++count).repeat(32)}-system`);
      await mkdir(join(root, path), { recursive: true });
      for (const [name, to] of Object.entries(links)) {
        await mkdir(dirname(join(root, to)), { recursive: true });
        await writeFile(join(root, to), '');
        await symlink(to, join(root, path, name));
      }
      for (const [name, text] of Object.entries(files)) {
        await writeFile(join(root, path, name), text);
      }
      return path;
    },
  };
}

const triggers = (json: object) => ({ files: { 'reboot-triggers': JSON.stringify(json) } });
const inhibitors = (json: object) => ({ files: { 'switch-inhibitors': JSON.stringify(json) } });

test('the same kernel, initrd and modules need no boot; another of any does, and can be switched to', async (t) => {
  const { place, system } = await machine(t);
  const booted = await system();
  const systems = { booted, current: booted };
  assert.equal(await whyReboot(place, await system(), systems), null);
  assert.equal(await whyReboot(place, booted, systems), null);
  for (const name of Object.keys(LINKS)) {
    const other = await system({ links: { ...LINKS, [name]: '/nix/store/other/file' } });
    const why = { isInhibited: false, text: `not before the next boot: ${name}` };
    assert.deepEqual(await whyReboot(place, other, systems), why);
  }
  const { kernel: _, ...without } = LINKS;
  assert.ok(await whyReboot(place, await system({ links: without }), systems));
});

test('triggers are compared with what was booted, by the keys that both have, and say all there is to say', async (t) => {
  const { place, system } = await machine(t);
  const booted = await system(triggers({ dbus: 1, old: 1 }));
  const current = await system(triggers({ dbus: 2 }));
  const coming = async (parts: Parts) =>
    (await whyReboot(place, await system(parts), { booted, current }))?.text ?? null;
  assert.equal(await coming(triggers({ dbus: 1, new: 2 })), null);
  assert.equal(await coming(triggers({ dbus: 2 })), 'not before the next boot: dbus');
  const kernel = { links: { ...LINKS, kernel: '/nix/store/k2/bzImage' } };
  assert.equal(await coming({ ...kernel, ...triggers({ dbus: 1 }) }), null);
  // One of the two has none: then the parts are compared.
  assert.equal(await coming(kernel), 'not before the next boot: kernel');
});

test('inhibitors are compared with what runs, and forbid to switch in place', async (t) => {
  const { place, system } = await machine(t);
  const booted = await system(inhibitors({ init: 'x' }));
  const current = await system(inhibitors({ init: 'a', old: '1' }));
  const coming = async (parts: Parts) =>
    await whyReboot(place, await system(parts), { booted, current });
  assert.equal(await coming(inhibitors({ init: 'a', new: '2' })), null);
  const why = await coming(inhibitors({ init: 'b' }));
  assert.deepEqual(why, { isInhibited: true, text: 'it forbids to switch in place: init' });
});

test('what is no such file, or was never booted, says nothing', async (t) => {
  const { place, system } = await machine(t);
  const current = await system(inhibitors({ init: 'a' }));
  for (const text of ['[]', 'null', '{', '"init"']) {
    const target = await system({ files: { 'switch-inhibitors': text } });
    assert.equal(await whyReboot(place, target, { booted: current, current }), null, text);
  }
  const other = await system({ links: {} });
  assert.equal(await whyReboot(place, other, { booted: null, current: null }), null);
});
