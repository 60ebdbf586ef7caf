// A directory that looks like a store, with made-up store paths whose infos are true: for tests of
// the cache that need no Nix.
import { createHash } from 'node:crypto';
import { mkdir, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { IngestInfo } from '../../src/cache/ingest.ts';
import { formatNarHash } from '../../src/nix/hash.ts';
import { dumpNar } from '../../src/nix/nar-dump.ts';
import { baseNameOf, type StorePath } from '../../src/nix/storepath.ts';
import { bytesOf } from './nar.ts';
import { storePath } from './paths.ts';

/** Lays out `seed`'s store path below `storeDir`: `contents`, and a link to each reference. */
export async function addStorePath(
  storeDir: string,
  seed: string,
  contents: string | Uint8Array,
  references: readonly StorePath[] = [],
): Promise<IngestInfo> {
  const path = storePath(seed, seed);
  const dir = join(storeDir, baseNameOf(path));
  await mkdir(dir, { recursive: true });
  await writeFile(join(dir, 'contents'), contents);
  for (const [index, reference] of references.entries()) {
    await symlink(reference, join(dir, `reference-${index}`));
  }
  const nar = await narOf(storeDir, path);
  return {
    path,
    narHash: formatNarHash(createHash('sha256').update(nar).digest()),
    narSize: nar.length,
    references: [...references].sort(),
    deriver: storePath(seed, `${seed}.drv`),
  };
}

export async function narOf(storeDir: string, path: StorePath): Promise<Buffer> {
  return await bytesOf(dumpNar(join(storeDir, baseNameOf(path))));
}
