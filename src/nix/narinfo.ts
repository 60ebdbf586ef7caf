// narinfo: what a binary cache says about one store path (Nix: libstore/nar-info.cc), text to a
// typed record and back. Every line is `Key: value`, keys that fleet does not know are ignored as
// Nix ignores them, and formatNarInfo writes what Nix writes, byte for byte.
// Refuses known keys twice (but `Sig`), missing required ones, sizes that are not plain decimals,
// compressions that Nix does not read, malformed signatures, references that come twice, and every
// URL that could lead away from the cache it came from.
// Nothing here is trusted: the signature covers path, hash, size and references only, and `CA` is
// the server's claim.

import { FleetError, messageOf } from '../errors.ts';
import type { PathInfo } from './closure.ts';
import { type NarHash, parseNarHash } from './hash.ts';
import { parsePathSignature } from './signature.ts';
import {
  baseNameOf,
  hashPartOf,
  parseStorePath,
  parseStorePathBaseName,
  type StorePath,
} from './storepath.ts';

const COMPRESSIONS = ['none', 'xz', 'bzip2', 'br', 'zstd'] as const;
export type Compression = (typeof COMPRESSIONS)[number];

export type NarInfo = PathInfo & {
  /** Relative to the cache's root, as parseNarUrl admits it; or whole, at an upstream. */
  readonly url: string;
  readonly compression: Compression;
  /** Of the compressed file. */
  readonly fileHash: NarHash | null;
  /** Bytes of the compressed file. */
  readonly fileSize: number | null;
  readonly deriver: StorePath | null;
  /** `name:base64`, well-formed, in the order of the file. */
  readonly sigs: readonly string[];
  readonly ca: string | null;
};

const SINGLE_KEYS = [
  'StorePath',
  'URL',
  'Compression',
  'FileHash',
  'FileSize',
  'NarHash',
  'NarSize',
  'References',
  'Deriver',
  'CA',
] as const;
type SingleKey = (typeof SINGLE_KEYS)[number];
const KNOWN: ReadonlySet<string> = new Set(SINGLE_KEYS);

