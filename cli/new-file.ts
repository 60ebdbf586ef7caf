// What a command writes where the person said → a new file, durably, never in place of another.
import { randomBytes } from 'node:crypto';
import { lstat, open, rm, stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { asDiskFull, createDurable, linkDurable } from '../src/durable.ts';
import { errnoOf, FleetError, isFleetError } from '../src/errors.ts';

/** @throws FleetError E_STATE_EXISTS; E_USAGE where it has no place; E_STATE_ACCESS, E_DISK_FULL. */
export async function writeNew(
  file: string,
  data: string | Uint8Array,
  mode?: number,
): Promise<void> {
  try {
    await createDurable(file, data, mode);
  } catch (cause) {
    if (isFleetError(cause) || errnoOf(cause) === undefined) throw cause;
    throw new FleetError('E_USAGE', `cannot write ${file}: ${errnoOf(cause)}`, {
      hint: 'choose another place, in a directory that is there',
      cause,
    });
  }
}

/** Before a long file is made. @throws FleetError E_USAGE, E_STATE_EXISTS. */
export async function requireNew(option: string, file: string): Promise<void> {
  await requireDirectoryOf(option, file);
  if ((await lstat(file).catch(() => null)) !== null) throw taken(option, file);
}

/**
 * Streams to a name beside `file`, and then puts it in its place: half a file is never there, nor another's overwritten.
 * Returns how many bytes it has.
 * @throws FleetError E_STATE_EXISTS; E_USAGE where it has no place; E_DISK_FULL; and what `chunks` throw.
 */
export async function streamNew(
  option: string,
  file: string,
  chunks: AsyncIterable<Uint8Array>,
): Promise<number> {
  const temporary = `${file}.tmp-${randomBytes(6).toString('hex')}`;
  let bytes = 0;
  try {
    await using handle = await open(temporary, 'wx');
    for await (const chunk of chunks) {
      await handle.writeFile(chunk);
      bytes += chunk.length;
    }
    await handle.sync();
    await linkDurable(temporary, file);
    await rm(temporary);
    return bytes;
  } catch (thrown) {
    await rm(temporary, { force: true }).catch(() => {});
    const cause = asDiskFull(thrown, file);
    if (isFleetError(cause, 'E_STATE_EXISTS')) throw taken(option, file);
    if (isFleetError(cause) || errnoOf(cause) === undefined) throw cause;
    throw new FleetError('E_USAGE', `cannot write ${file}: ${errnoOf(cause)}`, {
      hint: `choose another ${option}`,
      cause,
    });
  }
}

function taken(option: string, file: string): FleetError {
  return new FleetError('E_STATE_EXISTS', `${file} exists already`, {
    hint: `nothing is overwritten: somebody may have it; choose another ${option}, with the date in its name`,
  });
}

/** Before long work, and not after it. `option`: such as `--out`. @throws FleetError E_USAGE. */
export async function requireDirectoryOf(option: string, file: string): Promise<void> {
  const found = await stat(dirname(file)).catch(() => null);
  if (found?.isDirectory() === true) return;
  throw new FleetError('E_USAGE', `${option} ${file}: there is no directory ${dirname(file)}`, {
    hint: 'make it first, or choose another place',
  });
}
