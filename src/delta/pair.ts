// Two closures → which old path each new one is likely to be made from, and which hash parts change between the two. By name: the
// same, or the same but for the version; of several, the one whose NAR is nearest in size. A wrong guess costs bytes, nothing else.
// Deterministic, as packs are shared and made again.
import type { Closure, PathInfo } from '../nix/closure.ts';
import { splitName } from '../nix/drv-name.ts';
import { compareBytewise, nameOf, type StorePath } from '../nix/storepath.ts';
import type { Renames } from './pack-index.ts';

/** A path that only `next` has → the old one that it is made from; those that have none are left out. */
export function pairPaths(
  base: Pick<Closure, 'paths'>,
  next: Pick<Closure, 'paths'>,
): ReadonlyMap<StorePath, StorePath> {
  const added = [...next.paths.values()].filter(({ path }) => !base.paths.has(path));
  const removed = [...base.paths.values()].filter(({ path }) => !next.paths.has(path));
  const pairs = pair(removed, added);
  const left = added.filter(({ path }) => !pairs.has(path));
  // What stays may be near to it, too: another output, another build of the same.
  for (const [path, old] of pairAny([...base.paths.values()], left)) pairs.set(path, old);
  return pairs;
}

/** Old → new: the path itself, and its references that are others now. */
export function renamesOf(old: PathInfo, next: PathInfo): Renames {
  const kept = new Set(next.references);
  const had = new Set(old.references);
  const asInfo = (path: StorePath) => ({ path, narSize: 0 });
  const removed = old.references.filter((path) => path !== old.path && !kept.has(path));
  const added = next.references.filter((path) => path !== next.path && !had.has(path));
  const renames = new Map<StorePath, StorePath>([[old.path, next.path]]);
  for (const [to, from] of pair(removed.map(asInfo), added.map(asInfo))) renames.set(from, to);
  return renames;
}

type Sized = Pick<PathInfo, 'path' | 'narSize'>;

/** Each old one for at most one new one. */
function pair(olds: readonly Sized[], news: readonly Sized[]): Map<StorePath, StorePath> {
  const pairs = new Map<StorePath, StorePath>();
  const taken = new Set<StorePath>();
  for (const keyOf of [nameOf, stemOf]) {
    const byKey = Map.groupBy(
      olds.filter(({ path }) => !taken.has(path)),
      ({ path }) => keyOf(path),
    );
    const wanted = news.filter(({ path }) => !pairs.has(path));
    for (const [key, ones] of Map.groupBy(wanted, ({ path }) => keyOf(path))) {
      for (const [next, old] of nearest(byKey.get(key) ?? [], ones)) {
        pairs.set(next, old);
        taken.add(old);
      }
    }
  }
  return pairs;
}

function pairAny(olds: readonly Sized[], news: readonly Sized[]): Map<StorePath, StorePath> {
  const byStem = Map.groupBy(olds, ({ path }) => stemOf(path));
  const pairs = new Map<StorePath, StorePath>();
  for (const next of news) {
    const [best] = nearest(byStem.get(stemOf(next.path)) ?? [], [next]);
    if (best !== undefined) pairs.set(...best);
  }
  return pairs;
}

/** More pairs than this are not compared with each other. */
const MOST_PAIRS = 250_000;

/** New → old, the closest first. */
function nearest(olds: readonly Sized[], news: readonly Sized[]): [StorePath, StorePath][] {
  if (olds.length === 1 && news.length === 1) {
    return news.flatMap(({ path }) => olds.map((old): [StorePath, StorePath] => [path, old.path]));
  }
  if (olds.length * news.length > MOST_PAIRS) {
    const [from, to] = [bySize(olds), bySize(news)];
    return to.flatMap(({ path }, i): [StorePath, StorePath][] => {
      const old = from[i];
      return old === undefined ? [] : [[path, old.path]];
    });
  }
  const all = news.flatMap((next) =>
    olds.map((old) => ({ next, old, distance: Math.abs(next.narSize - old.narSize) })),
  );
  all.sort(
    (a, b) =>
      a.distance - b.distance ||
      compareBytewise(nameOf(a.next.path), nameOf(b.next.path)) ||
      compareBytewise(a.next.path, b.next.path) ||
      compareBytewise(a.old.path, b.old.path),
  );
  const pairs: [StorePath, StorePath][] = [];
  const used = new Set<StorePath>();
  for (const { next, old } of all) {
    if (used.has(next.path) || used.has(old.path)) continue;
    used.add(next.path).add(old.path);
    pairs.push([next.path, old.path]);
  }
  return pairs;
}

function bySize(infos: readonly Sized[]): Sized[] {
  return [...infos].sort((a, b) => a.narSize - b.narSize || compareBytewise(a.path, b.path));
}

/** The name without its version, but with its output: `openssl-3.0.17-bin` → `openssl-bin`. */
function stemOf(path: StorePath): string {
  const { name, version } = splitName(nameOf(path));
  return name + (/-[A-Za-z]+$/.exec(version)?.[0] ?? '');
}