const LINE = /^([A-Za-z][A-Za-z0-9-]*): (\P{Cc}*)$/u;
const URL_SEGMENT = /^(?!\.{1,2}$)[0-9A-Za-z._~!$'()*+,=-]+$/;
const URL_QUERY = /^[0-9A-Za-z._~!$'()*+,=&?/-]*$/;

/**
 * A NAR's place below its cache's root: plain segments and perhaps a query.
 * Schemes, hosts, userinfo, a leading `/`, `.` and `..` (also percent-encoded) are refused with
 * E_NARINFO, so that joining it to the cache's address can only lead below that address.
 */
export function parseNarUrl(text: string): string {
  const [path = '', ...query] = text.split('?');
  if (
    text.length <= 1024 &&
    path.split('/').every((segment) => URL_SEGMENT.test(segment)) &&
    URL_QUERY.test(query.join('?'))
  ) {
    return text;
  }
  throw new FleetError('E_NARINFO', `it leads away from the cache: ${JSON.stringify(cut(text))}`);
}

/** What a narinfo was asked for, and where else than below its own cache its NAR may be. */
export type NarInfoRules = {
  readonly hashPart?: string;
  /** Base URLs without a final slash. */
  readonly upstreams?: readonly string[];
};

/**
 * @param rules the store path must have this hash part; a whole URL must lie below one of the upstreams.
 * @throws FleetError E_NARINFO
 */
export function parseNarInfo(text: string, rules: NarInfoRules = {}): NarInfo {
  const lines = text.split('\n');
  if (lines.pop() !== '') throw bad('its last line has no newline');
  const fields = new Map<string, string>();
  const sigs: string[] = [];
  for (const line of lines) {
    const match = LINE.exec(line);
    if (match === null) throw bad(`not "Key: value": ${JSON.stringify(cut(line))}`);
    const [, key = '', value = ''] = match;
    if (key === 'Sig') sigs.push(value);
    else if (KNOWN.has(key)) {
      if (fields.has(key)) throw bad(`${key} comes twice`);
      fields.set(key, value);
    }
  }
  const field = <T>(key: SingleKey, parse: (value: string) => T): T | null => {
    const value = fields.get(key);
    return value === undefined ? null : within(key, () => parse(value));
  };
  const required = <T>(key: SingleKey, parse: (value: string) => T): T => {
    const value = field(key, parse);
    if (value === null) throw bad(`${key} is missing`);
    return value;
  };

  const path = required('StorePath', parseStorePath);
  if (rules.hashPart !== undefined && hashPartOf(path) !== rules.hashPart) {
    throw bad(`it is about ${path}, but ${rules.hashPart} was asked for`);
  }
  const narSize = required('NarSize', parseSize);
  if (narSize === 0) throw bad('NarSize is 0');
  for (const sig of sigs) within('Sig', () => parsePathSignature(sig));
  return {
    path,
    url: required('URL', (url) => parsePlace(url, rules.upstreams ?? [])),
    compression: field('Compression', parseCompression) ?? 'bzip2',
    fileHash: field('FileHash', parseNarHash),
    fileSize: field('FileSize', parseSize),
    narHash: required('NarHash', parseNarHash),
    narSize,
    references: field('References', parseReferences) ?? [],
    deriver: field('Deriver', parseDeriver),
    sigs,
    ca: field('CA', parseCa),
  };
}

/** The text that Nix itself would write, fields in its order. */
export function formatNarInfo(info: NarInfo): string {
  const lines = [`StorePath: ${info.path}`, `URL: ${info.url}`, `Compression: ${info.compression}`];
  if (info.fileHash !== null) lines.push(`FileHash: ${info.fileHash}`);
  if (info.fileSize !== null) lines.push(`FileSize: ${info.fileSize}`);
  lines.push(`NarHash: ${info.narHash}`, `NarSize: ${info.narSize}`);
  lines.push(`References: ${info.references.map(baseNameOf).join(' ')}`);
  if (info.deriver !== null) lines.push(`Deriver: ${baseNameOf(info.deriver)}`);
  for (const sig of info.sigs) lines.push(`Sig: ${sig}`);
  if (info.ca !== null) lines.push(`CA: ${info.ca}`);
  return `${lines.join('\n')}\n`;
}

/** A URL that stays below this cache, or below one of `upstreams`. */
function parsePlace(text: string, upstreams: readonly string[]): string {
  const base = upstreams.find((upstream) => text.startsWith(`${upstream}/`));
  if (base === undefined) return parseNarUrl(text);
  parseNarUrl(text.slice(base.length + 1));
  return text;
}

function parseSize(text: string): number {
  const size = Number(text);
  if (!/^(?:0|[1-9][0-9]{0,15})$/.test(text) || !Number.isSafeInteger(size)) {
    throw bad(`not a size in bytes: ${JSON.stringify(cut(text))}`);
  }
  return size;
}

function parseCompression(text: string): Compression {
  const found = COMPRESSIONS.find((name) => name === text);
  if (found === undefined) throw bad(`unknown compression ${JSON.stringify(cut(text))}`);
  return found;
}

function parseReferences(text: string): readonly StorePath[] {
  if (text === '') return [];
  const references = text.split(' ').map(parseStorePathBaseName).sort();
  // Nix writes them sorted but reads them in any order; a set has no member twice.
  const twice = references.find((reference, i) => reference === references[i - 1]);
  if (twice !== undefined) throw bad(`${twice} comes twice`);
  return references;
}

function parseDeriver(text: string): StorePath | null {
  return text === 'unknown-deriver' ? null : parseStorePathBaseName(text);
}

function parseCa(text: string): string {
  if (!/^[!-~]+$/.test(text)) throw bad('not a content address');
  return text;
}

function within<T>(key: string, parse: () => T): T {
  try {
    return parse();
  } catch (error) {
    throw bad(`${key}: ${messageOf(error).replace(/^narinfo: /, '')}`, error);
  }
}

function bad(what: string, cause?: unknown): FleetError {
  return new FleetError('E_NARINFO', `narinfo: ${what}`, { cause });
}

function cut(text: string): string {
  return text.length > 100 ? `${text.slice(0, 100)}…` : text;
}
