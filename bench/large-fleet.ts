// A fleet whose every host was just built: what lies in the cache's index, among its blobs and in a Nix store of
// its own when the last build has ended and nothing is published yet. A host's closure is `SHARED` paths that all
// hosts have and `OWN` of its own, its toplevel among them; every path has a row, and a blob of the right size.
// Left out is what publishing does not read: the blobs are no NARs, and Nix knows of the toplevels alone.
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { DEFAULT_ACTIVATION } from '../src/manifest/activation.ts';
import type { BuiltHost } from '../src/manifest/publish.ts';
import { encodeBase32 } from '../src/nix/base32.ts';
import type { PathInfo } from '../src/nix/closure.ts';
import { formatNarHash, narHashHex } from '../src/nix/hash.ts';
import { baseNameOf, parseStorePath, parseStorePathBaseName } from '../src/nix/storepath.ts';
import { initStateDir } from '../src/server/init.ts';
import { openStateDir } from '../src/server/statedir.ts';
import { blobIdOf } from '../src/storage/blobs.ts';
import { nixEnvironment } from './corpus.ts';

const SHARED = 500;
const OWN = 4;

export function hostName(index: number): string {
  return `host-${String(index).padStart(5, '0')}`;
}

/** What all hosts have: each refers to some of those before it, the last one to what nothing else does. */
export const shared: readonly PathInfo[] = chain('package', SHARED, []);

/** What a host has besides; the last one is its toplevel. */
export function ownPaths(index: number): readonly PathInfo[] {
  return chain(hostName(index), OWN, shared.slice(-3));
}

/** `count` paths of which each needs the one before, and so the last one all of them. */
function chain(name: string, count: number, below: readonly PathInfo[]): PathInfo[] {
  const infos: PathInfo[] = [];
  for (let i = 0; i < count; i++) {
    const digest = createHash('sha256').update(`${name} ${i}`).digest();
    const path = parseStorePathBaseName(`${encodeBase32(digest.subarray(0, 20))}-${name}-${i}`);
    const needed = i === 0 ? below : [1, 2, 7, 30].flatMap((back) => infos[i - back] ?? []);
    const references = [...new Set(needed.map((one) => one.path))].sort();
    infos.push({ path, narHash: formatNarHash(digest), narSize: 1000 + i, references });
  }
  return infos;
}

/** A host's system and its closure. */
export function builtHost(index: number): { built: BuiltHost; closure: readonly PathInfo[] } {
  const own = ownPaths(index);
  const toplevel = (own.at(-1) as PathInfo).path;
  const digits = '0'.repeat(32);
  const built = {
    host: hostName(index),
    system: 'x86_64-linux',
    toplevel,
    activation: DEFAULT_ACTIVATION,
    provenance: {
      flakeRef: 'git+https://git.example.org/hosts?ref=main',
      rev: '0123456789abcdef0123456789abcdef01234567',
      flakeNarHash: `sha256-${'A'.repeat(43)}=`,
      lockSha256: '0'.repeat(64),
      attribute: `nixosConfigurations.${hostName(index)}.config.system.build.toplevel`,
      drvPath: parseStorePath(`/nix/store/${digits}-nixos-system.drv`),
      builder: { id: 'build-box', nixVersion: '2.8.0', system: 'x86_64-linux' },
    },
  };
  return { built, closure: [...shared, ...own] };
}

/** Makes the state in `top`, and a chroot store in `store` where every host's toplevel is valid. */
export async function makeLargeFleet(top: string, store: string, hosts: number): Promise<void> {
  const now = Math.floor(Date.now() / 1000);
  await initStateDir(top, { origin: 'bench.test', url: null, now });
  await using dir = await openStateDir(top, { writer: 'inline' });
  const add = async (infos: readonly PathInfo[]): Promise<void> => {
    const rows = infos.map((info) => {
      const contents = Buffer.from(info.path);
      const blob = blobIdOf(contents);
      writeFileSync(join(dir.layout.blobs, blob.slice(0, 2), blob.slice(2)), contents);
      const bytes = { compression: 'zstd', blob, blobSize: contents.length } as const;
      return { ...info, ...bytes, deriver: null, sigs: [], ca: null, upstream: null };
    });
    await dir.state.addCachedPaths(rows, now);
  };
  await add(shared);
  mkdirSync(join(store, 'nix/store'), { recursive: true });
  let registration = '';
  for (let from = 0; from < hosts; from += 50) {
    const some = Array.from({ length: Math.min(50, hosts - from) }, (_, i) => ownPaths(from + i));
    await add(some.flat());
    for (const own of some) {
      const { path, narHash, narSize } = own.at(-1) as PathInfo;
      writeFileSync(join(store, 'nix/store', baseNameOf(path)), path);
      registration += `${path}\n${narHashHex(narHash)}\n${narSize}\n\n0\n`;
    }
  }
  execFileSync('nix-store', ['--store', store, '--load-db'], {
    input: registration,
    env: { ...process.env, ...nixEnvironment(store) },
  });
}
