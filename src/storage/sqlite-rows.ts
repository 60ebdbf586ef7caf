// Rows of the database as State's types, and back. What is in the database was typed when it was
// written, so brands are given back here without parsing again.
import { baseNameOf, hashPartOf, STORE_DIR, type StorePath } from '../nix/storepath.ts';
import type { CachedPath } from './state.ts';

/** Columns of `cached_path` under CachedPath's names; `refs` needs `cachedPathOf`. */
export const CACHED_PATH = `path, nar_hash AS narHash, nar_size AS narSize, refs, deriver,
  compression, blob, blob_size AS blobSize`;

export type CachedPathRow = Omit<CachedPath, 'references'> & { readonly refs: string };

export function cachedPathOf({ refs, ...rest }: CachedPathRow): CachedPath {
  const names = refs === '' ? [] : refs.split(' ');
  return { ...rest, references: names.map((name) => `${STORE_DIR}/${name}` as StorePath) };
}

/** Values in the order of the table's columns. */
export function cachedPathValues(row: CachedPath): (string | number | null)[] {
  return [
    hashPartOf(row.path),
    row.path,
    row.narHash,
    row.narSize,
    row.references.map(baseNameOf).join(' '),
    row.deriver,
    row.compression,
    row.blob,
    row.blobSize,
  ];
}

/** Columns of `manifest` under PublishedManifest's names. */
export const MANIFEST = `host, epoch, sequence, digest, envelope, toplevel, closure,
  closure_bytes AS closureBytes, issued_at AS issuedAt, expires_at AS expiresAt`;

export const HOST = `host, public_key AS publicKey, enrolled_at AS enrolledAt,
  last_seen AS lastSeen`;

export const REPORT = `host, counter, digest, previous, received_at AS receivedAt, envelope`;

export const INVITATION = `secret_hash AS secretHash, host, expires_at AS expiresAt`;

export const CREDENTIAL = `token_hash AS tokenHash, name, scope, host,
  created_at AS createdAt, expires_at AS expiresAt`;
