// An index row → the narinfo text that is served for it. Signatures are made here, at serving time,
// so that adding or retiring a cache key never rewrites the index; they cover path, hash, size and
// references (Nix's fingerprint), so a compressed file may change without them.
import { formatNarHash } from '../nix/hash.ts';
import { formatNarInfo } from '../nix/narinfo.ts';
import { type NixSecretKey, signPath } from '../nix/signature.ts';
import type { CachedPath } from '../storage/state.ts';
import { formatNarUrl } from './nar-url.ts';

/** The narinfo of `row`: one `Sig` for each of `keys`, then those of others. */
export function narInfoFor(row: CachedPath, keys: readonly NixSecretKey[]): string {
  const nar =
    row.blob === null
      ? row.upstream
      : {
          url: formatNarUrl(row.blob),
          fileHash: formatNarHash(Buffer.from(row.blob, 'hex')),
          fileSize: row.blobSize,
        };
  return formatNarInfo({
    ...nar,
    path: row.path,
    compression: row.compression,
    narHash: row.narHash,
    narSize: row.narSize,
    references: row.references,
    deriver: row.deriver,
    sigs: sigsFor(row, keys),
    ca: row.ca,
  });
}

/** Signatures of a path: one by each of `keys`, then those of others. */
export function sigsFor(row: CachedPath, keys: readonly NixSecretKey[]): string[] {
  return [...new Set([...keys.map((key) => signPath(row, key)), ...row.sigs])];
}
