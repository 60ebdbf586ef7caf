// The health checks of a manifest (SPEC §4.4), each done once: → null, or a few words about what does not hold.
// Each ends in the time it is given, whatever it meets: a command that hangs, a server that never ends its answer.
// None gets a secret, a setting of Nix, or (of an answer) a byte more than its status.
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { connect } from 'node:net';
import { Agent } from 'undici';
import { errnoOf, messageOf } from '../errors.ts';
import type { Health } from '../manifest/activation.ts';
import { within } from './body.ts';
import type { Host } from './host.ts';
import { cleanEnvironment, commandInside, findProgram } from './inside.ts';
import { inactiveUnits } from './units.ts';

/** Within `ms` milliseconds; throws nothing. */
export type Check = (ms: number) => Promise<string | null>;

/** The most that one check may take, in milliseconds. */
export const CHECK_MS = 30_000;

/** As much of what a command says is looked at. */
const TAIL_BYTES = 4096;

export function checksOf(host: Pick<Host, 'place' | 'hasSystemd'>, health: Health): Check[] {
  const { units, commands, http, tcp = [] } = health;
  return [
    ...(units.length === 0 ? [] : [(ms: number) => checkUnits(host, units, ms)]),
    ...commands.map((command) => (ms: number) => checkCommand(host, command, ms)),
    ...http.map((one) => (ms: number) => checkHttp(one, ms)),
    ...tcp.map((one) => (ms: number) => checkTcp(one, ms)),
  ];
}

async function checkUnits(
  { hasSystemd }: Pick<Host, 'hasSystemd'>,
  units: readonly string[],
  ms: number,
): Promise<string | null> {
  // What cannot be found out does not hold.
  if (!hasSystemd) return `${units.join(', ')}: no systemd runs here that knows units`;
  try {
    const inactive = await inactiveUnits(units, ms);
    return inactive.length === 0 ? null : inactive.join(', ');
  } catch (error) {
    return messageOf(error);
  }
}

/** As root from /, where the new system is; its own programs come first on PATH. */
async function checkCommand(
  { place }: Pick<Host, 'place'>,
  command: readonly string[],
  ms: number,
): Promise<string | null> {
  const name = command.join(' ');
  const what = name.length <= 120 ? name : `${name.slice(0, 120).toWellFormed()}…`;
  try {
    const env = cleanEnvironment();
    const path = ['/run/current-system/sw/bin', env['PATH']].filter(Boolean).join(':');
    // Ends it also when this process is gone; else we are quicker.
    const limit = [await findProgram('timeout'), '-s', 'KILL', `${Math.ceil(ms / 1000) + 5}`];
    const [program = '', ...args] = [...limit, ...(await commandInside(place, command))];
    const child = spawn(program, args, {
      cwd: '/',
      detached: true,
      env: { ...env, PATH: path },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    const { code, last } = await endOf(child, ms);
    if (code === 0) return null;
    const how = code === null ? `did not end in ${seconds(ms)}` : `ended with ${code}`;
    return `${what} ${how}${last === '' ? '' : `: ${last}`}`;
  } catch (error) {
    return `${what}: ${messageOf(error)}`;
  }
}

/** Its exit status (null: the time was up, or it was killed) and the last line that it said. */
async function endOf(
  child: ChildProcess,
  ms: number,
): Promise<{ readonly code: number | null; readonly last: string }> {
  let tail = Buffer.alloc(0);
  for (const stream of [child.stdout, child.stderr]) {
    stream
      ?.on('error', () => {})
      .on('data', (data: Buffer) => {
        tail = Buffer.concat([tail, data]).subarray(-TAIL_BYTES);
      });
  }
  const exit = once(child, 'exit') as Promise<[number | null]>;
  const close = once(child, 'close');
  close.catch(() => {});
  let code: number | null = null;
  if (await within(exit, ms)) {
    [code] = await exit;
    // What it started may hold its output for as long as it likes.
    await within(close, 100);
  } else {
    endGroup(child);
    // Not even that ends what waits for a device.
    await within(exit, 1000);
  }
  child.stdout?.destroy();
  child.stderr?.destroy();
  child.unref();
  const lines = tail.toString('utf8').trimEnd().split('\n');
  return { code, last: lines.at(-1)?.slice(0, 300).toWellFormed() ?? '' };
}

/** A session of its own: all that it started, but what left it. */
function endGroup({ pid }: ChildProcess): void {
  try {
    if (pid !== undefined) process.kill(-pid, 'SIGKILL');
  } catch {
    // It ended at this moment.
  }
}

async function checkHttp(
  { url, status }: Health['http'][number],
  ms: number,
): Promise<string | null> {
  // Of this check alone, and by no proxy: what is asked about is the host itself.
  const timeout = Math.ceil(ms);
  const dispatcher = new Agent({ connect: { timeout }, headersTimeout: timeout });
  const late = new AbortController();
  const timer = setTimeout(() => late.abort(), ms);
  try {
    const headers = { 'user-agent': 'fleet-agent' };
    const { origin, pathname, search } = new URL(url);
    const path = `${pathname}${search}`;
    const request = { origin, path, method: 'GET', headers, signal: late.signal } as const;
    const answer = await dispatcher.request(request);
    answer.body.on('error', () => {}).destroy();
    if (answer.statusCode === status) return null;
    return `${url} answered ${answer.statusCode}, not ${status}`;
  } catch (error) {
    return `${url}: ${late.signal.aborted ? `no answer in ${seconds(ms)}` : wordsOf(error)}`;
  } finally {
    clearTimeout(timer);
    await dispatcher.destroy();
  }
}

async function checkTcp(
  { host, port }: NonNullable<Health['tcp']>[number],
  ms: number,
): Promise<string | null> {
  const what = `${host} port ${port}`;
  const socket = connect({ host, port });
  const connected = once(socket, 'connect');
  try {
    if (!(await within(connected, ms))) return `${what}: no connection in ${seconds(ms)}`;
    await connected;
    return null;
  } catch (error) {
    return `${what}: ${wordsOf(error)}`;
  } finally {
    socket.on('error', () => {}).destroy();
  }
}

/** Where several addresses were tried, Node says no word about any. */
function wordsOf(error: unknown): string {
  return messageOf(error) || (errnoOf(error) ?? 'no connection');
}

function seconds(ms: number): string {
  return `${Math.round(ms / 100) / 10} s`;
}
