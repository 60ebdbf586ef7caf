// Debian's archive → what a system is made of, in an old and in a new build of the same release: for each package the
// oldest and the newest version that apt offers, by Debian's order, fetched and unpacked below a cache directory. No
// package is installed and no file system changed. A cache that was interrupted goes on: a tree gets its name last.
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';

/** A package as NixOS would have one: the parts that Debian splits it into, and whose paths its files name. */
export type Package = {
  readonly name: string;
  readonly parts: readonly string[];
  readonly needs: readonly string[];
};

export type Build = {
  /** Debian's, of the first part. */
  readonly version: string;
  /** Upstream's, as in NixOS's names: `glibc-2.36`. */
  readonly upstream: string;
  /** Directory of the unpacked files. */
  readonly tree: string;
};

export type Builds = Package & { readonly old: Build; readonly new: Build };

/** In the order in which they need each other. */
export const PACKAGES: readonly Package[] = [
  { name: 'glibc', parts: ['libc6', 'libc-bin'], needs: [] },
  { name: 'bash', parts: ['bash'], needs: ['glibc'] },
  { name: 'perl', parts: ['perl-base'], needs: ['glibc'] },
  { name: 'openssl', parts: ['openssl', 'libssl3'], needs: ['glibc', 'perl'] },
  { name: 'curl', parts: ['curl', 'libcurl4'], needs: ['glibc', 'openssl'] },
  {
    name: 'python3',
    parts: ['python3.11-minimal', 'libpython3.11-minimal', 'libpython3.11-stdlib', 'libpython3.11'],
    needs: ['glibc', 'bash', 'openssl'],
  },
  {
    name: 'systemd',
    parts: ['systemd', 'libsystemd0', 'libsystemd-shared', 'udev'],
    needs: ['glibc', 'bash', 'openssl'],
  },
  { name: 'nginx', parts: ['nginx', 'nginx-common'], needs: ['glibc', 'bash', 'openssl'] },
  {
    name: 'openssh',
    parts: ['openssh-server', 'openssh-client', 'openssh-sftp-server'],
    needs: ['glibc', 'bash', 'openssl', 'systemd'],
  },
  {
    name: 'git',
    parts: ['git'],
    needs: ['glibc', 'bash', 'perl', 'openssl', 'curl', 'python3'],
  },
  {
    name: 'postgresql',
    parts: ['postgresql-15', 'postgresql-client-15'],
    needs: ['glibc', 'bash', 'perl', 'openssl', 'python3', 'systemd'],
  },
];

/** Both builds of every package; those of which apt offers one version only have it twice, and are told. */
export function fetchBuilds(cache: string, log: (line: string) => void): Builds[] {
  const trees = join(cache, 'trees');
  mkdirSync(trees, { recursive: true });
  const all = PACKAGES.map((one) => {
    const offered = one.parts.map((part) => ({ part, versions: versionsOf(part) }));
    const pick = (which: 0 | -1): Build => {
      const chosen = offered.map(({ part, versions }) => ({
        part,
        version: versions.at(which) ?? '',
      }));
      const version = chosen[0]?.version ?? '';
      const upstream = version
        .replace(/^\d+:/, '')
        .replace(/-[^-]*$/, '')
        .replace(/[+~].*/, '');
      const tree = join(trees, `${one.name}_${version.replace(':', '%3a')}`);
      if (!existsSync(tree)) unpack(chosen, tree);
      return { version, upstream, tree };
    };
    return { ...one, old: pick(0), new: pick(-1) };
  });
  for (const { name, old, new: newest } of all) {
    if (old.version !== newest.version) log(`  ${name}: ${old.version} → ${newest.version}`);
  }
  const single = all.filter(({ old, new: newest }) => old.version === newest.version);
  if (single.length > 0) {
    const names = single.map(({ name, old }) => `${name} ${old.version}`).join(', ');
    log(`  one version is offered only, whose change cannot be tested: ${names}`);
  }
  return all;
}

/** What apt offers of a package, oldest first. */
function versionsOf(part: string): string[] {
  const madison = (): string[] => {
    const text = execFileSync('apt-cache', ['madison', part], { encoding: 'utf8' });
    const versions = text.split('\n').flatMap((line) => line.split('|')[1]?.trim() ?? []);
    return [...new Set(versions)];
  };
  let versions = madison();
  if (versions.length === 0) {
    execFileSync('apt-get', ['update', '-q'], { stdio: 'ignore' });
    versions = madison();
  }
  if (versions.length === 0) throw new Error(`apt offers no ${part}`);
  return versions.sort((a, b) => (isOlder(a, b) ? -1 : 1));
}

function isOlder(a: string, b: string): boolean {
  return spawnSync('dpkg', ['--compare-versions', a, 'lt', b]).status === 0;
}

function unpack(chosen: readonly { part: string; version: string }[], tree: string): void {
  const work = mkdtempSync(`${tree}.part-`);
  try {
    const names = chosen.map(({ part, version }) => `${part}=${version}`);
    const download = ['-q', '-o', 'APT::Sandbox::User=root', 'download', ...names];
    execFileSync('apt-get', download, { cwd: work, stdio: ['ignore', 'ignore', 'inherit'] });
    const files = readdirSync(work).filter((name) => name.endsWith('.deb'));
    if (files.length !== chosen.length) throw new Error(`not all of ${names.join(' ')} came`);
    const made = join(work, 'tree');
    for (const file of files) execFileSync('dpkg-deb', ['-x', join(work, file), made]);
    renameSync(made, tree);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}
