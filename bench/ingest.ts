// Ingest against its peer, `nix copy --to file://…`, on one corpus at one zstd level, in turns.
// Ours makes every blob durable, and the peer nothing: its figure has no fsync in it.
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { IngestInfo } from '../src/cache/ingest.ts';
import { makeCorpus, makeLargePath, nixEnvironment } from './corpus.ts';
import { type Benchmark, type Measured, measure, median, need } from './figures.ts';

const LEVEL = 3;
const PATHS = 420;
const CORPUS_BYTES = 280e6;
const LARGE_BYTES = 2 * 1024 ** 3;
const CHILD = fileURLToPath(new URL('./ingest-child.ts', import.meta.url));

export const benchmark: Benchmark = async ({ quick, log }) => {
  need('nix=nix-bin');
  const dir = mkdtempSync(join(tmpdir(), 'fleet-bench-'));
  try {
    const root = join(dir, 'root');
    const infos = await makeCorpus(root, PATHS, CORPUS_BYTES);
    const bytes = infos.reduce((sum, info) => sum + info.narSize, 0);
    log(`${infos.length} paths, ${(bytes / 1e6).toFixed(0)} MB of NARs, zstd level ${LEVEL}`);

    // A first run of each fills the caches that any second run finds.
    await ingest(dir, root, infos, join(dir, 'state-first'));
    await nixCopy(root, infos, join(dir, 'copy-first'));

    const ours: Measured[] = [];
    const again: Measured[] = [];
    const peer: Measured[] = [];
    // Nothing is removed between the runs: ext4 passes over inodes freed a moment ago one by one,
    // which would cost whoever creates files next half a second.
    for (let pair = 0; pair < (quick ? 2 : 7); pair++) {
      const state = join(dir, `state-${pair}`);
      const copy = join(dir, `copy-${pair}`);
      ours.push(await ingest(dir, root, infos, state));
      again.push(await ingest(dir, root, infos, state));
      peer.push(await nixCopy(root, infos, copy));
      log(`  fleet ${told(ours.at(-1))}   nix copy ${told(peer.at(-1))}`);
    }
    const seconds = (runs: Measured[]) => median(runs.map((run) => run.seconds));
    const peak = (runs: Measured[]) => Math.max(...runs.map((run) => run.peakMiB));
    const figures = [
      { name: 'fleet ingest', value: seconds(ours), unit: 's' },
      { name: 'nix copy', value: seconds(peer), unit: 's' },
      { name: 'ingest / nix copy', value: seconds(ours) / seconds(peer), unit: 'x' },
      { name: 'fleet ingest, peak memory', value: peak(ours), unit: 'MiB' },
      { name: 'nix copy, peak memory', value: peak(peer), unit: 'MiB' },
      { name: 'second ingest', value: seconds(again), unit: 's' },
      { name: 'second / first ingest', value: seconds(again) / seconds(ours), unit: 'x' },
    ];
    if (quick) return figures;

    const large = [await makeLargePath(root, LARGE_BYTES)];
    const ourLarge = await ingest(dir, root, large, join(dir, 'state-large'));
    const peerLarge = await nixCopy(root, large, join(dir, 'copy-large'));
    return [
      ...figures,
      { name: '2 GiB NAR, fleet ingest', value: ourLarge.seconds, unit: 's' },
      { name: '2 GiB NAR, nix copy', value: peerLarge.seconds, unit: 's' },
      {
        name: '2 GiB NAR, ingest / nix copy',
        value: ourLarge.seconds / peerLarge.seconds,
        unit: 'x',
      },
      { name: '2 GiB NAR, fleet peak memory', value: ourLarge.peakMiB, unit: 'MiB' },
      { name: '2 GiB NAR, nix copy peak memory', value: peerLarge.peakMiB, unit: 'MiB' },
    ];
  } finally {
    // Directories of a store are read-only; root may remove them all the same.
    execFileSync('chmod', ['-R', 'u+w', dir]);
    rmSync(dir, { recursive: true });
  }
};

async function ingest(
  dir: string,
  root: string,
  infos: readonly IngestInfo[],
  state: string,
): Promise<Measured> {
  const file = join(dir, 'infos.json');
  writeFileSync(file, JSON.stringify(infos));
  settle();
  const args = [CHILD, state, join(root, 'nix/store'), file, String(LEVEL)];
  // As the published package does, whose JavaScript has no types to be stripped at every start.
  const env = { NODE_COMPILE_CACHE: join(dir, 'compiled') };
  return await measure(process.execPath, args, env);
}

async function nixCopy(root: string, infos: readonly IngestInfo[], to: string): Promise<Measured> {
  const url = `file://${to}?compression=zstd&compression-level=${LEVEL}&parallel-compression=true`;
  const paths = infos.map((info) => info.path);
  settle();
  const run = await measure(
    'nix',
    ['copy', '--store', root, '--to', url, '--no-recursive', '--no-check-sigs', ...paths],
    nixEnvironment(root),
  );
  for (const { path } of infos) statSync(join(to, `${path.slice(11, 43)}.narinfo`));
  return run;
}

/** Nobody pays for what another run left to be written. */
function settle(): void {
  execFileSync('sync');
}

function told(run: Measured | undefined): string {
  return run === undefined ? '-' : `${run.seconds.toFixed(2)} s ${run.peakMiB.toFixed(0)} MiB`;
}
