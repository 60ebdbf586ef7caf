// Where an agent's system lies: the machine itself, or a chroot store under DIR (`--root DIR`), whose
// logical /nix is DIR/nix and whose /run is DIR/run. Reads which systems are booted, current and in the
// profile; writes nothing. Links are read, never followed by the kernel: in a chroot store they point
// at logical paths that mean something else out here.
import { lstat, readFile, readlink } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { errnoOf } from '../errors.ts';
import { parseStorePath, STORE_DIR, type StorePath } from '../nix/storepath.ts';

export type Place = {
  /** Absolute path of the chroot store, or null: the machine itself. */
  readonly root: string | null;
  /** The system profile as this process sees it. */
  readonly profile: string;
  /** The directory that is /run in there. */
  readonly run: string;
  /** What every question to Nix is told: which store, and where it may write besides. */
  readonly nix: { readonly root?: string; readonly scratch?: string };
};

/** Which systems a host has where; null: none, or not a store path. */
export type Systems = {
  readonly booted: StorePath | null;
  readonly current: StorePath | null;
  readonly profile: StorePath | null;
};

/** `scratch`: a directory for Nix; without it, one in the system's temporary directory for each call. */
export function placeAt(root: string | null, scratch?: string): Place {
  const base = root === null ? '/' : resolve(root);
  return {
    root: root === null ? null : base,
    profile: join(base, 'nix/var/nix/profiles/system'),
    run: join(base, 'run'),
    nix: {
      ...(root === null ? {} : { root: base }),
      ...(scratch === undefined ? {} : { scratch }),
    },
  };
}

/** Where a logical store path, or what lies below it, is for this process. */
export function realPathOf(place: Place, logical: string): string {
  return place.root === null ? logical : join(place.root, logical);
}

export async function readSystems(place: Place): Promise<Systems> {
  return {
    booted: await readStoreLink(place, join(place.run, 'booted-system')),
    current: await readStoreLink(place, join(place.run, 'current-system')),
    profile: await readStoreLink(place, place.profile),
  };
}

/** True when `toplevel` has the program that switches to it, as every NixOS system does. */
export async function canSwitchTo(place: Place, toplevel: StorePath): Promise<boolean> {
  return (await resolveInside(place, `${toplevel}/bin/switch-to-configuration`)) !== null;
}

/** Where a logical path leads in the end, as a logical path; null: nowhere. */
export async function resolveInside(place: Place, logical: string): Promise<string | null> {
  // By hand: a link on the way holds a logical path, too.
  const todo = logical.split('/').reverse();
  let at = '/';
  for (let hops = 0; hops < 64; hops++) {
    const name = todo.pop();
    if (name === undefined) return at;
    const next = resolve(at, name);
    try {
      if ((await lstat(realPathOf(place, next))).isSymbolicLink()) {
        const target = await readlink(realPathOf(place, next));
        todo.push(...target.split('/').reverse());
        if (target.startsWith('/')) at = '/';
      } else at = next;
    } catch (error) {
      if (errnoOf(error) === 'ENOENT' || errnoOf(error) === 'ENOTDIR') return null;
      throw error;
    }
  }
  return null;
}

/**
 * Names this boot (random(4)): what was only activated, not committed, is gone in the next. A chroot store's
 * /run is a directory, which survives every boot.
 */
export async function readBootId({ root }: Place): Promise<string> {
  if (root !== null) return 'chroot store';
  return (await readFile('/proc/sys/kernel/random/boot_id', 'utf8')).trim();
}

// A profile is a link to a generation, which is a link to the store path; 8 is more than anyone has.
async function readStoreLink(place: Place, link: string): Promise<StorePath | null> {
  let at = link;
  for (let hops = 0; hops < 8; hops++) {
    let target: string;
    try {
      target = await readlink(at);
    } catch (error) {
      if (['ENOENT', 'EINVAL', 'ENOTDIR'].includes(errnoOf(error) ?? '')) return null;
      throw error;
    }
    // Some Nix versions write the real path of a chroot store's path.
    const logical =
      place.root !== null && target.startsWith(`${place.root}${STORE_DIR}/`)
        ? target.slice(place.root.length)
        : target;
    if (logical.startsWith(`${STORE_DIR}/`)) {
      try {
        return parseStorePath(logical);
      } catch {
        return null;
      }
    }
    at = resolve(dirname(at), target);
  }
  return null;
}
