// The delta benchmark's systems, as real store paths that a real Nix built: a flake in DIR/flake, and a chroot store in
// DIR/store, which is /nix for what runs `inStore`, so that the machine's own /nix stays as it is. Three systems:
// `old`, `glibc` (as old, with another glibc: every path gets another name), `new` (every package in its newest build).
import { execFileSync } from 'node:child_process';
import { createCipheriv } from 'node:crypto';
import {
  closeSync,
  copyFileSync,
  mkdirSync,
  openSync,
  readlinkSync,
  renameSync,
  statSync,
  symlinkSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { currentSystem } from '../src/nix/command.ts';
import { fetchBuilds } from './delta-packages.ts';
import { makeUnits } from './delta-units.ts';

export const SYSTEMS = ['old', 'glibc', 'new'] as const;
export type SystemName = (typeof SYSTEMS)[number] | 'large-old' | 'large-new';

export type Corpus = {
  readonly dir: string;
  /** Directory of the chroot store: /nix/store/X lies in STORE/nix/store/X. */
  readonly store: string;
  readonly flake: string;
};

const FLAKE = fileURLToPath(new URL('./delta-flake', import.meta.url));
const LARGE_BYTES = 1024 ** 3;

/** For all that builds: nothing is fetched, and builders see the machine's programs. */
export const BUILD_CONFIG = `experimental-features = nix-command flakes
build-users-group =
sandbox = false
substitute = false
max-jobs = 2
`;

/** The command that runs `command` with the corpus's store on /nix. */
export function inStore(corpus: Corpus, command: readonly string[]): string[] {
  const script = 'mount -n --bind "$1/nix" /nix && shift && exec "$@"';
  const unshare = ['unshare', '--mount', '--propagation', 'private', '/bin/sh', '-c', script, 'sh'];
  return [...unshare, corpus.store, ...command];
}

/** Says which host has which system. */
export function writeHosts(
  flake: string,
  hosts: Readonly<Record<string, { system: SystemName; hostname?: string }>>,
): void {
  writeFileSync(join(flake, 'hosts.json'), JSON.stringify(hosts, null, 1));
}

/** Everything but the builds themselves. */
export function makeCorpus(dir: string, log: (line: string) => void): Corpus {
  const corpus = { dir, store: join(dir, 'store'), flake: join(dir, 'flake') };
  for (const made of [join(corpus.store, 'nix/store'), corpus.flake]) {
    mkdirSync(made, { recursive: true });
  }
  const packages = fetchBuilds(dir, log);
  for (const name of ['flake.nix', 'system.nix', 'install.ts', 'links.ts']) {
    copyFileSync(join(FLAKE, name), join(corpus.flake, name));
  }
  // By a name that every checkout has: what Nix makes of a derivation's text is the same for all of them.
  const node = join(dir, 'node');
  const link = `${node}.part-${process.pid}`;
  symlinkSync(process.execPath, link);
  renameSync(link, node);
  const large = { old: join(dir, 'large-old'), new: join(dir, 'large-new') };
  const say = (name: string, value: unknown): void =>
    writeFileSync(join(corpus.flake, name), JSON.stringify(value, null, 1));
  say('corpus.json', { system: currentSystem(), node, packages, large });
  say('units.json', makeUnits());
  return corpus;
}

/** Builds the three systems by Nix alone; returns their toplevels. */
export function buildSystems(corpus: Corpus): Map<SystemName, string> {
  writeHosts(corpus.flake, Object.fromEntries(SYSTEMS.map((system) => [system, { system }])));
  mkdirSync(join(corpus.dir, 'roots'), { recursive: true });
  const toplevels = SYSTEMS.map((system): [SystemName, string] => {
    const attribute = `path:${corpus.flake}#nixosConfigurations.${system}.config.system.build.toplevel`;
    const link = join(corpus.dir, 'roots', system);
    const build = ['nix', 'build', '--out-link', link, attribute];
    const [program = '', ...args] = inStore(corpus, build);
    const env = { ...process.env, NIX_CONFIG: BUILD_CONFIG };
    execFileSync(program, args, { env, stdio: 'inherit' });
    return [system, readlinkSync(link)];
  });
  return new Map(toplevels);
}

/** Every NAR of these systems, as it is, in a directory that Nix can read as a cache; returns it. */
export function exportNars(corpus: Corpus, toplevels: readonly string[]): string {
  const nars = join(corpus.dir, 'nars');
  const copy = ['nix', 'copy', '--no-check-sigs', '--to', `file://${nars}?compression=none`];
  const [program = '', ...args] = inStore(corpus, [...copy, ...toplevels]);
  const env = { ...process.env, NIX_CONFIG: BUILD_CONFIG };
  execFileSync(program, args, { env, stdio: 'inherit' });
  return nars;
}

/** The 1 GiB file and its successor: pseudo-random, with bytes changed, blocks put in, and one taken out. */
export function makeLargeFiles({ dir }: Corpus): void {
  const [oldFile, newFile] = [join(dir, 'large-old'), join(dir, 'large-new')];
  if (statSync(newFile, { throwIfNoEntry: false }) !== undefined) return;
  const content = createCipheriv('aes-128-ctr', 'a file of 1 GiB.', Buffer.alloc(16));
  const other = createCipheriv('aes-128-ctr', 'what is put in..', Buffer.alloc(16));
  const block = 1024 ** 2;
  const [one, two] = [openSync(`${oldFile}.part`, 'w'), openSync(`${newFile}.part`, 'w')];
  for (let index = 0; index < LARGE_BYTES / block; index++) {
    const bytes = content.update(Buffer.alloc(block));
    writeSync(one, bytes);
    // Every 50th block has eight other bytes; three times 300,000 bytes come in between; 70,000 are gone once.
    if (index % 50 === 7) other.update(Buffer.alloc(8)).copy(bytes, 12_345 + index * 17);
    if (index % 400 === 111) writeSync(two, other.update(Buffer.alloc(300_000)));
    writeSync(two, index === 700 ? bytes.subarray(70_000) : bytes);
  }
  for (const file of [one, two]) closeSync(file);
  renameSync(`${oldFile}.part`, oldFile);
  renameSync(`${newFile}.part`, newFile);
}
