// Publications for many hosts that all get the same system of one path: what matters is how many they are.
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
import { openLogWriter } from '../src/server/log-writer.ts';
import type { StateDir } from '../src/server/statedir.ts';
import { blobIdOf } from '../src/storage/blobs.ts';
import { acquireLease } from '../src/storage/lease.ts';

export const hostName = (i: number): string => `host-${String(i).padStart(5, '0')}`;

/** Publishes another system for all `hosts` at once; each `round` has its own. */
export async function publishRound(
  dir: StateDir,
  hosts: readonly string[],
  round: number,
): Promise<void> {
  const now = Math.floor(Date.now() / 1000);
  await using lease = await acquireLease({ file: dir.layout.publishLock, state: dir.state });
  const writer = await openLogWriter(dir);
  const rules = { root: dir.root, now, validSeconds: 90 * 86_400 };
  const current = new Map((await dir.state.currentManifests()).map((one) => [one.host, one]));
  const system = await makeSystem(dir, round, now);
  const entries = hosts.map((host) => {
    const built = { ...system.built, host };
    const before = current.get(host) ?? null;
    return { manifest: signManifest(built, system.stored, before, writer.director, rules) };
  });
  await appendEntries(writer, entries, { fence: lease.holder.fence, now });
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
