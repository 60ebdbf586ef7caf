// What the delta benchmark measures against: one fleet that publishes the corpus's systems, its server, and nginx beside it
// with the very same NAR files and narinfos. Everything of a run lies below one directory, which goes with it.
import { execFileSync } from 'node:child_process';
import {
  cpSync,
  existsSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { formatNarUrl } from '../src/cache/nar-url.ts';
import { narInfoFor } from '../src/cache/narinfo-view.ts';
import { hashPartOf } from '../src/nix/storepath.ts';
import { openStateDir } from '../src/server/statedir.ts';
import { BUILD_CONFIG, type Corpus, inStore, type SystemName, writeHosts } from './delta-corpus.ts';
import { type Measured, measure } from './figures.ts';
import { makePackage } from './package.ts';
import { type Servers, startServers } from './servers.ts';

export type Mirrored = { readonly paths: number; readonly bytes: number; readonly level: number };

export type Site = AsyncDisposable & {
  readonly dir: string;
  readonly corpus: Corpus;
  /** The published package's launcher. */
  readonly fleet: string;
  readonly servers: Servers;
  /** Nix public key of the cache. */
  readonly cacheKey: string;
  /** Builds and publishes these hosts; what it took. */
  readonly publish: (hosts: Readonly<Record<string, SystemName | HostOf>>) => Promise<Measured>;
  /** What is published for a host. */
  readonly toplevelOf: (host: string) => string;
  /** Gives nginx what is new; returns how many paths it has, the bytes of their NARs, and at which zstd level. */
  readonly mirror: () => Promise<Mirrored>;
  /** An enrolment file for `host`, whose server is at `url`. */
  readonly invite: (host: string, url: string) => string;
};

export type HostOf = { readonly system: SystemName; readonly hostname?: string };

type BuildDocument = { readonly hosts: readonly { host: string; toplevel: string }[] };

export async function openSite(corpus: Corpus): Promise<Site> {
  await using stack = new AsyncDisposableStack();
  const dir = mkdtempSync(join(tmpdir(), 'fleet-bench-'));
  stack.defer(() => {
    execFileSync('chmod', ['-R', 'u+w', dir]);
    rmSync(dir, { recursive: true });
  });
  const fleet = makePackage(join(dir, 'package'));
  const state = join(dir, 'state');
  const on = ['--state', state];
  const init = execFileSync(fleet, ['init', ...on, '--origin', 'bench.test', '--json']).toString();
  const { cacheKey } = JSON.parse(init) as { cacheKey: string };
  // Hosts are this run's, others may go on beside it.
  const own = join(dir, 'flake');
  cpSync(corpus.flake, own, { recursive: true });
  const www = join(dir, 'www');
  mkdirSync(join(www, 'nar'), { recursive: true });
  writeFileSync(
    join(www, 'nix-cache-info'),
    'StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 40\n',
  );
  const servers = stack.use(await startServers(dir));
  const all: Record<string, HostOf> = {};
  const toplevels = new Map<string, string>();
  const kept = stack.move();
  return {
    dir,
    corpus,
    fleet,
    servers,
    cacheKey,
    async publish(hosts) {
      for (const [host, of] of Object.entries(hosts)) {
        all[host] = typeof of === 'string' ? { system: of } : of;
      }
      writeHosts(own, all);
      const flake = ['--flake', `path:${own}`];
      const build = [fleet, 'build', ...Object.keys(hosts), ...on, ...flake, '--json'];
      const [program = '', ...args] = inStore(corpus, build);
      const built = await measure(program, args, { NIX_CONFIG: BUILD_CONFIG });
      const { hosts: rows } = JSON.parse(built.stdout) as BuildDocument;
      for (const row of rows) toplevels.set(row.host, row.toplevel);
      return built;
    },
    toplevelOf(host) {
      const found = toplevels.get(host);
      if (found === undefined) throw new Error(`nothing is published for ${host}`);
      return found;
    },
    async mirror() {
      await using opened = await openStateDir(state, { writer: 'inline' });
      let [after, paths, bytes] = ['', 0, 0];
      for (;;) {
        const rows = await opened.state.cachedPathsAfter(after, 500);
        for (const row of rows) {
          if (row.blob === null) continue;
          const narinfo = join(www, `${hashPartOf(row.path)}.narinfo`);
          const nar = join(www, formatNarUrl(row.blob));
          const blob = join(state, 'blobs', row.blob.slice(0, 2), row.blob.slice(2));
          if (!existsSync(nar)) linkSync(blob, nar);
          writeFileSync(narinfo, narInfoFor(row, opened.cacheKeys));
          paths += 1;
          bytes += row.blobSize ?? 0;
        }
        const last = rows.at(-1);
        if (last === undefined) return { paths, bytes, level: opened.config.zstdLevel };
        after = hashPartOf(last.path);
      }
    },
    invite(host, url) {
      const file = join(dir, `${host}.enrol.json`);
      execFileSync(fleet, ['host', 'enroll', host, ...on, '--server', url, '-o', file], {
        stdio: ['ignore', 'ignore', 'pipe'],
      });
      return file;
    },
    [Symbol.asyncDispose]: () => kept.disposeAsync(),
  };
}
