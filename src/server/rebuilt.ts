// A path that this box built again with other bytes, and that the cache cannot go on serving as it was
// (its references differ, or its stored bytes are lost), must not be replaced under hosts that were told
// its old hash: their newest manifest would name bytes that nobody has. Refused, unless those hosts are
// built, and so told anew, in the same run.
import { text } from 'node:stream/consumers';
import { FleetError } from '../errors.ts';
import type { PathInfo } from '../nix/closure.ts';
import type { CachedPath } from '../storage/state.ts';
import type { StateDir } from './statedir.ts';

/** @throws FleetError E_REBUILT naming the path and the hosts that must be built as well. */
export async function requireUntold(
  { state, blobs }: StateDir,
  infos: readonly PathInfo[],
  hostsOfThisRun: ReadonlySet<string>,
): Promise<void> {
  const replaced: CachedPath[] = [];
  const wanted = new Map(infos.map((info) => [info.path, info]));
  for (const row of await state.cachedPaths([...wanted.keys()])) {
    const info = wanted.get(row.path);
    if (info === undefined || info.narHash === row.narHash) continue;
    const isKept =
      info.references.join() === row.references.join() &&
      (row.blob === null || (await blobs.size(row.blob)) === row.blobSize);
    if (!isKept) replaced.push(row);
  }
  if (replaced.length === 0) return;
  for (const { host, closure } of await state.currentManifests()) {
    // One that was removed is told nothing.
    if (closure === null || hostsOfThisRun.has(host)) continue;
    const file = await blobs.get(closure);
    const lines = file === null ? '' : await text(file);
    const told = replaced.find((row) => lines.includes(`1;${row.path};${row.narHash};`));
    if (told === undefined) continue;
    throw new FleetError(
      'E_REBUILT',
      `${told.path} was built again with other bytes than ${host} was told`,
      { hint: 'build all hosts in one run: fleet build, without naming any' },
    );
  }
}
