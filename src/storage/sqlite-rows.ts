// Rows of the database as State's types, and back. What is in the database was typed when it was
// written, so brands are given back here without parsing again.
import type { NarHash } from '../nix/hash.ts';
import type { Compression } from '../nix/narinfo.ts';
import { baseNameOf, hashPartOf, STORE_DIR, type StorePath } from '../nix/storepath.ts';
import type { BlobId } from './blobs.ts';
import type { CachedPath } from './state.ts';

/** Columns of `cached_path` as `cachedPathOf` wants them. */
export const CACHED_PATH = `path, nar_hash AS narHash, nar_size AS narSize, refs, deriver, sigs, ca,
  compression, blob, blob_size AS blobSize, upstream_url AS url, file_hash AS fileHash,
  file_size AS fileSize`;

export type CachedPathRow = Pick<CachedPath, 'path' | 'narHash' | 'narSize' | 'deriver' | 'ca'> & {
  readonly refs: string;
  readonly sigs: string;
  readonly compression: Compression;
  readonly blob: BlobId | null;
  readonly blobSize: number | null;
  readonly url: string | null;
  readonly fileHash: NarHash | null;
  readonly fileSize: number | null;
};

export function cachedPathOf(row: CachedPathRow): CachedPath {
  const { path, narHash, narSize, deriver, ca, compression, blob, blobSize } = row;
  const references = words(row.refs).map((name) => `${STORE_DIR}/${name}` as StorePath);
  const fields = { path, narHash, narSize, references, deriver, sigs: words(row.sigs), ca };
  // The table's checks: one or the other.
  if (blob !== null && blobSize !== null) {
    return { ...fields, compression: 'zstd', blob, blobSize, upstream: null };
  }
  const upstream = { url: row.url ?? '', fileHash: row.fileHash, fileSize: row.fileSize };
  return { ...fields, compression, blob: null, blobSize: null, upstream };
}

/** Values in the order of the table's columns. */
export function cachedPathValues(row: CachedPath, usedAt: number): (string | number | null)[] {
  return [
    hashPartOf(row.path),
    row.path,
    row.narHash,
    row.narSize,
    row.references.map(baseNameOf).join(' '),
    row.deriver,
    row.sigs.join(' '),
    row.ca,
    usedAt,
    row.compression,
    row.blob,
    row.blobSize,
    row.upstream?.url ?? null,
    row.upstream?.fileHash ?? null,
    row.upstream?.fileSize ?? null,
  ];
}

/** What is stored with a space between. */
export function words(text: string): string[] {
  return text === '' ? [] : text.split(' ');
}

/** Columns of `manifest` under PublishedManifest's names. */
export const MANIFEST = `host, epoch, sequence, digest, envelope, toplevel, closure,
  closure_bytes AS closureBytes, issued_at AS issuedAt, expires_at AS expiresAt`;

export const HOST = `host, public_key AS publicKey, enrolled_at AS enrolledAt,
  last_seen AS lastSeen, held_at AS heldAt, held_reason AS heldReason,
  progress, progress_at AS progressAt`;

export const REPORT = `host, counter, digest, previous, received_at AS receivedAt, envelope`;

export const INVITATION = `secret_hash AS secretHash, host, expires_at AS expiresAt`;

export const CREDENTIAL = `token_hash AS tokenHash, name, scope, host,
  created_at AS createdAt, expires_at AS expiresAt`;

export const CONFLICT = `kind, digest, seen_at AS seenAt, envelope`;
