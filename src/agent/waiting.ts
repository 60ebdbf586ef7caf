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

export type Waiting = HintPlace & { readonly pollSeconds: number; readonly isPrivate: boolean };

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
    } = JSON.parse(config) as Record<string, unknown>;
    if (!/^https?:\/\//.test(String(server)) || !/^[a-z0-9-]{1,63}$/.test(String(host))) {
      throw new TypeError('"server" and "host" must be there');
    }
    const poll = Number.isSafeInteger(pollSeconds) ? Number(pollSeconds) : 0;
    if (poll < POLL_SECONDS[0] || poll > POLL_SECONDS[1]) {
      throw new TypeError(`"pollSeconds" must be from ${POLL_SECONDS.join(' to ')}`);
    }
    if (typeof privacy !== 'boolean') throw new TypeError('"privacy" must be true or false');
    return {
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

async function readText(file: string): Promise<string | null> {
  try {
    return await readFile(file, 'utf8');
  } catch (error) {
    const errno = errnoOf(error);
    if (errno === 'ENOENT') return null;
    if (errno !== 'EACCES' && errno !== 'EPERM') throw error;
    throw new FleetError('E_STATE_ACCESS', `${file} may not be read`, { cause: error });
  }
}
