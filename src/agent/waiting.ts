// What the process that waits all day has to know: where the server is, who this host is, and how often to ask. Read
// without the checks of memory.ts, whose libraries would double the process; the run that follows makes them.
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { errnoOf, FleetError, messageOf } from '../errors.ts';
import type { HintPlace } from './hints.ts';

/** Seconds between two questions, where agent.json says nothing. */
export const DEFAULT_POLL_SECONDS = 900;
/** The least and the most of them. */
export const POLL_SECONDS = [10, 7 * 86_400] as const;

/** A group that getent(1) may be asked for. */
export const GROUP = /^[A-Za-z_][A-Za-z0-9_.-]{0,31}$/;

export type Waiting = HintPlace & {
  readonly pollSeconds: number;
  readonly isPrivate: boolean;
  /** Chroot store, or null: the machine itself. */
  readonly root: string | null;
  /** Whose members may use the control socket; null: root alone. */
  readonly localGroup: string | null;
};

/** @throws FleetError E_AGENT_NOT_ENROLLED, E_AGENT_STATE_CORRUPT, E_STATE_ACCESS */
export async function readWaiting(dir: string): Promise<Waiting> {
  const file = join(dir, 'agent.json');
  const config = await readText(file);
  if (config === null) {
    throw new FleetError('E_AGENT_NOT_ENROLLED', `no agent is enrolled in ${dir}`);
  }
  const token = ((await readText(join(dir, 'token'))) ?? '').trimEnd();
  try {
    const {
      server,
      host,
      pollSeconds = DEFAULT_POLL_SECONDS,
      privacy = false,
      root = null,
      localGroup = null,
    } = JSON.parse(config) as Record<string, unknown>;
    if (!/^https?:\/\//.test(String(server)) || !/^[a-z0-9-]{1,63}$/.test(String(host))) {
      throw new TypeError('"server" and "host" must be there');
    }
    const poll = Number.isSafeInteger(pollSeconds) ? Number(pollSeconds) : 0;
    if (poll < POLL_SECONDS[0] || poll > POLL_SECONDS[1]) {
      throw new TypeError(`"pollSeconds" must be from ${POLL_SECONDS.join(' to ')}`);
    }
    if (typeof privacy !== 'boolean') throw new TypeError('"privacy" must be true or false');
    if (root !== null && typeof root !== 'string') throw new TypeError('"root" must be a path');
    if (localGroup !== null && !(typeof localGroup === 'string' && GROUP.test(localGroup))) {
      throw new TypeError('"localGroup" must be the name of a group, or null');
    }
    return {
      root,
      localGroup,
      server: String(server),
      host: String(host),
      // Nothing else may go into a header.
      token: /^[!-~]{1,512}$/.test(token) ? token : '',
      pollSeconds: poll,
      isPrivate: privacy,
    };
  } catch (cause) {
    throw new FleetError('E_AGENT_STATE_CORRUPT', `${file} is damaged: ${messageOf(cause)}`, {
      cause,
    });
  }
}

/** The text of a file, or null when it is absent. @throws FleetError E_STATE_ACCESS */
export async function readText(file: string): Promise<string | null> {
  try {
    return await readFile(file, 'utf8');
  } catch (error) {
    const errno = errnoOf(error);
    if (errno === 'ENOENT') return null;
    if (errno !== 'EACCES' && errno !== 'EPERM') throw error;
    throw new FleetError('E_STATE_ACCESS', `${file} may not be read`, { cause: error });
  }
}
