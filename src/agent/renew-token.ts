// This host's token → the one that follows it (SPEC §7.4), in time, when the server says so, or when the one it
// has is no longer taken. The next token is made here, and kept (renewal.json) before the server hears of its
// hash: whatever dies or gets lost on the way, the same is asked for again, and the server gives the same
// answer. The one before stays known: a server that was restored from a backup may know no later one.
import { createHash, randomBytes } from 'node:crypto';
import { writeDurable } from '../durable.ts';
import { FleetError, isFleetError } from '../errors.ts';
import { signTokenRequest, TOKEN_REQUEST_PAYLOAD_TYPE } from '../manifest/token-request.ts';
import { Client, errorDocument } from './client.ts';
import { type Memory, memoryFiles, readState } from './memory.ts';
import { type Fields, formatRecord, integer, matching, nullable, parseRecord } from './record.ts';

/** renewal.json */
export type Renewal = {
  /** POSIX seconds, by this machine's clock; null: only when the server says so. */
  readonly renewAt: number | null;
  /** The token that was asked for last; in use already where `token` holds it. */
  readonly next: string | null;
  /** The one before the one in use. */
  readonly previous: string | null;
};

export const NO_RENEWAL: Renewal = { renewAt: null, next: null, previous: null };

const token = matching(/^[!-~]{16,512}$/, 'a token');
export const RENEWAL: Fields<Renewal> = {
  renewAt: nullable(integer(0)),
  next: nullable(token),
  previous: nullable(token),
};

/** @throws FleetError E_AGENT_STATE_CORRUPT */
export async function readRenewal(dir: string): Promise<Renewal> {
  const file = memoryFiles(dir).renewal;
  const text = await readState(file);
  return text === null ? NO_RENEWAL : parseRecord(text, file, RENEWAL);
}

export async function writeRenewal(dir: string, renewal: Renewal): Promise<void> {
  await writeDurable(memoryFiles(dir).renewal, formatRecord(renewal), 0o600);
}

/** When two thirds of a life of `expiresIn` seconds are over, by the clock that says `now`. */
export function renewAfter(expiresIn: number, now: number): number {
  return now + Math.floor((expiresIn * 2) / 3);
}

/** Does what `ask` does; with the next token, where this one is no longer taken. */
export async function withToken<T>(
  client: Client,
  memory: Memory,
  now: number,
  ask: () => Promise<T>,
): Promise<T> {
  try {
    return await ask();
  } catch (error) {
    if (!isFleetError(error, 'E_SERVER_AUTH')) throw error;
    try {
      client.useToken(await renewToken(memory, now));
    } catch (refusal) {
      throw isFleetError(refusal, 'E_SERVER_AUTH') ? error : refusal;
    }
    return await ask();
  }
}

/** Gets the next token where it is time, after a run that ended in `error`; says why it could not, and no run fails for that. */
export async function renewInTime(
  client: Client,
  memory: Memory,
  now: number,
  error: FleetError | null,
  say: (line: string) => void = () => {},
): Promise<void> {
  if (memory.trust.decommissioned) return;
  // Nobody is there, or it was tried in this very run.
  if (isFleetError(error, 'E_SERVER_UNREACHABLE', 'E_SERVER_AUTH', 'E_TOKEN_SUCCESSOR')) return;
  try {
    const { renewAt } = await readRenewal(memory.dir);
    if (!client.isToldToRenew && (renewAt === null || now < renewAt)) return;
    client.useToken(await renewToken(memory, now));
  } catch (problem) {
    if (!isFleetError(problem)) throw problem;
    // Its own advice: such a run ends well, and nothing else would say what to do before the token's end.
    say(`the token was not renewed: ${problem.message}; ${problem.hint}`);
  }
}

/**
 * Returns the token that is in use from now on.
 * @throws FleetError E_TOKEN_SUCCESSOR, E_DECOMMISSIONED, E_SERVER_…, E_DISK_FULL, E_AGENT_STATE_CORRUPT
 */
async function renewToken(memory: Memory, now: number): Promise<string> {
  const { dir } = memory;
  const before = await readRenewal(dir);
  // It may have moved on in this very run.
  let current = await tokenOf(memory);
  let { next } = before;
  for (;;) {
    if (next === null || next === current) next = newToken();
    await writeRenewal(dir, { ...(await readRenewal(dir)), next });
    const expiresIn = await askToFollow(memory, current, next, before.previous);
    if (expiresIn === null) return current;
    await writeRenewal(dir, { next, previous: current, renewAt: renewAfter(expiresIn, now) });
    await writeDurable(memoryFiles(dir).token, `${next}\n`, 0o600);
    current = next;
    // Of a renewal that broke off so long ago that what it gave is over as well.
    if (expiresIn > 0) return current;
  }
}

/** For how many seconds `next` is good; null: `current` is the one to use, now that the server knows it. */
async function askToFollow(
  memory: Memory,
  current: string,
  next: string,
  previous: string | null,
): Promise<number | null> {
  try {
    return await ask(memory, current, next);
  } catch (error) {
    if (!isFleetError(error, 'E_SERVER_AUTH') || previous === null) throw error;
    // A renewal that broke off before `token` was written: there is none before this one.
    if (previous === current) throw error;
    // It has forgotten that this one followed the one before.
    await ask(memory, previous, current);
    return null;
  }
}

async function ask(memory: Memory, replaces: string, next: string): Promise<number> {
  const { fleet, host } = memory.config;
  await using client = new Client({ ...memory.config, token: replaces });
  const request = { fleet, host, replaces: hashOf(replaces), token: hashOf(next) };
  const path = `/v1/hosts/${host}/token`;
  const { status, body } = await client.document(path, 4096, {
    method: 'POST',
    body: signTokenRequest(request, memory.hostKey),
    contentType: TOKEN_REQUEST_PAYLOAD_TYPE,
    expect: [409],
  });
  if (status === 409) {
    const said = errorDocument(body);
    const removed = said?.error === 'E_DECOMMISSIONED';
    const message = said?.message ?? 'the server gives no further token';
    if (!removed) throw new FleetError('E_TOKEN_SUCCESSOR', message);
    throw new FleetError('E_DECOMMISSIONED', message, {
      hint: 'what this machine runs is left as it is; to update it again, enrol it under another name',
    });
  }
  const expiresIn = expiresInOf(body);
  if (expiresIn !== null) return expiresIn;
  throw new FleetError('E_SERVER_ANSWER', `${memory.config.server}${path} answered without a time`);
}

/** `expiresIn` of an answer about a token: whole seconds, or null where there is none. */
export function expiresInOf(body: Uint8Array): number | null {
  try {
    const { expiresIn } = JSON.parse(Buffer.from(body).toString('utf8')) as { expiresIn?: unknown };
    const isTime = typeof expiresIn === 'number' && Number.isInteger(expiresIn) && expiresIn >= 0;
    return isTime && expiresIn <= MAX_SECONDS ? expiresIn : null;
  } catch {
    return null;
  }
}

/** A hundred years. */
const MAX_SECONDS = 100 * 366 * 86_400;

async function tokenOf({ dir, token: read }: Memory): Promise<string> {
  return (await readState(memoryFiles(dir).token))?.trimEnd() ?? read;
}

function newToken(): string {
  return `fleet_${randomBytes(32).toString('base64url')}`;
}

function hashOf(text: string): string {
  return createHash('sha256').update(text).digest('hex');
}
