// What a segment of a pack is made of → the key under which State keeps it, so that it is made once for all packs: a SHA-256
// over texts that cannot be mistaken for one another, as none of them holds a newline.
import { createHash } from 'node:crypto';
import type { Renames } from '../delta/pack-index.ts';
import type { NarHash } from '../nix/hash.ts';

/** Another one where what is made of the same things, or what is kept of it, changes. */
const VERSION = 'fleet-pack/1';

/** Of a patch from the NAR `old`, rewritten, to `next`. */
export function patchKey(old: NarHash, next: NarHash, renames: Renames): string {
  const lines = [...renames].map(([from, to]) => `${from} ${to}`).sort();
  return keyOf(['patch', old, next, ...lines]);
}

/** Of the frame of whole NARs, in their order. */
export function wholeKey(nars: readonly NarHash[]): string {
  return keyOf(['whole', ...nars]);
}

function keyOf(lines: readonly string[]): string {
  return createHash('sha256')
    .update([VERSION, ...lines, ''].join('\n'))
    .digest('hex');
}
