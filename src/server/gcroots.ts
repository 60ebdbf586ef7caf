// STATE/gcroots: what keeps the build box's own garbage collection away from what was built.
// `building-PID-HOST` while a build runs, and `systems.FENCE.N-M` for what the manifests of a publication name,
// FENCE being the number of its lease. A publication registers all its systems with Nix at once, so the names
// say nothing of hosts: what a link leads to tells whether it is still wanted (retention's business).
// The links of builds whose process is gone are removed.
import { lstat, readdir, readlink, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { syncDirectory } from '../durable.ts';
import { errnoOf, FleetError } from '../errors.ts';
import { addRoots, type StoreOptions } from '../nix/realise.ts';
import type { StorePath } from '../nix/storepath.ts';

export type GcRoots = AsyncDisposable & {
  /** Runs a build that makes the given out-link, which stays until this is disposed of. */
  building(host: string, build: (outLink: string) => Promise<void>): Promise<void>;
  /**
   * Roots what the manifests of the publication with this fencing number name, for as long as it is retained, and
   * what hosts are told already where no link leads to it (the directory was made anew); returns those that are
   * not valid in the store.
   */
  keep(
    toplevels: Iterable<StorePath>,
    told: Iterable<StorePath>,
    fence: number,
  ): Promise<ReadonlySet<StorePath>>;
  /** When the oldest build that is going on began (POSIX seconds); Infinity where there is none. */
  oldestBuild(): Promise<number>;
  /**
   * Releases what earlier publications named and is not among `kept`, and all but one of several links to the
   * same system; returns how many. `before`: the last fencing number when `kept` was not yet looked up. What
   * publications name that came no earlier stays: they may be about to be committed.
   */
  release(kept: ReadonlySet<StorePath>, before: number): Promise<number>;
};

/** `store`: which store of Nix's, the machine's own where absent. */
export async function openGcRoots(dir: string, store: StoreOptions = {}): Promise<GcRoots> {
  const names = await readdir(dir).catch((cause) => {
    if (errnoOf(cause) !== 'ENOENT') throw cause;
    throw new FleetError('E_STATE_INCOMPLETE', `${dir} is missing`, {
      hint: `make it again: mkdir ${dir}; what hosts run is rooted again by the next fleet build`,
      cause,
    });
  });
  const remove = async (all: readonly string[]): Promise<void> => {
    for (const name of all) await rm(join(dir, name), { force: true });
    if (all.length > 0) await syncDirectory(dir);
  };
  await remove(names.filter((name) => !isRunning(builderOf(name) ?? process.pid)));
  const mine: string[] = [];
  return {
    building: async (host, build) => {
      const name = `building-${process.pid}-${host}`;
      mine.push(name);
      await build(join(dir, name));
    },
    keep: async (toplevels, told, fence) => {
      const wanted = new Set(told);
      if (wanted.size > 0) for (const path of await rooted(dir)) wanted.delete(path);
      return await addRoots(
        [...new Set([...toplevels, ...wanted])],
        join(dir, `systems.${fence}`),
        store,
      );
    },
    oldestBuild: async () => {
      let oldest = Number.POSITIVE_INFINITY;
      for (const name of await readdir(dir)) {
        const pid = builderOf(name);
        if (pid === null || !isRunning(pid)) continue;
        const link = await lstat(join(dir, name)).catch(() => null);
        if (link !== null) oldest = Math.min(oldest, Math.floor(link.mtimeMs / 1000));
      }
      return oldest;
    },
    release: async (kept, before) => {
      const links = (await readdir(dir))
        .map((name) => ({ name, fence: fenceOf(name) }))
        .filter((link) => link.fence !== null && link.fence < before)
        .sort((a, b) => (b.fence ?? 0) - (a.fence ?? 0));
      const released: string[] = [];
      const rooted = new Set<string>();
      for (const { name } of links) {
        const target = await readlink(join(dir, name));
        if (rooted.has(target) || !kept.has(target as StorePath)) released.push(name);
        rooted.add(target);
      }
      await remove(released);
      return released.length;
    },
    [Symbol.asyncDispose]: () => remove(mine),
  };
}

/** What the links of publications lead to. */
async function rooted(dir: string): Promise<StorePath[]> {
  const names = (await readdir(dir)).filter((name) => fenceOf(name) !== null);
  const targets: StorePath[] = [];
  for (const name of names) {
    // A collection may have released it by now.
    const target = await readlink(join(dir, name)).catch(() => null);
    if (target !== null) targets.push(target as StorePath);
  }
  return targets;
}

/** Whose build a link is of; null for one that is of none. */
function builderOf(name: string): number | null {
  const pid = /^building-(\d+)-/.exec(name)?.[1];
  return pid === undefined ? null : Number(pid);
}

/** Of which publication a link is; null for one that is of none. */
function fenceOf(name: string): number | null {
  const fence = /^systems\.(\d+)\.\d+(-\d+)?$/.exec(name)?.[1];
  if (fence !== undefined) return Number(fence);
  // HOST-EPOCH-SEQUENCE, as it was before publications had numbers.
  return /^[a-z0-9-]+-\d+-\d+$/.test(name) && builderOf(name) === null ? 0 : null;
}

function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    // EPERM: there is one, of another user.
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}
