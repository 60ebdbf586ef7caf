// What one host needs and has not → the files of a bundle for it (SPEC §8.2): the same state, the same files. From the
// host's last report it is known how far of the log it has come, and what it runs already.
// Refuses a host without a manifest, and a system of which the cache lacks bytes: what an upstream has is not here.
import { buffer } from 'node:stream/consumers';
import type { BundleMember } from '../bundle/tar.ts';
import { narInfoFor } from '../cache/narinfo-view.ts';
import { FleetError } from '../errors.ts';
import { parseEnvelope } from '../manifest/dsse.ts';
import {
  formatHostBundle,
  HOST_BUNDLE_FILES,
  HOST_BUNDLE_VERSION,
} from '../manifest/host-bundle.ts';
import { parseOffer } from '../manifest/offer.ts';
import { parseReceipt } from '../manifest/receipt.ts';
import { headOf } from '../manifest/verify-offer.ts';
import { type Closure, parseClosure } from '../nix/closure.ts';
import { hashPartOf, type StorePath } from '../nix/storepath.ts';
import type { BlobId, Blobs } from '../storage/blobs.ts';
import type { PublishedManifest, StoredPath } from '../storage/state.ts';
import { lookAfterLog } from './log-keeper.ts';
import { openLogWriter } from './log-writer.ts';
import { makeOffer } from './offers.ts';
import { PublishedLog } from './published.ts';
import type { StateDir } from './statedir.ts';

export type HostBundleOptions = {
  /** How many entries of the log the host has seen; null: as its last report says. */
  readonly from: number | null;
  /** What of the closure is left out: what the host runs as far as is known, nothing, or the closure of this system. */
  readonly base: 'reported' | 'nothing' | StorePath;
  /** POSIX seconds. */
  readonly now: number;
};

export type MadeHostBundle = {
  readonly members: readonly BundleMember[];
  readonly from: number;
  readonly sequence: number;
  /** Entries of the log that its checkpoint is of. */
  readonly size: number;
  /** The system that it is for; null: it ends the host. */
  readonly toplevel: StorePath | null;
  /** Systems that the host is taken to have whole. */
  readonly bases: readonly StorePath[];
  /** Paths that are in it, and that the closure has. */
  readonly paths: number;
  readonly ofPaths: number;
};

/** @throws FleetError E_HOST_UNKNOWN, E_NO_MANIFEST, E_CACHE_INCOMPLETE, E_USAGE, E_LOG_DAMAGED */
export async function makeHostBundle(
  dir: StateDir,
  host: string,
  options: HostBundleOptions,
): Promise<MadeHostBundle> {
  const { state } = dir;
  if ((await state.host(host)) === null) {
    throw new FleetError('E_HOST_UNKNOWN', `there is no host named ${host}`);
  }
  // Where `fleet serve` runs it does this anyway.
  await lookAfterLog(() => openLogWriter(dir), { ...dir, ...dir.layout }, options.now);
  const published = new PublishedLog(dir);
  const reported = await reportedBy(dir, host);
  const from = options.from ?? reported.from;
  // Without roots, which are files of their own.
  const known = { root: Number.MAX_SAFE_INTEGER, from };
  const made = await makeOffer(dir, published, host, known);
  if (made === null) throw new FleetError('E_NO_MANIFEST', `nothing is published for ${host} yet`);
  const offer = parseOffer(made.text);
  const { size } = headOf(offer.checkpoint);
  if (from > size) {
    throw new FleetError('E_USAGE', `--from ${from}: the log has ${size} entries`);
  }
  const history = await state.manifestHistory(host);
  const manifest = history.find(({ digest }) => digest === offer.entry.sha256);
  if (manifest === undefined) throw new Error('what is offered was never published');
  const files: BundleMember[] = [];
  for (const { root, envelope } of dir.roots) {
    files.push(textMember(HOST_BUNDLE_FILES.root(root.version), envelope));
  }
  files.push(textMember(HOST_BUNDLE_FILES.offer, made.text));
  const bases: StorePath[] = [];
  let closure: Closure | null = null;
  let rows: StoredPath[] = [];
  const file = await closureOf(dir.blobs, manifest);
  if (file !== null) {
    closure = file.closure;
    files.push({ name: HOST_BUNDLE_FILES.closure, size: file.bytes.length, data: [file.bytes] });
    const had = new Map<string, string>();
    for (const base of basesOf(options.base, reported.systems)) {
      const before = history.findLast(({ toplevel }) => toplevel === base);
      const there = before === undefined ? null : await closureOf(dir.blobs, before).catch(none);
      if (there === null) {
        if (options.base !== 'reported') throw unknownBase(host, base);
        continue;
      }
      bases.push(base);
      for (const { path, narHash } of there.closure.paths.values()) had.set(path, narHash);
    }
    const wanted = [...closure.paths.values()].filter(
      ({ path, narHash }) => had.get(path) !== narHash,
    );
    rows = await storedRows(
      dir,
      host,
      wanted.map(({ path }) => path),
    );
    files.push(...narInfoMembers(rows, dir), ...narMembers(rows, dir.blobs));
  }
  const bytes = files.reduce((sum, member) => sum + member.size, 0);
  const header = formatHostBundle({
    bundleVersion: HOST_BUNDLE_VERSION,
    fleet: dir.root.fleet,
    host,
    from,
    files: files.length,
    bytes,
  });
  return {
    members: [{ name: HOST_BUNDLE_FILES.header, size: header.length, data: [header] }, ...files],
    ...{ from, size, bases },
    sequence: manifest.sequence,
    toplevel: manifest.toplevel,
    paths: rows.length,
    ofPaths: closure?.paths.size ?? 0,
  };
}

