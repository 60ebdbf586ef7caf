// A server's state made in-process, with published hosts whose paths are NARs of our own making: for
// tests of the server that need no Nix.
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { zstdCompressSync } from 'node:zlib';
import { DEFAULT_ACTIVATION } from '../../src/manifest/activation.ts';
import { appendEntries } from '../../src/manifest/append.ts';
import { type BuiltHost, signManifest, storeClosure } from '../../src/manifest/publish.ts';
import { Servable } from '../../src/manifest/servable.ts';
import type { PathInfo } from '../../src/nix/closure.ts';
import { formatNarHash } from '../../src/nix/hash.ts';
import { parseStorePath, type StorePath } from '../../src/nix/storepath.ts';
import { initStateDir } from '../../src/server/init.ts';
import { openLogWriter } from '../../src/server/log-writer.ts';
import { openStateDir, readServerKey, type StateDir } from '../../src/server/statedir.ts';
import { acquireLease } from '../../src/storage/lease.ts';
import type { PublishedManifest } from '../../src/storage/state.ts';

/** A new state in `dir`/state, opened. */
export async function makeState(dir: string, now: number): Promise<StateDir> {
  const top = join(dir, 'state');
  await initStateDir(top, { origin: 'state.test', url: 'http://127.0.0.1:1', now });
  return await openStateDir(top, { writer: 'inline' });
}

/** The NAR of a regular file. */
export function narOfFile(contents: Buffer): Buffer {
  const text = (value: Buffer | string): Buffer => {
    const bytes = Buffer.from(value);
    const length = Buffer.alloc(8);
    length.writeBigUInt64LE(BigInt(bytes.length));
    return Buffer.concat([length, bytes, Buffer.alloc((8 - (bytes.length % 8)) % 8)]);
  };
  const tokens = ['nix-archive-1', '(', 'type', 'regular', 'contents'];
  return Buffer.concat([...tokens.map(text), text(contents), text(')')]);
}

/** Puts a store path holding `contents` into the cache, as ingest would. */
export async function addPath(
  { state, blobs }: StateDir,
  name: string,
  contents: Buffer,
  references: readonly StorePath[] = [],
): Promise<PathInfo> {
  const nar = narOfFile(contents);
  const digest = createHash('sha256').update(nar).digest();
  const alphabet = '0123456789abcdfghijklmnpqrsvwxyz';
  const hash = [...createHash('sha256').update(name).update(digest).digest()]
    .map((byte) => alphabet[byte % 32])
    .join('');
  const info: PathInfo = {
    path: parseStorePath(`/nix/store/${hash}-${name}`),
    narHash: formatNarHash(digest),
    narSize: nar.length,
    references: [...references].sort(),
  };
  const blob = await blobs.put([zstdCompressSync(nar)]);
  await state.addCachedPaths(
    [
      {
        ...info,
        deriver: null,
        sigs: [],
        ca: null,
        compression: 'zstd',
        blob: blob.id,
        blobSize: blob.size,
        upstream: null,
      },
    ],
    Math.floor(Date.now() / 1000),
  );
  return info;
}

/** Publishes a system for `host` that holds `contents` and refers to one library. */
export async function publishHost(
  dir: StateDir,
  host: string,
  contents: string,
  now: number,
): Promise<{ toplevel: StorePath; closure: readonly PathInfo[] }> {
  return await publishHosts(dir, [host], contents, now);
}

/** The same system for several hosts, in one publication; `waits`: signed, and left waiting for it. */
export async function publishHosts(
  dir: StateDir,
  hosts: readonly string[],
  contents: string,
  now: number,
  waits = false,
): Promise<{ toplevel: StorePath; closure: readonly PathInfo[] }> {
  const library = await addPath(dir, 'library', Buffer.from('the same for all'));
  const name = `system-${hosts[0]}`;
  const system = await addPath(dir, name, Buffer.from(contents), [library.path]);
  const closure = [library, system];
  await publishSystem(dir, hosts, closure, now, waits);
  return { toplevel: system.path, closure };
}

/** A closure of paths that were added, for several hosts; its last path is the system. */
export async function publishSystem(
  dir: StateDir,
  hosts: readonly string[],
  closure: readonly PathInfo[],
  now: number,
  waits = false,
): Promise<void> {
  const toplevel = closure.at(-1)?.path;
  if (toplevel === undefined) throw new Error('a closure without a system');
  const built: Omit<BuiltHost, 'host'> = {
    system: 'x86_64-linux',
    toplevel,
    activation: DEFAULT_ACTIVATION,
    provenance: {
      flakeRef: 'path:/flake',
      rev: null,
      flakeNarHash: null,
      lockSha256: null,
      attribute: `nixosConfigurations.${hosts[0]}`,
      drvPath: parseStorePath(`/nix/store/${'0'.repeat(32)}-system.drv`),
      builder: { id: 'box', nixVersion: '2.8.0', system: 'x86_64-linux' },
    },
  };
  await using lease = await acquireLease({ file: dir.layout.publishLock, state: dir.state });
  const { fence } = lease.holder;
  const rules = { root: dir.root, now, validSeconds: 90 * 86_400 };
  const { secret: director } = await readServerKey(dir, 'director');
  const manifests: PublishedManifest[] = [];
  for (const host of hosts) {
    const one = { ...built, host };
    const stored = await storeClosure(one, closure, dir.blobs, dir.root.limits);
    const current = await dir.state.currentManifest(host);
    manifests.push(signManifest(one, stored, current, director, rules));
    await new Servable(dir).require(host, stored.blob);
  }
  if (waits) {
    await dir.state.changePending(manifests, [], fence);
  } else {
    const entries = manifests.map((manifest) => ({ manifest }));
    await appendEntries(await openLogWriter(dir), entries, { fence, now });
  }
}
