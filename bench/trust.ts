// What trust costs: an audit of a long log, publishing for a large fleet, how large a host's offer is then, and its
// check of one. There is no peer that does the same; the figures stand for themselves. The check is measured as hosts
// run it, bundled: from sources, the thread that goes on compiling Node's type stripper is counted as well.
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';
import { initStateDir } from '../src/server/init.ts';
import { makeOffer } from '../src/server/offers.ts';
import { PublishedLog } from '../src/server/published.ts';
import { openStateDir } from '../src/server/statedir.ts';
import { type Benchmark, measure, median, need } from './figures.ts';
import { publishingFigures } from './publishing.ts';
import { hostName, publishRound } from './rounds.ts';

const HOSTS = 1000;
const ROUNDS = 100;
const LARGE_FLEET = 10_000;
const HOST = 'host-00471';
const CHILD = fileURLToPath(new URL('./trust-child.ts', import.meta.url));

export const benchmark: Benchmark = async ({ quick, log }) => {
  need('nix-store=nix-bin');
  const dir = mkdtempSync(join(tmpdir(), 'fleet-bench-'));
  try {
    const rounds = quick ? 10 : ROUNDS;
    const long = join(dir, 'long');
    await publishRounds(long, HOSTS, rounds);
    const bundle = join(dir, 'log.tar');
    const root = join(long, 'root/1.root.json');
    execFileSync('bin/fleet', ['audit', 'export', '--state', long, '--out', bundle]);
    log(
      `${rounds * HOSTS} manifests of ${HOSTS} hosts, ${(statSync(bundle).size / 2 ** 20).toFixed(0)} MiB`,
    );
    const args = ['audit', '--bundle', bundle, '--root', root, '--json'];
    const audit = await measure('bin/fleet', args, {});
    const { irregularities, hosts } = JSON.parse(audit.stdout) as {
      irregularities: unknown[];
      hosts: { told: unknown[] }[];
    };
    const told = hosts.reduce((sum, one) => sum + one.told.length, 0);
    if (irregularities.length > 0 || told !== rounds * HOSTS) throw new Error('the audit is wrong');

    const large = join(dir, 'large');
    const largeFleet = quick ? 500 : LARGE_FLEET;
    const publishing = await publishingFigures(dir, large, largeFleet, log);
    const offer = await offerOf(large, HOST);
    const file = join(dir, 'offer.json');
    writeFileSync(file, offer);
    const child = await bundled(CHILD, dir);
    const checks: number[] = [];
    for (let i = 0; i < (quick ? 3 : 11); i++) {
      const run = [child, join(large, 'root/2.root.json'), file, HOST];
      checks.push(Number(execFileSync(process.execPath, run).toString()));
    }
    return [
      ...publishing,
      { name: 'audit', value: audit.seconds, unit: 's' },
      { name: 'audit, peak memory', value: audit.peakMiB, unit: 'MiB' },
      { name: 'manifests audited', value: told / audit.seconds, unit: '/s' },
      { name: `offer, fleet of ${largeFleet}`, value: offer.length / 1024, unit: 'KiB' },
      { name: 'check of an offer, CPU', value: median(checks), unit: 'ms' },
    ];
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
};

/** A program as the published package would have it; returns its path, in `dir`. */
async function bundled(source: string, dir: string): Promise<string> {
  const outfile = join(dir, 'child.mjs');
  await build({
    entryPoints: [source],
    outfile,
    bundle: true,
    format: 'esm',
    platform: 'node',
    target: 'node24',
  });
  return outfile;
}

/** A state that published every host `rounds` times, each time all at once. */
async function publishRounds(top: string, hosts: number, rounds: number): Promise<void> {
  const now = Math.floor(Date.now() / 1000);
  await initStateDir(top, { origin: 'bench.test', url: null, now });
  await using dir = await openStateDir(top, { writer: 'inline' });
  const names = Array.from({ length: hosts }, (_, i) => hostName(i));
  for (let round = 0; round < rounds; round++) await publishRound(dir, names, round);
}

async function offerOf(top: string, host: string): Promise<string> {
  await using dir = await openStateDir(top, { writer: 'inline' });
  const offer = await makeOffer(dir, new PublishedLog(dir), host, { root: 2, from: 0 });
  if (offer === null) throw new Error(`nothing is offered to ${host}`);
  return offer.text;
}