/** How far the host has come, and what it runs, as it said last. */
async function reportedBy(
  { state, root }: StateDir,
  host: string,
): Promise<{ readonly from: number; readonly systems: readonly StorePath[] }> {
  const report = (await state.status()).find(({ record }) => record.host === host)?.report ?? null;
  if (report === null) return { from: 0, systems: [] };
  const receipt = parseReceipt(parseEnvelope(report.envelope).payload);
  const head = receipt.checkpoint === null ? null : headOf(receipt.checkpoint);
  const systems = [receipt.current, receipt.profile].filter((one) => one !== null);
  // Another log says nothing of this one.
  const from = head?.origin === root.log.origin ? head.size : 0;
  return { from, systems: [...new Set(systems)] as StorePath[] };
}

function basesOf(
  base: HostBundleOptions['base'],
  reported: readonly StorePath[],
): readonly StorePath[] {
  return base === 'reported' ? reported : base === 'nothing' ? [] : [base];
}

function unknownBase(host: string, base: StorePath): FleetError {
  return new FleetError('E_USAGE', `--base ${base}: no manifest of ${host} that is kept had it`, {
    hint: 'leave --base out, or have everything in it with --all',
  });
}

const none = (): null => null;

/** null: it ends its host. @throws FleetError E_CACHE_INCOMPLETE */
async function closureOf(
  blobs: Blobs,
  manifest: PublishedManifest,
): Promise<{ readonly bytes: Buffer; readonly closure: Closure } | null> {
  if (manifest.closure === null) return null;
  const stream = await blobs.get(manifest.closure);
  if (stream === null) {
    throw new FleetError('E_CACHE_INCOMPLETE', `the closure file of ${manifest.host} is missing`);
  }
  const bytes = await buffer(stream);
  return { bytes, closure: parseClosure(bytes, manifest.toplevel) };
}

/** By hash part. */
async function storedRows(
  { state, blobs }: StateDir,
  host: string,
  paths: readonly StorePath[],
): Promise<StoredPath[]> {
  const found = new Map((await state.cachedPaths(paths)).map((row) => [row.path, row]));
  const rows: StoredPath[] = [];
  for (const path of paths) {
    const row = found.get(path);
    if (row !== undefined && row.blob === null) {
      throw new FleetError('E_CACHE_INCOMPLETE', `${path} of ${host} is left to an upstream`, {
        hint: 'only what is stored here can be in a bundle: take "upstreams" out of fleet.json, and run fleet build again',
      });
    }
    if (row === undefined || (await blobs.size(row.blob)) !== row.blobSize) {
      throw new FleetError('E_CACHE_INCOMPLETE', `the cache lacks ${path}, which ${host} needs`);
    }
    rows.push(row);
  }
  return rows.sort((a, b) => (a.path < b.path ? -1 : 1));
}

function narInfoMembers(
  rows: readonly StoredPath[],
  { cacheKeys }: Pick<StateDir, 'cacheKeys'>,
): BundleMember[] {
  return rows.map((row) =>
    textMember(HOST_BUNDLE_FILES.narInfo(hashPartOf(row.path)), narInfoFor(row, cacheKeys)),
  );
}

/** Each NAR once: two paths may have the same. */
function narMembers(rows: readonly StoredPath[], blobs: Blobs): BundleMember[] {
  const sizes = new Map(rows.map(({ blob, blobSize }) => [blob, blobSize]));
  return [...sizes]
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([blob, size]) => ({
      name: HOST_BUNDLE_FILES.nar(blob),
      size,
      data: readBlob(blobs, blob),
    }));
}

/** Opened once it is its turn. */
async function* readBlob(blobs: Blobs, blob: BlobId): AsyncGenerator<Uint8Array> {
  const stream = await blobs.get(blob);
  if (stream === null) {
    throw new FleetError('E_CACHE_INCOMPLETE', `blob ${blob} went while it was read`);
  }
  yield* stream as AsyncIterable<Uint8Array>;
}

function textMember(name: string, text: string): BundleMember {
  const data = Buffer.from(text);
  return { name, size: data.length, data: [data] };
}
