// A system that was made what the machine boots → whether the boot loader has an entry for it. A boot loader with no room left has
// been seen to say that all went well. What is known is what NixOS's own ones write: entries of systemd-boot, the configurations of
// GRUB and extlinux; of others nothing is said.
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { StorePath } from '../nix/storepath.ts';

const DIRS = ['/boot', '/efi', '/boot/efi'] as const;
const FILES = ['grub/grub.cfg', 'extlinux/extlinux.conf'] as const;
const ENTRIES = 'loader/entries';
/** As each of them names the system. */
const ANY = 'init=/nix/store/';

/** False: entries of other systems are there, and none of `target`. `base`: where the machine's files are. */
export async function hasBootEntry(target: StorePath, base = '/'): Promise<boolean> {
  const texts: string[] = [];
  for (const dir of DIRS.map((name) => join(base, name))) {
    const entries = await readdir(join(dir, ENTRIES)).catch(() => []);
    const files = [...entries.map((name) => join(ENTRIES, name)), ...FILES];
    for (const file of files) texts.push(await readFile(join(dir, file), 'utf8').catch(() => ''));
  }
  const own = `init=${target}/init`;
  return !texts.some((text) => text.includes(ANY)) || texts.some((text) => text.includes(own));
}
