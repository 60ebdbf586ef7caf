import assert from 'node:assert/strict';
import { mkdir, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { hasBootEntry } from '../../src/agent/boot-entry.ts';
import type { StorePath } from '../../src/nix/storepath.ts';
import { temporaryDirectory } from '../helpers/temporary.ts';

const [old, target] = ['a', 'b'].map((c) => `/nix/store/${c.repeat(32)}-nixos` as StorePath) as [
  StorePath,
  StorePath,
];

test('what the boot loaders of NixOS wrote is looked at; of others nothing is said', async () => {
  for (const file of [
    '/boot/loader/entries/nixos-generation-7.conf',
    '/efi/loader/entries/nixos-generation-7.conf',
    '/boot/grub/grub.cfg',
    '/boot/extlinux/extlinux.conf',
  ]) {
    await using dir = await temporaryDirectory();
    assert.equal(await hasBootEntry(target, dir.path), true, 'none that is known');
    const at = join(dir.path, file);
    await mkdir(dirname(at), { recursive: true });
    await writeFile(at, 'title something else\n');
    assert.equal(await hasBootEntry(target, dir.path), true, file);
    await writeFile(at, `options init=${old}/init loglevel=4\n`);
    assert.equal(await hasBootEntry(target, dir.path), false, file);
    await writeFile(at, `options init=${old}/init\noptions init=${target}/init loglevel=4\n`);
    assert.equal(await hasBootEntry(target, dir.path), true, file);
    // A name that only begins like it is another system.
    await writeFile(at, `options init=${target}-more/init\n`);
    assert.equal(await hasBootEntry(target, dir.path), false, file);
  }
});
