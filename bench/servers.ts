// The two servers of bench/cache.ts as children: ours on DIR/state, nginx on DIR/www.
import { type ChildProcess, spawn } from 'node:child_process';
import { chmodSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import type { AddressInfo } from 'node:net';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

const FLEET = fileURLToPath(new URL('../bin/fleet', import.meta.url));

export type Servers = AsyncDisposable & {
  /** Base URLs. */
  readonly fleet: string;
  readonly nginx: string;
  /** Of our server. */
  readonly pid: number;
};

export async function startServers(dir: string): Promise<Servers> {
  const [ourPort, nginxPort] = [await freePort(), await freePort()];
  // nginx gives up root for its workers, which still have to get there.
  chmodSync(dir, 0o755);
  mkdirSync(join(dir, 'tmp'));
  const conf = join(dir, 'nginx.conf');
  writeFileSync(conf, nginxConfig(dir, nginxPort));
  const listen = `127.0.0.1:${ourPort}`;
  const started = [
    spawn(FLEET, ['serve', '--state', join(dir, 'state'), '--listen', listen], {
      stdio: ['ignore', 'ignore', 'inherit'],
    }),
    spawn('nginx', ['-c', conf, '-p', dir], { stdio: ['ignore', 'ignore', 'inherit'] }),
  ];
  const urls = [`http://${listen}`, `http://127.0.0.1:${nginxPort}`] as const;
  for (const url of urls) await answers(url);
  return {
    fleet: urls[0],
    nginx: urls[1],
    pid: started[0]?.pid ?? 0,
    [Symbol.asyncDispose]: async () => {
      await Promise.all(started.map(stop));
    },
  };
}

/** What the kernel says of a process's resident set, MiB. */
export function memoryMiB(pid: number): { readonly now: number; readonly peak: number } {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8');
  const of = (name: string): number =>
    Number(new RegExp(`^${name}:\\s+(\\d+) kB$`, 'm').exec(status)?.[1] ?? Number.NaN) / 1024;
  return { now: of('VmRSS'), peak: of('VmHWM') };
}

function nginxConfig(dir: string, port: number): string {
  const temps = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'];
  return `daemon off;
worker_processes auto;
pid ${dir}/nginx.pid;
error_log ${dir}/nginx.log;
events { worker_connections 4096; }
http {
  access_log off;
  sendfile on;
  tcp_nopush on;
  keepalive_requests 1000000000;
  types { text/x-nix-narinfo narinfo; application/x-nix-nar zst; }
  ${temps.map((name) => `${name}_temp_path ${dir}/tmp/${name};`).join(' ')}
  server { listen 127.0.0.1:${port}; root ${dir}/www; }
}
`;
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

async function answers(url: string): Promise<void> {
  for (let tries = 0; ; tries++) {
    try {
      await fetch(url);
      return;
    } catch (error) {
      if (tries > 200) throw error;
      await sleep(50);
    }
  }
}

async function stop(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const ended = new Promise((resolve) => child.once('exit', resolve));
  child.kill('SIGTERM');
  await ended;
}
