// What trust costs: an audit of a long log, publishing for a large fleet, how large a host's offer is then, and its
// check of one. There is no peer that does the same; the figures stand for themselves.
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { DEFAULT_ACTIVATION } from '../src/manifest/activation.ts';
import { appendEntries } from '../src/manifest/append.ts';
import {
  type BuiltHost,
  type StoredClosure,
  signManifest,
  storeClosure,
} from '../src/manifest/publish.ts';
import { formatNarHash } from '../src/nix/hash.ts';
import { parseStorePath } from '../src/nix/storepath.ts';
import { initStateDir } from '../src/server/init.ts';
import { openLogWriter } from '../src/server/log-writer.ts';
import { makeOffer } from '../src/server/offers.ts';
import { PublishedLog } from '../src/server/published.ts';
import { openStateDir, type StateDir } from '../src/server/statedir.ts';
import { blobIdOf } from '../src/storage/blobs.ts';
import { acquireLease } from '../src/storage/lease.ts';
import type { PublishedManifest } from '../src/storage/state.ts';
import { type Benchmark, measure, median, need } from './figures.ts';
import { publishingFigures } from './publishing.ts';

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
    const checks: number[] = [];
    for (let i = 0; i < (quick ? 3 : 11); i++) {
      const run = [CHILD, join(large, 'root/2.root.json'), file, HOST];
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

/** A state that published every host `rounds` times, each time all at once. */
async function publishRounds(top: string, hosts: number, rounds: number): Promise<void> {
  const now = Math.floor(Date.now() / 1000);
  await initStateDir(top, { origin: 'bench.test', url: null, now });
  await using dir = await openStateDir(top, { writer: 'inline' });
  await using lease = await acquireLease({ file: dir.layout.publishLock, state: dir.state });
  const writer = await openLogWriter(dir);
  const rules = { root: dir.root, now, validSeconds: 90 * 86_400 };
  let current = new Map<string, PublishedManifest>();
  for (let round = 0; round < rounds; round++) {
    const system = await makeSystem(dir, round, now);
    const next = new Map<string, PublishedManifest>();
    for (let i = 0; i < hosts; i++) {
      const host = `host-${String(i).padStart(5, '0')}`;
      const built = { ...system.built, host };
      const before = current.get(host) ?? null;
      next.set(host, signManifest(built, system.stored, before, writer.director, rules));
    }
    const entries = [...next.values()].map((manifest) => ({ manifest }));
    await appendEntries(writer, entries, { fence: lease.holder.fence, now });
    current = next;
  }
}

/** A system of one path, as the cache would have it after a build. */
async function makeSystem(
  dir: StateDir,
  round: number,
  now: number,
): Promise<{ built: Omit<BuiltHost, 'host'>; stored: StoredClosure }> {
  const digits = String(round).padStart(32, '0');
  const toplevel = parseStorePath(`/nix/store/${digits}-nixos-system`);
  const narHash = formatNarHash(new Uint8Array(32).fill(round));
  const info = { path: toplevel, narHash, narSize: 1000, references: [] };
  const blob = blobIdOf(Buffer.from(digits));
  const row = { ...info, deriver: null, sigs: [], ca: null };
  await dir.state.addCachedPaths(
    [{ ...row, compression: 'zstd', blob, blobSize: 100, upstream: null }],
    now,
  );
  const built = {
    system: 'x86_64-linux',
    toplevel,
    activation: DEFAULT_ACTIVATION,
    provenance: {
      flakeRef: 'git+https://git.example.org/hosts?ref=main',
      rev: '0123456789abcdef0123456789abcdef01234567',
      flakeNarHash: 'sha256-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=',
      lockSha256: '0'.repeat(64),
      attribute: 'nixosConfigurations.host.config.system.build.toplevel',
      drvPath: parseStorePath(`/nix/store/${digits}-nixos-system.drv`),
      builder: { id: 'build-box', nixVersion: '2.8.0', system: 'x86_64-linux' },
    },
  };
  const any = { host: 'any', toplevel };
  const stored = await storeClosure(any, [info], dir.blobs, dir.root.limits);
  return { built, stored };
}

async function offerOf(top: string, host: string): Promise<string> {
  await using dir = await openStateDir(top, { writer: 'inline' });
  const offer = await makeOffer(dir, new PublishedLog(dir), host, { root: 2, from: 0 });
  if (offer === null) throw new Error(`nothing is offered to ${host}`);
  return offer.text;
}
