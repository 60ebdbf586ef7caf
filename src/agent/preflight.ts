// Whether there is room for an update, before anything of it is written: for what is missing, where the store lies, and
// for a kernel and an initrd in a /boot of its own. What does not fit is refused with figures (E_PREFLIGHT).
// A NAR's size is about what it takes, unpacked; file systems that compress or share take less, and are not asked how much.
import type { Stats } from 'node:fs';
import { readdir, stat, statfs } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { errnoOf, FleetError } from '../errors.ts';
import { makeReason } from '../manifest/receipt.ts';
import { narBytesOf, type PathInfo } from '../nix/closure.ts';
import { STORE_DIR, type StorePath } from '../nix/storepath.ts';
import type { Attempt } from './outcome.ts';
import { type Place, readSystems, realPathOf, resolveInside } from './place.ts';

const MIB = 2 ** 20;
/** Beside the NARs: Nix's database, what is rounded up to blocks, and something for the machine to live on. */
const STORE_MARGIN = 32 * MIB;
const STORE_SHARE = 0.05;
/** Beside kernel and initrd: entries of the boot loader. */
const BOOT_MARGIN = MIB;

/** @throws FleetError E_PREFLIGHT where `missing` would not fit into the store's file system. */
export async function requireStoreRoom(
  place: Place,
  missing: readonly Pick<PathInfo, 'narSize'>[],
): Promise<void> {
  if (missing.length === 0) return;
  const paths = narBytesOf(missing);
  const spare = STORE_MARGIN + Math.ceil(paths * STORE_SHARE);
  const dir = await existing(realPathOf(place, STORE_DIR));
  const free = await freeBytes(dir);
  if (free === null || free >= paths + spare) return;
  const need = `${mebibytes(paths + spare)} (${mebibytes(spare)} of it to spare)`;
  const text = `${dir} has ${mebibytes(free)} free, and the update needs ${need}`;
  throw new FleetError('E_PREFLIGHT', text, {
    hint: 'free some space: nix-collect-garbage --delete-older-than 30d; nothing was fetched',
  });
}

/** Whether `extra` bytes fit into `dir` as well, which may lie in the store's file system or in another one. */
export async function hasRoomFor(
  place: Place,
  missing: readonly Pick<PathInfo, 'narSize'>[],
  dir: string,
  extra: number,
): Promise<boolean> {
  const store = await existing(realPathOf(place, STORE_DIR));
  const isSame = (await stat(await existing(dir))).dev === (await stat(store)).dev;
  const paths = isSame ? narBytesOf(missing) : 0;
  const free = await freeBytes(await existing(dir));
  return free === null || free >= paths + extra + STORE_MARGIN + Math.ceil(paths * STORE_SHARE);
}

/**
 * What is told where kernel and initrd of `target` do not fit into /boot; null: they do, or are there already, or it is no
 * file system of its own, or has no say. To be asked once the system is in the store, before the boot loader is written.
 */
export async function lackOfBootRoom(place: Place, target: StorePath): Promise<Attempt | null> {
  const boot = place.root === null ? '/boot' : join(place.root, 'boot');
  const [own, above] = [await statsOf(join(boot, '.')), await statsOf(dirname(boot))];
  if (own === null || above === null || own.dev === above.dev) return null;
  const free = await freeBytes(boot);
  const needed = await bootBytes(place, target, boot);
  if (free === null || needed === 0 || free >= needed + BOOT_MARGIN) return null;
  const need = `kernel and initrd of the new system need ${mebibytes(needed + BOOT_MARGIN)}`;
  const todo = 'remove old generations from it; nothing was changed';
  const text = `/boot has ${mebibytes(free)} free, and ${need}: ${todo}`;
  return { phase: 'preflight-failed', reason: makeReason('E_PREFLIGHT', text), exitCode: null };
}

/** Sizes of what of `target` a boot loader would have to copy. */
async function bootBytes(place: Place, target: StorePath, boot: string): Promise<number> {
  const there = await copiedTo(boot);
  const { booted, current, profile } = await readSystems(place);
  let bytes = 0;
  for (const name of ['kernel', 'initrd']) {
    // A system of a container has none.
    const file = await resolveInside(place, `${target}/${name}`);
    if (file === null) continue;
    const others = [booted, current, profile].map((system) =>
      system === null ? null : resolveInside(place, `${system}/${name}`),
    );
    // Whatever the boot loader calls it: it booted from it, or is about to.
    if ((await Promise.all(others)).includes(file)) continue;
    const copy = `${basename(dirname(file))}-${basename(file)}`;
    if (there.some((other) => other === copy || other === `${copy}.efi`)) continue;
    bytes += (await statsOf(realPathOf(place, file)))?.size ?? 0;
  }
  return bytes;
}

/** Names of copies that NixOS's own boot loaders made: systemd-boot's, and GRUB's. */
async function copiedTo(boot: string): Promise<string[]> {
  const names = ['EFI/nixos', 'kernels'].map((dir) => readdir(join(boot, dir)).catch(() => []));
  return (await Promise.all(names)).flat();
}

/** The nearest directory that is there: a new chroot store has no store directory yet. */
async function existing(dir: string): Promise<string> {
  return dir === '/' || (await statsOf(dir)) !== null ? dir : await existing(dirname(dir));
}

/** For whom is not root; null where the file system does not say. */
async function freeBytes(dir: string): Promise<number | null> {
  const { blocks, bavail, bsize } = await statfs(dir);
  return blocks === 0 ? null : bavail * bsize;
}

async function statsOf(path: string): Promise<Stats | null> {
  try {
    return await stat(path);
  } catch (error) {
    if (['ENOENT', 'ENOTDIR'].includes(errnoOf(error) ?? '')) return null;
    throw error;
  }
}

function mebibytes(bytes: number): string {
  return `${(bytes / MIB).toFixed(1)} MiB`;
}
