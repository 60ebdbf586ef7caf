// A store to benchmark with: valid paths with references in a chroot store, so that the machine's
// own /nix stays as it is. Contents come from a fixed seed, half of the bytes incompressible, the
// sizes spread as in a system closure: most paths small, a few large. Files are laid out by hand and
// registered with Nix by their hashes, which `nix copy` checks when it reads them.
import { execFileSync } from 'node:child_process';
import { createCipheriv, createHash } from 'node:crypto';
import { chmodSync, mkdirSync, symlinkSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { IngestInfo } from '../src/cache/ingest.ts';
import { encodeBase32 } from '../src/nix/base32.ts';
import { formatNarHash, narHashHex } from '../src/nix/hash.ts';
import { dumpNar } from '../src/nix/nar-dump.ts';
import { baseNameOf, parseStorePathBaseName, type StorePath } from '../src/nix/storepath.ts';

/** Settings under which a program of Nix uses the store at `root` and nothing else. */
export function nixEnvironment(root: string): Record<string, string> {
  return {
    HOME: join(root, 'home'),
    XDG_CACHE_HOME: join(root, 'home', 'cache'),
    NIX_CONFIG: 'experimental-features = nix-command\nbuild-users-group =\nsubstituters =\n',
  };
}

/** Random bytes that are the same in every run. */
class Source {
  readonly #stream = createCipheriv('aes-128-ctr', 'fleet benchmarks', Buffer.alloc(16));
  readonly #words: readonly string[];

  constructor() {
    this.#words = Array.from({ length: 4096 }, () => {
      const letters = this.bytes(2 + this.below(9));
      return Array.from(letters, (byte) => String.fromCharCode(97 + (byte % 26))).join('');
    });
  }

  bytes(count: number): Buffer {
    return this.#stream.update(Buffer.alloc(count));
  }

  below(limit: number): number {
    return this.bytes(4).readUInt32LE() % limit;
  }

  /** Words of unequal frequency: zstd makes about a third of them. */
  text(count: number): Buffer {
    const numbers = this.bytes(count);
    const parts: string[] = [];
    let length = 0;
    for (let at = 0; length < count && at + 4 <= numbers.length; at += 4) {
      const spread = numbers.readUInt32LE(at) / 2 ** 32;
      const word = this.#words[Math.floor(spread * spread * spread * this.#words.length)] ?? '';
      parts.push(word);
      length += word.length + 1;
    }
    return Buffer.concat([Buffer.from(parts.join(' ')), Buffer.alloc(count)], count);
  }
}

/** Makes `paths` store paths of about `totalBytes` below `root`; the last refers to all, in steps. */
export async function makeCorpus(
  root: string,
  paths: number,
  totalBytes: number,
): Promise<IngestInfo[]> {
  const source = new Source();
  const infos: IngestInfo[] = [];
  const weights = Array.from({ length: paths }, () => Math.exp(source.below(1000) / 110));
  const scale = totalBytes / weights.reduce((sum, weight) => sum + weight, 0);
  for (const [index, weight] of weights.entries()) {
    const references = new Set<StorePath>();
    for (let n = 1 + source.below(6); n > 0 && infos.length > 0; n--) {
      const near = infos[Math.max(0, infos.length - 1 - source.below(30))];
      if (near !== undefined) references.add(near.path);
    }
    const path = newPath(source, `package-${index}`);
    layOut(join(root, baseDir(path)), source, Math.ceil(weight * scale), [...references]);
    infos.push(await infoOf(root, path, [...references].sort()));
  }
  register(root, infos);
  return infos;
}

/** One path that is a single file of `bytes`, in chunks that repeat every 64 MiB. */
export async function makeLargePath(root: string, bytes: number): Promise<IngestInfo> {
  const source = new Source();
  const path = newPath(source, 'large');
  const file = join(root, baseDir(path));
  mkdirSync(join(root, 'nix/store'), { recursive: true });
  const block = Buffer.concat([source.bytes(32 * 1024 * 1024), source.text(32 * 1024 * 1024)]);
  for (let at = 0; at < bytes; at += block.length) writeFileSync(file, block, { flag: 'a' });
  seal(file);
  const info = await infoOf(root, path, []);
  register(root, [info]);
  return info;
}

const baseDir = (path: StorePath): string => join('nix/store', baseNameOf(path));

function newPath(source: Source, name: string): StorePath {
  return parseStorePathBaseName(`${encodeBase32(source.bytes(20))}-${name}`);
}

function layOut(dir: string, source: Source, bytes: number, references: StorePath[]): void {
  mkdirSync(join(dir, 'share'), { recursive: true });
  writeFileSync(join(dir, 'share/references'), references.join('\n'));
  seal(join(dir, 'share/references'));
  for (const [index, path] of references.entries()) {
    symlinkSync(path, join(dir, 'share', `link-${index}`));
  }
  const files = Math.min(60, 1 + Math.floor(bytes / 20_000));
  for (let index = 0; index < files; index++) {
    const size = Math.ceil(bytes / files);
    const file = join(dir, 'share', `file-${index}`);
    writeFileSync(file, index % 2 === source.below(2) ? source.bytes(size) : source.text(size));
    seal(file);
  }
  for (const made of [join(dir, 'share'), dir]) {
    chmodSync(made, 0o555);
    utimesSync(made, 1, 1);
  }
}

/** As Nix leaves files in a store: read-only, at second 1. */
function seal(file: string): void {
  chmodSync(file, 0o444);
  utimesSync(file, 1, 1);
}

async function infoOf(
  root: string,
  path: StorePath,
  references: readonly StorePath[],
): Promise<IngestInfo> {
  const hash = createHash('sha256');
  let narSize = 0;
  for await (const chunk of dumpNar(join(root, baseDir(path)))) {
    hash.update(chunk);
    narSize += chunk.length;
  }
  return { path, narHash: formatNarHash(hash.digest()), narSize, references, deriver: null };
}

/** In the form of `nix-store --dump-db`. */
function register(root: string, infos: readonly IngestInfo[]): void {
  const lines = infos.flatMap(({ path, narHash, narSize, references }) => [
    path,
    narHashHex(narHash),
    String(narSize),
    '',
    String(references.length),
    ...references,
  ]);
  execFileSync('nix-store', ['--store', root, '--load-db'], {
    input: `${lines.join('\n')}\n`,
    env: { ...process.env, ...nixEnvironment(root) },
    maxBuffer: 1e8,
  });
}
