// Opens the server's state directory for a verb, as its owner: a build started by root must not
// leave files behind that lock the server out.
import { accessSync, constants } from 'node:fs';
import { stat } from 'node:fs/promises';
import { userInfo } from 'node:os';
import { fileURLToPath } from 'node:url';
import { FleetError, isFleetError } from '../src/errors.ts';
import type { StateDir } from '../src/server/statedir.ts';
import { type Globals, placedError, serverState } from './output.ts';

/** Opens the state directory, runs `use` and closes it again. */
export async function withStateDir<T>(
  globals: Globals,
  use: (dir: StateDir) => Promise<T>,
  writer: 'inline' | 'thread' = 'inline',
): Promise<T> {
  // Only here, so that the agent's process never loads the database's native addon.
  const { openStateDir } = await import('../src/server/statedir.ts');
  const top = serverState(globals);
  await becomeOwner(top);
  try {
    await using dir = await openStateDir(top, { writer });
    return await use(dir);
  } catch (error) {
    throw isFleetError(error) ? placedError(globals, error) : error;
  }
}

/** Root becomes the owner of `top`, where there is such a directory; anyone else stays who they are. */
export async function becomeOwner(top: string): Promise<void> {
  const owner = await stat(top).catch(() => null);
  if (owner === null || process.geteuid?.() !== 0 || owner.uid === 0) return;
  try {
    // Groups first: once the user has changed, they can no longer be.
    process.setgroups?.([owner.gid]);
    process.setgid?.(owner.gid);
    process.setuid?.(owner.uid);
  } catch (cause) {
    throw new FleetError('E_STATE_ACCESS', `cannot become user ${owner.uid}, who owns ${top}`, {
      cause,
    });
  }
  try {
    accessSync(fileURLToPath(import.meta.url), constants.R_OK);
  } catch (cause) {
    throw new FleetError(
      'E_STATE_ACCESS',
      `user ${owner.uid}, who owns ${top}, cannot read fleet itself`,
      {
        hint: 'install fleet where every user can read it, such as below /usr/local/lib or /opt',
        cause,
      },
    );
  }
  process.env['HOME'] = homeOf(top);
  for (const name of ['XDG_CACHE_HOME', 'XDG_CONFIG_HOME', 'XDG_DATA_HOME', 'XDG_STATE_HOME']) {
    delete process.env[name];
  }
}

/** Nix keeps caches below HOME, and root's is closed to the owner. */
function homeOf(top: string): string {
  try {
    return userInfo().homedir;
  } catch {
    return top;
  }
}
