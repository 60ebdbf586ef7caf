// Hints for many hosts: simulated agents that speak the real protocol over sockets of their own, a real server, and
// another process's publication.
import { spawn } from 'node:child_process';
import { statSync } from 'node:fs';
import { type IncomingMessage, request } from 'node:http';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { initStateDir } from '../src/server/init.ts';
import { openStateDir, type StateDir } from '../src/server/statedir.ts';
import { generateToken, hashToken } from '../src/server/tokens.ts';
import type { Figure } from './figures.ts';
import { hostName, publishRound } from './rounds.ts';
import { memoryMiB } from './servers.ts';

const HINTED = 1000;
const CONNECTED = 5000;

export async function hintFigures(
  top: string,
  fleet: string,
  quick: boolean,
  log: (line: string) => void,
): Promise<Figure[]> {
  const [hinted, connected] = quick ? [100, 500] : [HINTED, CONNECTED];
  const now = Math.floor(Date.now() / 1000);
  await initStateDir(top, { origin: 'bench.test', url: null, now });
  await using dir = await openStateDir(top, { writer: 'inline' });
  const hosts = Array.from({ length: connected }, (_, i) => hostName(i));
  const tokens = await admit(dir, hosts, now);
  await publishRound(dir, hosts, 0);
  log(`${connected} hosts are enrolled`);
  const serve = ['serve', '--state', top, '--listen', '127.0.0.1:0', '--json'];
  const server = spawn(fleet, serve, { stdio: ['ignore', 'pipe', 'inherit'] });
  try {
    let text = '';
    for await (const chunk of server.stdout) {
      text += chunk;
      if (text.includes('"pid"')) break;
    }
    const url = /"url": "([^"]+)"/.exec(text)?.[1] ?? '';
    const pid = server.pid ?? 0;
    const alone = memoryMiB(pid).now;
    const heard: number[] = [];
    const listen = (some: readonly string[]) =>
      inTurns(some, (host) =>
        listenTo(url, host, tokens.get(host) ?? '', () => heard.push(Date.now())),
      );
    await listen(hosts.slice(0, hinted));
    const first = await hintsAfter(dir, hosts.slice(0, hinted), 1, heard);
    await listen(hosts.slice(hinted));
    await sleep(quick ? 1000 : 30_000);
    const idle = memoryMiB(pid).now;
    const all = await hintsAfter(dir, hosts, 2, heard);
    const { peak } = memoryMiB(pid);
    return [
      { name: `hints to ${hinted} agents, p99`, value: p99(first), unit: 's' },
      { name: `hints to ${connected} agents, p99`, value: p99(all), unit: 's' },
      { name: 'server without agents', value: alone, unit: 'MiB' },
      { name: `server with ${connected} agents`, value: idle, unit: 'MiB' },
      { name: `server with ${connected} agents, peak`, value: peak, unit: 'MiB' },
    ];
  } finally {
    server.kill('SIGKILL');
  }
}

/** Makes every host known, with a token. */
async function admit(dir: StateDir, hosts: readonly string[], now: number) {
  const tokens = new Map<string, string>();
  for (const host of hosts) {
    const token = generateToken();
    tokens.set(host, token);
    const secretHash = hashToken(`invitation of ${host}`);
    await dir.state.invite({ secretHash, host, expiresAt: now + 3600 });
    const credential = {
      tokenHash: hashToken(token),
      name: `host:${host}`,
      scope: 'host',
    } as const;
    await dir.state.addCredential({ ...credential, host, createdAt: now, expiresAt: null });
  }
  return tokens;
}

/** Seconds from the moment that a publication could be seen to each hint of it. */
async function hintsAfter(
  dir: StateDir,
  hosts: readonly string[],
  round: number,
  heard: number[],
): Promise<number[]> {
  heard.length = 0;
  await publishRound(dir, hosts, round);
  for (let tries = 0; heard.length < hosts.length; tries++) {
    if (tries > 600) throw new Error(`${heard.length} of ${hosts.length} hints came`);
    await sleep(50);
  }
  const published = statSync(join(dir.layout.log(1), 'checkpoint')).mtimeMs;
  return heard.map((at) => (at - published) / 1000);
}

async function listenTo(
  url: string,
  host: string,
  token: string,
  onHint: () => void,
): Promise<void> {
  const response = await new Promise<IncomingMessage>((resolve, reject) => {
    const headers = { authorization: `Bearer ${token}`, accept: 'text/event-stream' };
    const asked = request(`${url}/v1/hosts/${host}/events`, { headers, agent: false }, resolve);
    asked.on('error', reject);
    asked.end();
  });
  if (response.statusCode !== 200) throw new Error(`${host}: ${response.statusCode}`);
  response.on('data', (data: Buffer) => {
    if (data.includes('data:')) onHint();
  });
  response.on('error', () => {});
}

async function inTurns(
  hosts: readonly string[],
  act: (host: string) => Promise<void>,
): Promise<void> {
  const rest = [...hosts];
  const worker = async (): Promise<void> => {
    for (let host = rest.pop(); host !== undefined; host = rest.pop()) await act(host);
  };
  await Promise.all(Array.from({ length: 50 }, worker));
}

function p99(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[Math.ceil(values.length * 0.99) - 1] ?? Number.NaN;
}
