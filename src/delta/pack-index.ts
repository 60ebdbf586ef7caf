// The beginning of an update pack (SPEC §12.2, §12.3) ⇄ what it says: which paths it gives, from which old ones or which
// segment each. Refuses whatever could mean two things, or name what neither closure has. Nothing here has to be believed:
// what comes out of a pack is compared with closure.fp.
import { constants, zstdCompressSync, zstdDecompressSync } from 'node:zlib';
import { FleetError, isFleetError, messageOf } from '../errors.ts';
import type { Closure, PathInfo } from '../nix/closure.ts';
import { parsePathSignature } from '../nix/signature.ts';
import { parseStorePath, type StorePath } from '../nix/storepath.ts';
import { at, badPack, integer, list, members, string } from './pack-json.ts';

/** Old path → the new one whose hash part takes its place. */
export type Renames = ReadonlyMap<StorePath, StorePath>;

/** How a path's NAR comes out of a pack. */
export type PackedPath = {
  readonly info: PathInfo;
  /** `name:base64` each, at least one. */
  readonly sigs: readonly string[];
} & (
  | { readonly kind: 'copy'; readonly old: StorePath; readonly renames: Renames }
  | {
      readonly kind: 'patch';
      readonly old: StorePath;
      readonly renames: Renames;
      /** Index into the pack's segments. */
      readonly segment: number;
    }
  | { readonly kind: 'whole'; readonly segment: number }
);

export type Segment = {
  readonly bytes: number;
  /** SHA-256 of the segment, 64 lowercase hex digits. */
  readonly sha256: string;
  /** Bytes of memory that applying it takes. */
  readonly memory: number;
};

export type PackIndex = {
  /** SHA-256 of the closure files, 64 lowercase hex digits; the base's is null for a host that has nothing. */
  readonly closure: string;
  readonly base: string | null;
  readonly segments: readonly Segment[];
  /** References first. */
  readonly paths: readonly PackedPath[];
};

const MAGIC = 'fleet-pack/';
const VERSION = 1;
/** Of the first line. */
export const MAX_HEAD = 64;
/** Of the index, unpacked: a system of 10,000 paths needs a third. */
const MAX_INDEX = 16 * 1024 * 1024;
/** Of characters that begin a value: each takes some fifty bytes of memory once it is parsed, however few it takes packed. */
const MAX_VALUES = 2 ** 21;

/**
 * The first line and the index's frame. Equal indexes give equal bytes with equal versions of zstd.
 * @throws FleetError E_PACK_BAD where it would be larger than one may be
 */
export function formatPackIndex(index: PackIndex, closure: Pick<Closure, 'paths'>): Buffer {
  const lines = numbered(closure);
  const old = [...new Set(index.paths.flatMap(oldPathsOf))].sort();
  const oldIndex = new Map(old.map((path, i) => [path, i]));
  const paths = index.paths.map((given) => {
    const { info, sigs } = given;
    const line = lines.get(info.path);
    if (given.kind === 'whole') return { path: line, segment: given.segment, sigs };
    const renames = [...given.renames]
      .map(([from, to]) => [oldIndex.get(from) ?? -1, lines.get(to) ?? -1] as const)
      .sort(([a], [b]) => a - b);
    const source = { old: oldIndex.get(given.old), path: line, renames };
    return given.kind === 'copy'
      ? { ...source, sigs }
      : { ...source, segment: given.segment, sigs };
  });
  const segments = index.segments.map(({ bytes, memory, sha256 }) => ({ bytes, memory, sha256 }));
  // Members in order, as RFC 8785 wants them.
  const json = JSON.stringify({ base: index.base, closure: index.closure, old, paths, segments });
  const text = bounded(Buffer.from(json));
  const frame = zstdCompressSync(text, {
    pledgedSrcSize: text.length,
    params: { [constants.ZSTD_c_compressionLevel]: 19, [constants.ZSTD_c_checksumFlag]: 1 },
  });
  return Buffer.concat([Buffer.from(`${MAGIC}${VERSION} ${frame.length}\n`), frame]);
}

/**
 * The first line of a pack → how many bytes it has with its newline, and how many the index has. null: there is no newline in `start` yet.
 * @throws FleetError E_PACK_BAD, E_PACK_VERSION
 */
export function parsePackHead(start: Uint8Array): { head: number; index: number } | null {
  const text = Buffer.from(start.subarray(0, MAX_HEAD)).toString('latin1');
  const end = text.indexOf('\n');
  if (end < 0 && start.length < MAX_HEAD && MAGIC.startsWith(text.slice(0, MAGIC.length))) {
    return null;
  }
  const [, version, size] = /^fleet-pack\/([1-9]\d{0,8}) ([1-9]\d{0,7})\n/.exec(text) ?? [];
  if (version === undefined) throw badPack('it does not begin as one');
  if (Number(version) !== VERSION) {
    throw new FleetError('E_PACK_VERSION', `the update pack is of version ${version}`);
  }
  return { head: end + 1, index: Number(size) };
}

/** What was asked for. */
export type ExpectedPack = {
  readonly closure: Pick<Closure, 'paths'>;
  /** Of the closure file. */
  readonly digest: string;
  readonly base: string | null;
};

/**
 * The frame after the first line → what it says, for the closure that the caller verified.
 * @throws FleetError E_PACK_BAD
 */
export function parsePackIndex(frame: Uint8Array, expect: ExpectedPack): PackIndex {
  try {
    const json = JSON.parse(unpacked(frame).toString('utf8')) as unknown;
    return readIndex(json, expect);
  } catch (error) {
    throw isFleetError(error, 'E_PACK_BAD') ? error : badPack(messageOf(error), error);
  }
}

