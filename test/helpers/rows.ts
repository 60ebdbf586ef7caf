// Rows of the state for tests: index entries, manifests, receipts; and an empty state of its own.
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import type { StorePath } from '../../src/nix/storepath.ts';
import type { BlobId } from '../../src/storage/blobs.ts';
import { createState, openState } from '../../src/storage/sqlite.ts';
import type {
  CachedPath,
  NamedSystem,
  PublishedManifest,
  ReportRecord,
  State,
  StoredPath,
} from '../../src/storage/state.ts';
import { pathInfo, storePath } from './paths.ts';
import { temporaryDirectory } from './temporary.ts';

export const hex = (seed: string): string => createHash('sha256').update(seed).digest('hex');

export function cachedPath(seed: string, references: StorePath[] = []): StoredPath {
  return {
    ...pathInfo(storePath(seed), references),
    deriver: storePath(seed, 'x.drv'),
    compression: 'zstd',
    blob: hex(seed) as BlobId,
    blobSize: 77,
    sigs: [],
    ca: null,
    upstream: null,
  };
}

/** `row`, which must have its NAR here. */
export function stored(row: CachedPath): StoredPath {
  if (row.blob === null) throw new Error(`${row.path} is at an upstream`);
  return row;
}

export function manifest(
  host: string,
  epoch: number,
  sequence: number,
): PublishedManifest & NamedSystem {
  const name = `${host} ${epoch} ${sequence}`;
  return {
    host,
    epoch,
    sequence,
    digest: hex(name),
    envelope: `envelope of ${name}`,
    toplevel: storePath(name),
    closure: hex(`closure of ${name}`) as BlobId,
    closureBytes: 100,
    issuedAt: 1000,
    expiresAt: 2000,
  };
}

/** Publishes `manifests` after rows for their systems were added. */
export async function publishRows(
  state: State,
  manifests: readonly PublishedManifest[],
  fence: number,
): Promise<void> {
  const rows = manifests.map(({ host, epoch, sequence }) =>
    cachedPath(`${host} ${epoch} ${sequence}`),
  );
  await state.addCachedPaths(rows, 1000);
  await commitManifests(state, manifests, fence, 1000);
}

/** Commits `manifests` as entries of a log without files, whose hash is made up. */
export async function commitManifests(
  state: State,
  manifests: readonly PublishedManifest[],
  fence: number,
  now: number,
): Promise<void> {
  await state.dropStaged(1, fence);
  const from = (await state.logHead(1))?.size ?? 0;
  const entries = manifests.map((one, i) => ({ index: from + i, manifest: one }));
  await state.stageEntries(1, entries, fence);
  const size = from + manifests.length;
  const head = { log: 1, size, root: hex(`tree of ${size}`), snapshots: 1, roots: 1 };
  await state.commitLog(head, fence, now, null);
}

export function report(host: string, counter: number, previous: string | null): ReportRecord {
  const name = `${host} report ${counter} after ${previous}`;
  return {
    host,
    counter,
    digest: hex(name),
    previous,
    receivedAt: 5000 + counter,
    envelope: `envelope of ${name}`,
  };
}

export type EmptyState = AsyncDisposable & {
  readonly state: State;
  readonly dir: string;
  readonly file: string;
};

/** A new database in a directory of its own, open. */
export async function emptyState(
  writer: 'inline' | 'thread' = 'inline',
  patience?: number,
): Promise<EmptyState> {
  const dir = await temporaryDirectory();
  const file = join(dir.path, 'fleet.db');
  await createState(file);
  const state = await openState(file, patience === undefined ? { writer } : { writer, patience });
  return {
    state,
    dir: dir.path,
    file,
    async [Symbol.asyncDispose]() {
      await state[Symbol.asyncDispose]();
      await dir[Symbol.asyncDispose]();
    },
  };
}
