// What a command writes where the person said → a new file, durably, never in place of another.
import { stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { createDurable } from '../src/durable.ts';
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

/** Before long work, and not after it. `option`: such as `--out`. @throws FleetError E_USAGE. */
export async function requireDirectoryOf(option: string, file: string): Promise<void> {
  const found = await stat(dirname(file)).catch(() => null);
  if (found?.isDirectory() === true) return;
  throw new FleetError('E_USAGE', `${option} ${file}: there is no directory ${dirname(file)}`, {
    hint: 'make it first, or choose another place',
  });
}
