// fleet cache info [PATH]: what the cache holds, or all about one of its paths: who signed it, what keeps
// it, and whether its bytes are there.
import type { Command } from 'commander';
import { FleetError } from '../src/errors.ts';
import {
  formatNixPublicKey,
  nixPublicKeyOf,
  parseNixPublicKey,
  parsePathSignature,
  signPath,
  verifyPathSignature,
} from '../src/nix/signature.ts';
import { hashPartOf, isHashPart, type StorePath } from '../src/nix/storepath.ts';
import type { RetentionRoot } from '../src/server/retention.ts';
import type { StateDir } from '../src/server/statedir.ts';
import type { CachedPath } from '../src/storage/state.ts';
import { formatBytes, globalsOf, print, table } from './output.ts';
import { withStateDir } from './state.ts';
import { pathArgument } from './store-argument.ts';

/** Rows that are looked at to find what keeps a path. */
const MAX_WALK = 200_000;

export function registerCacheInfo(cache: Command): void {
  cache
    .command('info')
    .argument('[path]', 'a store path, its base name or its hash part')
    .description(
      'what the cache holds; or all about one path, such as who signed it and what keeps it',
    )
    .action(async (text: string | undefined, _options, command: Command) => {
      const globals = globalsOf(command);
      await withStateDir(globals, async (dir) => {
        const { document, lines } =
          text === undefined ? await overview(dir) : await about(dir, await find(dir, text));
        print(globals, { version: 1, ...document }, table(lines));
      });
    });
}

type Info = { readonly document: object; readonly lines: string[][] };

async function overview({ state, config, cacheKeys }: StateDir): Promise<Info> {
  const totals = await state.cacheTotals();
  const pins = await state.pins();
  const keys = cacheKeys.map((key) => formatNixPublicKey(nixPublicKeyOf(key)));
  const { keepManifests, keepUnusedDays, keepNarDays, gcHours } = config;
  const retention = { keepManifests, keepUnusedDays, keepNarDays, gcHours };
  return {
    document: { ...totals, keys, retention, pins },
    lines: [
      [
        'paths',
        `${totals.paths}${totals.upstreamPaths > 0 ? `, ${totals.upstreamPaths} of them upstream` : ''}`,
      ],
      ['unpacked', formatBytes(totals.narBytes)],
      ['stored', `${formatBytes(totals.blobBytes)} in ${totals.blobs} files`],
      ...keys.map((key) => ['signed by', key]),
      [
        'kept',
        `${keepManifests} manifests a host, what was used in ${keepUnusedDays} days; NARs ${keepNarDays} days longer`,
      ],
      ...pins.map(({ name, path }) => ['pin', `${name}: ${path}`]),
    ],
  };
}

async function find({ state }: StateDir, text: string): Promise<CachedPath> {
  const hashPart = isHashPart(text) ? text : hashPartOf(await pathArgument(text));
  const row = await state.cachedPath(hashPart);
  if (row === null) throw new FleetError('E_PATH_UNKNOWN', `${text} is not in this cache`);
  return row;
}

async function about(dir: StateDir, row: CachedPath): Promise<Info> {
  const { retentionRoots } = await import('../src/server/retention.ts');
  const roots = await retentionRoots(dir.state, dir.config.keepManifests);
  const keptBy = await keepersOf(dir, row.path, roots);
  const signatures = signaturesOf(dir, row);
  const isThere = row.blob === null || (await dir.blobs.size(row.blob)) === row.blobSize;
  const { path, narHash, narSize, references, deriver, ca, blob, blobSize, upstream } = row;
  const at = { blob, blobSize, upstream };
  const where =
    upstream !== null
      ? `at ${upstream.url}`
      : `${formatBytes(blobSize ?? 0)}, ${row.compression}${isThere ? '' : '; its file is missing or cut'}`;
  return {
    document: {
      path,
      narHash,
      narSize,
      references,
      deriver,
      ca,
      ...at,
      isThere,
      signatures,
      keptBy,
    },
    lines: [
      ['path', path],
      ['hash', `${narHash}, ${formatBytes(narSize)}`],
      ['stored', where],
      ['references', String(references.length)],
      ...(deriver === null ? [] : [['deriver', deriver]]),
      ...(ca === null ? [] : [['content address', ca]]),
      ...signatures.map(({ key, by, verdict }) => ['signature', `${key} (${by}; ${verdict})`]),
      ...(keptBy.length === 0
        ? [['kept', 'by nothing but its last use']]
        : keptBy.slice(0, 10).map(({ path: root, reason }) => ['kept', `${reason}: ${root}`])),
    ],
  };
}

function signaturesOf({ cacheKeys, config }: StateDir, row: CachedPath) {
  const known = [...config.uploadKeys, ...config.upstreams.flatMap(({ keys }) => keys)].map(
    parseNixPublicKey,
  );
  const own = cacheKeys.map((key) => ({
    key: key.name,
    by: 'this cache, when it is served',
    verdict: verifyPathSignature(row, signPath(row, key), [nixPublicKeyOf(key)])
      ? 'valid'
      : 'not valid',
  }));
  const foreign = row.sigs.map((sig) => {
    const { name } = parsePathSignature(sig);
    const keys = known.filter((key) => key.name === name);
    const verdict =
      keys.length === 0
        ? 'its key is not known here'
        : verifyPathSignature(row, sig, keys)
          ? 'valid'
          : 'not valid';
    return { key: name, by: 'another', verdict };
  });
  return [...own, ...foreign];
}

/** The roots that reach `path`; each closure is walked once. */
async function keepersOf(
  { state }: StateDir,
  path: StorePath,
  roots: readonly RetentionRoot[],
): Promise<RetentionRoot[]> {
  const keepers: RetentionRoot[] = [];
  const verdicts = new Map<StorePath, boolean>();
  for (const root of roots) {
    let reaches = verdicts.get(root.path);
    if (reaches === undefined) {
      reaches = await isReached(root.path, path, state);
      verdicts.set(root.path, reaches);
    }
    if (reaches) keepers.push(root);
  }
  return keepers;
}

async function isReached(
  from: StorePath,
  path: StorePath,
  state: Pick<StateDir['state'], 'cachedPaths'>,
): Promise<boolean> {
  const seen = new Set<StorePath>([from]);
  for (let wave = [from]; wave.length > 0 && seen.size < MAX_WALK; ) {
    if (seen.has(path)) return true;
    const rows = await state.cachedPaths(wave);
    wave = [...new Set(rows.flatMap(({ references }) => references))].filter(
      (one) => !seen.has(one),
    );
    for (const one of wave) seen.add(one);
  }
  return seen.has(path);
}
