// Two closures → what changes for people: packages by name, with versions and bytes.
import type { Closure } from '../nix/closure.ts';
import { splitName } from '../nix/drv-name.ts';
import { nameOf, type StorePath } from '../nix/storepath.ts';

export type PackageChange = {
  readonly name: string;
  /** Versions that are there before and after, each once; '' for a path without one. */
  readonly before: readonly string[];
  readonly after: readonly string[];
  /** NAR bytes after minus before. */
  readonly bytes: number;
};

export type ClosureDiff = {
  /** Paths that only the new one has, and that only the old one had. */
  readonly added: readonly StorePath[];
  readonly removed: readonly StorePath[];
  /** By name, those of which any path differs. */
  readonly packages: readonly PackageChange[];
};

/** `before` null: there was none. Closures are of the form that `parseClosure` gives. */
export function diffClosures(
  before: Pick<Closure, 'paths'> | null,
  after: Pick<Closure, 'paths'>,
): ClosureDiff {
  const old = before?.paths ?? new Map<StorePath, { narSize: number }>();
  const added = [...after.paths.keys()].filter((path) => !old.has(path));
  const removed = [...old.keys()].filter((path) => !after.paths.has(path));
  const packages = new Map<string, { before: Set<string>; after: Set<string>; bytes: number }>();
  const note = (path: StorePath, side: 'before' | 'after', bytes: number): void => {
    const { name, version } = splitName(nameOf(path));
    const one = packages.get(name) ?? { before: new Set(), after: new Set(), bytes: 0 };
    one[side].add(version);
    one.bytes += bytes;
    packages.set(name, one);
  };
  for (const path of removed) note(path, 'before', -(old.get(path)?.narSize ?? 0));
  for (const path of added) note(path, 'after', after.paths.get(path)?.narSize ?? 0);
  return {
    added,
    removed,
    packages: [...packages]
      .map(([name, one]) => ({
        name,
        before: [...one.before].sort(),
        after: [...one.after].sort(),
        bytes: one.bytes,
      }))
      .sort((a, b) => (a.name < b.name ? -1 : 1)),
  };
}