function readIndex(json: unknown, expect: ExpectedPack): PackIndex {
  const top = members(json, ['base', 'closure', 'old', 'paths', 'segments']);
  if (top.get('closure') !== expect.digest) throw badPack('it is for another closure');
  if (top.get('base') !== expect.base) throw badPack('it is for another base');
  const old = list(top.get('old')).map((path) => parseStorePath(string(path)));
  if (expect.base === null && old.length > 0) throw badPack('old paths without a base');
  if (!old.every((path, i) => i === 0 || (old[i - 1] ?? '') < path)) throw badPack('old: no order');
  const segments = list(top.get('segments')).map(readSegment);
  const infos = [...expect.closure.paths.values()];
  const reader = new PathReader(infos, old, segments.length);
  const paths = list(top.get('paths')).map((path) => reader.read(path));
  reader.finish();
  return { closure: expect.digest, base: expect.base, segments, paths };
}

function readSegment(json: unknown): Segment {
  const segment = members(json, ['bytes', 'memory', 'sha256']);
  const sha256 = string(segment.get('sha256'));
  if (!/^[0-9a-f]{64}$/.test(sha256)) throw badPack('a segment without a digest');
  const [bytes, memory] = [integer(segment.get('bytes')), integer(segment.get('memory'))];
  if (bytes === 0) throw badPack('an empty segment');
  return { bytes, memory, sha256 };
}

/** Reads paths in their order, and knows what came before. */
class PathReader {
  readonly #infos: readonly PathInfo[];
  readonly #old: readonly StorePath[];
  readonly #segments: number;
  /** Lines of closure.fp that were given. */
  readonly #given = new Set<StorePath>();
  readonly #later = new Set<StorePath>();
  /** Kind of the segments that were named so far. */
  readonly #named: ('patch' | 'whole')[] = [];

  constructor(infos: readonly PathInfo[], old: readonly StorePath[], segments: number) {
    this.#infos = infos;
    this.#old = old;
    this.#segments = segments;
  }

  read(json: unknown): PackedPath {
    const kind = kindOf(json);
    const path = members(json, MEMBERS[kind]);
    const info = at(this.#infos, path.get('path'));
    if (this.#given.has(info.path)) throw badPack(`${info.path} comes twice`);
    // Whoever refers to it came before it.
    if (this.#later.has(info.path)) throw badPack(`${info.path} comes too late`);
    this.#given.add(info.path);
    for (const reference of info.references) {
      if (!this.#given.has(reference)) this.#later.add(reference);
    }
    const sigs = list(path.get('sigs')).map(string);
    if (sigs.length === 0) throw badPack(`${info.path} has no signature`);
    for (const sig of sigs) parsePathSignature(sig);
    if (kind === 'whole') {
      return { kind, info, sigs, segment: this.#segment(path.get('segment'), kind) };
    }
    const source = {
      info,
      sigs,
      old: at(this.#old, path.get('old')),
      renames: this.#renames(path.get('renames')),
    };
    if (kind === 'copy') return { kind, ...source };
    return { kind, ...source, segment: this.#segment(path.get('segment'), kind) };
  }

  finish(): void {
    if (this.#named.length !== this.#segments) throw badPack('a segment that no path names');
  }

  #renames(json: unknown): Renames {
    const renames = new Map<StorePath, StorePath>();
    let previous = -1;
    for (const pair of list(json)) {
      const [from, to, ...more] = list(pair);
      if (more.length > 0 || integer(from) <= previous) throw badPack('renames: no order');
      previous = integer(from);
      renames.set(at(this.#old, from), at(this.#infos, to).path);
    }
    return renames;
  }

  #segment(json: unknown, kind: 'patch' | 'whole'): number {
    const segment = integer(json);
    const next = this.#named.length;
    if (segment === next && segment < this.#segments) this.#named.push(kind);
    // One of whole NARs may be named again; a patch is one path's.
    else if (kind === 'patch' || this.#named[segment] !== 'whole') {
      throw badPack(`segment ${segment} is out of order`);
    }
    return segment;
  }
}

const MEMBERS = {
  copy: ['old', 'path', 'renames', 'sigs'],
  patch: ['old', 'path', 'renames', 'segment', 'sigs'],
  whole: ['path', 'segment', 'sigs'],
} as const;

function kindOf(json: unknown): keyof typeof MEMBERS {
  const has = (name: string) =>
    typeof json === 'object' && json !== null && Object.hasOwn(json, name);
  if (!has('old')) return 'whole';
  return has('segment') ? 'patch' : 'copy';
}

function oldPathsOf(path: PackedPath): StorePath[] {
  return path.kind === 'whole' ? [] : [path.old, ...path.renames.keys()];
}

function numbered({ paths }: Pick<Closure, 'paths'>): ReadonlyMap<StorePath, number> {
  return new Map([...paths.keys()].map((path, i) => [path, i]));
}

function unpacked(frame: Uint8Array): Buffer {
  return bounded(
    zstdDecompressSync(frame, {
      maxOutputLength: MAX_INDEX,
      rejectGarbageAfterEnd: true,
      params: { [constants.ZSTD_d_windowLogMax]: 24 },
    }),
  );
}

/** `text`, whose length and number of values are bounded before it is parsed. */
function bounded(text: Buffer): Buffer {
  if (text.length > MAX_INDEX) throw badPack(`its index has more than ${MAX_INDEX} bytes`);
  let values = 0;
  for (const byte of text) {
    if ((byte === COMMA || byte === BRACKET || byte === BRACE) && ++values > MAX_VALUES) {
      throw badPack(`its index has more than ${MAX_VALUES} values`);
    }
  }
  return text;
}

const [COMMA, BRACKET, BRACE] = Buffer.from(',[{');
