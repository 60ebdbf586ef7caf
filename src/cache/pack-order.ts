// The paths of a pack, each after those that it refers to (SPEC §12.3), in an order that hardly changes with the closure: by
// how much lies below a path, then by name. So closures that differ in a few paths have the others in the same order, and
// equal pieces of packs in common, and what is alike comes together.
import type { Closure, PathInfo } from '../nix/closure.ts';
import { compareBytewise, nameOf, type StorePath } from '../nix/storepath.ts';

/** Those paths of `closure` that `isGiven` says. */
export function inPackOrder(
  closure: Pick<Closure, 'paths'>,
  isGiven: (path: StorePath) => boolean,
): PathInfo[] {
  const heights = heightsOf(closure);
  return [...closure.paths.values()]
    .filter(({ path }) => isGiven(path))
    .map((info) => ({ info, height: heights.get(info.path) ?? 0, name: nameOf(info.path) }))
    .sort(
      (a, b) =>
        a.height - b.height ||
        compareBytewise(a.name, b.name) ||
        compareBytewise(a.info.path, b.info.path),
    )
    .map(({ info }) => info);
}

/** The longest chain of references below each path; self-references do not count. Never recursive. */
function heightsOf({ paths }: Pick<Closure, 'paths'>): ReadonlyMap<StorePath, number> {
  const heights = new Map<StorePath, number>();
  const entered = new Set<StorePath>();
  for (const start of paths.keys()) {
    const stack = [start];
    for (let path = stack.at(-1); path !== undefined; path = stack.at(-1)) {
      const below = (paths.get(path)?.references ?? []).filter((other) => other !== path);
      const open = entered.has(path) ? [] : below.filter((other) => !heights.has(other));
      entered.add(path);
      if (open.length > 0) {
        stack.push(...open);
        continue;
      }
      stack.pop();
      if (heights.has(path)) continue;
      heights.set(
        path,
        below.reduce((most, other) => Math.max(most, (heights.get(other) ?? 0) + 1), 0),
      );
    }
  }
  return heights;
}
