// STATE/gcroots: what keeps the build box's own garbage collection away from what was built.
// `building-PID-HOST` while a build runs, `HOST-EPOCH-SEQUENCE` for what a manifest names.
// The links of builds whose process is gone are removed; those of manifests are retention's business.
import { lstat, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { removeDurable } from '../durable.ts';
import { errnoOf, FleetError } from '../errors.ts';
import { addRoot } from '../nix/realise.ts';
import type { StorePath } from '../nix/storepath.ts';
import type { PublishedManifest, State } from '../storage/state.ts';

export type GcRoots = AsyncDisposable & {
  /** Runs a build that makes the given out-link, which stays until this is disposed of. */
  building(host: string, build: (outLink: string) => Promise<void>): Promise<void>;
  /** Roots what `manifest` names, for as long as it is retained. */
  keep(manifest: PublishedManifest): Promise<void>;
  /** When the oldest build that is going on began (POSIX seconds); Infinity where there is none. */
  oldestBuild(): Promise<number>;
  /** Releases what published manifests named whose systems are not among `kept`; returns how many. */
  release(state: Pick<State, 'manifestHistory'>, kept: ReadonlySet<StorePath>): Promise<number>;
};

export async function openGcRoots(dir: string): Promise<GcRoots> {
  const names = await readdir(dir).catch((cause) => {
    if (errnoOf(cause) !== 'ENOENT') throw cause;
    throw new FleetError('E_STATE_INCOMPLETE', `${dir} is missing`, {
      hint: `make it again: mkdir ${dir}; what hosts run is rooted again by the next fleet build`,
      cause,
    });
  });
  for (const name of names) {
    const pid = Number(/^building-(\d+)-/.exec(name)?.[1] ?? Number.NaN);
    if (!Number.isNaN(pid) && !isRunning(pid)) await removeDurable(join(dir, name));
  }
  const mine: string[] = [];
  return {
    building: async (host, build) => {
      const link = join(dir, `building-${process.pid}-${host}`);
      mine.push(link);
      await build(link);
    },
    keep: async ({ host, epoch, sequence, toplevel }) => {
      if (toplevel === null) return;
      await addRoot(toplevel, join(dir, `${host}-${epoch}-${sequence}`));
    },
    oldestBuild: async () => {
      let oldest = Number.POSITIVE_INFINITY;
      for (const name of await readdir(dir)) {
        const pid = Number(/^building-(\d+)-/.exec(name)?.[1] ?? Number.NaN);
        if (Number.isNaN(pid) || !isRunning(pid)) continue;
        const link = await lstat(join(dir, name)).catch(() => null);
        if (link !== null) oldest = Math.min(oldest, Math.floor(link.mtimeMs / 1000));
      }
      return oldest;
    },
    release: async (state, kept) => {
      let released = 0;
      for (const name of await readdir(dir)) {
        const [, host = '', epoch, sequence] = /^(.+)-(\d+)-(\d+)$/.exec(name) ?? [];
        if (name.startsWith('building-')) continue;
        // One that is not published yet is a build's that is about to publish it.
        const manifest = (await state.manifestHistory(host)).find(
          (one) => one.epoch === Number(epoch) && one.sequence === Number(sequence),
        );
        if (manifest?.toplevel == null || kept.has(manifest.toplevel)) continue;
        await removeDurable(join(dir, name));
        released += 1;
      }
      return released;
    },
    [Symbol.asyncDispose]: async () => {
      for (const link of mine) await removeDurable(link);
    },
  };
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
