// Paths that come as whole NARs → groups that are packed together, in one zstd frame each: what is alike in them is sent once. Groups end
// where a path's own hash says so, and not only where they are full, so that closures that differ in a few paths have most groups in common.
import type { PathInfo } from '../nix/closure.ts';
import { narHashDigest } from '../nix/hash.ts';

/** A group's NARs have at most this many bytes together, unless it is one NAR. */
const MOST = 64 * 1024 * 1024;
/** A full group's end is looked for from here on. */
const LEAST = MOST / 4;

/** `infos` in their order, cut into groups. */
export function groupWhole(infos: readonly PathInfo[]): PathInfo[][] {
  const groups: PathInfo[][] = [];
  let group: PathInfo[] = [];
  let bytes = 0;
  const close = (): void => {
    if (group.length > 0) groups.push(group);
    group = [];
    bytes = 0;
  };
  for (const info of infos) {
    if (bytes + info.narSize > MOST) close();
    group.push(info);
    bytes += info.narSize;
    // The larger the path, the likelier it ends its group: one end in 16 MiB.
    if (bytes >= LEAST && markOf(info) * LEAST < info.narSize) close();
  }
  close();
  return groups;
}

/** A number from 0 to 1 that depends on the NAR alone. */
function markOf({ narHash }: PathInfo): number {
  return Buffer.from(narHashDigest(narHash)).readUInt32LE(0) / 2 ** 32;
}
