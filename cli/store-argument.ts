// A store path that a person typed → a StorePath: also without /nix/store, as a path below one, or as a
// link to one, such as ./result.
import { realpath } from 'node:fs/promises';
import { FleetError } from '../src/errors.ts';
import { parseStorePath, STORE_DIR, type StorePath } from '../src/nix/storepath.ts';

/** @throws FleetError E_STORE_PATH */
export async function pathArgument(text: string): Promise<StorePath> {
  const real = await realpath(text).catch(() => text);
  const absolute = real.includes('/') ? real : `${STORE_DIR}/${real}`;
  const [name = ''] = absolute.startsWith(`${STORE_DIR}/`)
    ? absolute.slice(STORE_DIR.length + 1).split('/')
    : [];
  try {
    return parseStorePath(`${STORE_DIR}/${name}`);
  } catch (cause) {
    throw new FleetError('E_STORE_PATH', `${text} is no store path, and no link to one`, { cause });
  }
}
