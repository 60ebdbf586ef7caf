// A store path → its NAR, checked against what the store's database says of it. What differs from
// the database is never served: its signature would vouch for bytes that nobody has.
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { errnoOf, FleetError, isFleetError } from '../errors.ts';
import type { PathInfo } from '../nix/closure.ts';
import { formatNarHash } from '../nix/hash.ts';
import { dumpNar } from '../nix/nar-dump.ts';
import type { NarNode } from '../nix/nar-write.ts';
import { baseNameOf } from '../nix/storepath.ts';

/**
 * The NAR of `info.path`, whose files lie in `storeDir`; exactly `info.narSize` bytes. The last chunk
 * comes before the hash is known, so a consumer keeps nothing until the generator has returned.
 * `onNode` is told of every node on the way; `buffer` as in dumpNar.
 * @throws FleetError E_STORE_CORRUPT when size or hash differ, or files are missing.
 */
export async function* checkedDump(
  info: PathInfo,
  storeDir: string,
  onNode?: (event: NarNode) => void,
  buffer?: Buffer,
): AsyncGenerator<Uint8Array, void> {
  const hash = createHash('sha256');
  let size = 0;
  try {
    const path = join(storeDir, baseNameOf(info.path));
    for await (const chunk of dumpNar(path, onNode, buffer)) {
      size += chunk.length;
      if (size > info.narSize) throw corrupt(info, `is larger than ${info.narSize} bytes`);
      hash.update(chunk);
      yield chunk;
    }
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') throw corrupt(info, 'lacks files', error);
    if (!isFleetError(error, 'E_NAR_BAD')) throw error;
    // Too deep, a name that no NAR may have, …: it is this path that has to change.
    throw new FleetError('E_NAR_BAD', `${info.path} cannot be served: ${error.message}`, {
      hint: 'change what builds it',
      cause: error,
    });
  }
  if (size < info.narSize) throw corrupt(info, `has ${size} bytes instead of ${info.narSize}`);
  const actual = formatNarHash(hash.digest());
  if (actual !== info.narHash)
    throw corrupt(info, `has the hash ${actual} and not ${info.narHash}`);
}

function corrupt(info: PathInfo, how: string, cause?: unknown): FleetError {
  return new FleetError(
    'E_STORE_CORRUPT',
    `${info.path} is not what the Nix database says: its NAR ${how}`,
    {
      hint: `check with: nix-store --verify-path ${info.path}; mend with: nix-store --repair-path ${info.path}`,
      cause,
    },
  );
}
