// The cache's read side against nginx on the very same files: one state, whose narinfos are also written
// out as files and whose blobs are linked below nginx's root; both servers run at the same time, wrk
// asks them in turns. Everything is on loopback. nginx gets no token and neither do we (`public`).
import { execFileSync } from 'node:child_process';
import { linkSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { Agent, get } from 'node:http';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { ingestClosure } from '../src/cache/ingest.ts';
import { formatNarUrl } from '../src/cache/nar-url.ts';
import { narInfoFor } from '../src/cache/narinfo-view.ts';
import { hashPartOf } from '../src/nix/storepath.ts';
import { initStateDir } from '../src/server/init.ts';
import { openStateDir } from '../src/server/statedir.ts';
import { makeCorpus, makeLargePath } from './corpus.ts';
import { type Benchmark, type Figure, median, need } from './figures.ts';
import { memoryMiB, startServers } from './servers.ts';

const PATHS = 420;
const CORPUS_BYTES = 120e6;
const LARGE_BYTES = 64 * 1024 ** 2;
const STALLED = 1_000;

type Run = { readonly requests: number; readonly bytes: number; readonly p99: number };

export const benchmark: Benchmark = async ({ quick, log }) => {
  need('nix=nix-bin', 'nginx=nginx-light', 'wrk=wrk');
  const dir = mkdtempSync(join(tmpdir(), 'fleet-bench-'));
  try {
    const files = await makeFiles(dir);
    log(`${files.narinfos.length} narinfos, ${(files.narBytes / 1e6).toFixed(0)} MB of NARs`);
    await using servers = await startServers(dir);
    const { fleet, nginx } = servers;
    const cold = await seconds(() => closure(fleet, files.toplevel));

    const figures: Figure[] = [];
    const seconds_ = quick ? 1 : 4;
    const pairs = quick ? 2 : 5;
    for (const [what, paths] of [
      ['narinfo', files.narinfos],
      ['NAR', [files.large]],
      ['NARs, mixed', files.nars],
    ] as const) {
      const script = join(dir, 'urls.lua');
      writeFileSync(script, luaOf(paths));
      for (const connections of [1, 16]) {
        const ours: Run[] = [];
        const theirs: Run[] = [];
        for (let pair = 0; pair < pairs; pair++) {
          theirs.push(wrk(nginx, script, connections, seconds_));
          ours.push(wrk(fleet, script, connections, seconds_));
        }
        const of = (runs: Run[], key: keyof Run): number => median(runs.map((run) => run[key]));
        const key = what === 'narinfo' ? 'requests' : 'bytes';
        const at = `${what}, ${connections} connection${connections === 1 ? '' : 's'}`;
        const [unit, scale] = key === 'requests' ? (['/s', 1] as const) : (['MB/s', 1e6] as const);
        figures.push(
          { name: `${at}, fleet`, value: of(ours, key) / scale, unit },
          { name: `${at}, nginx`, value: of(theirs, key) / scale, unit },
          { name: `${at}, fleet / nginx`, value: of(ours, key) / of(theirs, key), unit: 'x' },
          { name: `${at}, p99 fleet`, value: of(ours, 'p99'), unit: 'ms' },
          { name: `${at}, p99 nginx`, value: of(theirs, 'p99'), unit: 'ms' },
        );
        log(`  ${at}: ${(of(ours, key) / of(theirs, key)).toFixed(2)}`);
      }
    }

    const oneByOne: number[] = [];
    const atOnce: number[] = [];
    for (let round = 0; round < (quick ? 5 : 25); round++) {
      oneByOne.push(await seconds(() => pathByPath(nginx, files.narinfos)));
      atOnce.push(await seconds(() => closure(fleet, files.toplevel)));
    }
    const rate = figures.find(({ name }) => name === 'narinfo, 1 connection, nginx')?.value ?? 0;
    // The quicker of two clients: ours, and wrk, which does not look at what it gets.
    const nginxSeconds = Math.min(median(oneByOne), files.narinfos.length / rate);
    figures.push(
      { name: 'all narinfos, nginx path by path', value: nginxSeconds * 1e3, unit: 'ms' },
      { name: 'all narinfos, fleet in one', value: median(atOnce) * 1e3, unit: 'ms' },
      { name: 'all narinfos, nginx / fleet', value: nginxSeconds / median(atOnce), unit: 'x' },
      { name: 'all narinfos, first time', value: cold * 1e3, unit: 'ms' },
    );

    const sockets = await stalledReaders(fleet, files.large);
    await sleep(5_000);
    const { now, peak } = memoryMiB(servers.pid);
    for (const socket of sockets) socket.destroy();
    figures.push(
      { name: `memory with ${STALLED} stalled readers`, value: now, unit: 'MiB' },
      { name: 'peak memory of the whole run', value: peak, unit: 'MiB' },
    );
    return figures;
  } finally {
    execFileSync('chmod', ['-R', 'u+w', dir]);
    rmSync(dir, { recursive: true });
  }
};

/** A state with a closure of PATHS paths and one large one, and nginx's copy of what it serves. */
async function makeFiles(dir: string) {
  const root = join(dir, 'root');
  const corpus = await makeCorpus(root, PATHS, CORPUS_BYTES);
  const large = await makeLargePath(root, LARGE_BYTES);
  const top = join(dir, 'state');
  await initStateDir(top, { origin: 'bench', url: null, now: Math.floor(Date.now() / 1000) });
  const file = join(top, 'fleet.json');
  const config = JSON.parse(readFileSync(file, 'utf8')) as Record<string, unknown>;
  writeFileSync(file, JSON.stringify({ ...config, public: true, gcHours: 0 }));
  await using state = await openStateDir(top, { writer: 'inline' });
  // One path that refers to all, so that there is a closure of them.
  await ingestClosure([...corpus, large], { ...state, storeDir: join(root, 'nix/store') });
  const rows = await state.state.cachedPaths([...corpus, large].map(({ path }) => path));
  const toplevel = rows.find(({ path }) => path === corpus.at(-1)?.path);
  if (toplevel === undefined) throw new Error('the corpus has no last path');
  const others = corpus.map(({ path }) => path).sort();
  await state.state.addCachedPaths([{ ...toplevel, references: others }], 1);

  const www = join(dir, 'www');
  mkdirSync(join(www, 'nar'), { recursive: true });
  const nars: string[] = [];
  for (const row of rows) {
    if (row.blob === null) continue;
    writeFileSync(join(www, `${hashPartOf(row.path)}.narinfo`), narInfoFor(row, state.cacheKeys));
    const nar = formatNarUrl(row.blob);
    linkSync(join(top, 'blobs', row.blob.slice(0, 2), row.blob.slice(2)), join(www, nar));
    nars.push(`/${nar}`);
  }
  const largeRow = rows.find(({ path }) => path === large.path);
  return {
    narinfos: corpus.map(({ path }) => `/${hashPartOf(path)}.narinfo`),
    nars: nars.filter((nar) => !nar.includes(largeRow?.blob ?? '-')),
    large: nars.find((nar) => nar.includes(largeRow?.blob ?? '-')) ?? '',
    toplevel: `/v1/paths/${hashPartOf(toplevel.path)}/narinfos`,
    narBytes: rows.reduce((sum, { blobSize }) => sum + (blobSize ?? 0), 0),
  };
}

function luaOf(paths: readonly string[]): string {
  const list = paths.map((path) => JSON.stringify(path)).join(',');
  return `local paths = {${list}}
local n = 0
request = function() n = n % #paths + 1; return wrk.format("GET", paths[n]) end
done = function(summary, latency)
  local e = summary.errors
  io.write(string.format("RESULT %d %d %d %d %d\\n", summary.requests, summary.bytes,
    summary.duration, latency:percentile(99), e.connect + e.read + e.write + e.status))
end
`;
}

function wrk(url: string, script: string, connections: number, duration: number): Run {
  const args = ['-t1', `-c${connections}`, `-d${duration}s`, '--timeout', '20s', '-s', script, url];
  const out = execFileSync('wrk', args, { encoding: 'utf8' });
  const [requests = 0, bytes = 0, micros = 1, p99 = 0, errors = 0] = (
    /^RESULT (.+)$/m.exec(out)?.[1] ?? ''
  )
    .split(' ')
    .map(Number);
  if (errors > 0) throw new Error(`${errors} errors:\n${out}`);
  const perSecond = (count: number): number => count / (micros / 1e6);
  return { requests: perSecond(requests), bytes: perSecond(bytes), p99: p99 / 1e3 };
}

async function seconds(work: () => Promise<void>): Promise<number> {
  const start = performance.now();
  await work();
  return (performance.now() - start) / 1e3;
}

const agent = new Agent({ keepAlive: true, maxSockets: 1 });

async function pathByPath(url: string, paths: readonly string[]): Promise<void> {
  for (const path of paths) await fetchWhole(url + path);
}

async function closure(url: string, path: string): Promise<void> {
  const bytes = await fetchWhole(url + path);
  if (bytes < 100 * PATHS) throw new Error(`only ${bytes} bytes of narinfos`);
}

function fetchWhole(url: string): Promise<number> {
  return new Promise((resolve, reject) => {
    get(url, { agent }, (response) => {
      let bytes = 0;
      response.on('data', (chunk: Buffer) => {
        bytes += chunk.length;
      });
      response.on('end', () =>
        response.statusCode === 200 ? resolve(bytes) : reject(new Error(`${response.statusCode}`)),
      );
      response.on('error', reject);
    }).on('error', reject);
  });
}

async function stalledReaders(url: string, path: string): Promise<Socket[]> {
  const { hostname, port } = new URL(url);
  return await Promise.all(
    Array.from(
      { length: STALLED },
      () =>
        new Promise<Socket>((resolve, reject) => {
          const socket = connect(Number(port), hostname, () => {
            socket.pause();
            socket.write(`GET ${path} HTTP/1.1\r\nHost: x\r\n\r\n`, () => resolve(socket));
          });
          socket.once('error', reject);
        }),
    ),
  );
}
