// The file of a service's unit → what it is now, to see whether an update brought another one.
import { readFile, readlink } from 'node:fs/promises';

/** Null: there is none. */
export async function unitAt(file: string): Promise<string | null> {
  // A unit of NixOS is a symlink into the store; another one's contents say it as well.
  return await readlink(file).catch(async () => await readFile(file, 'utf8').catch(() => null));
}
