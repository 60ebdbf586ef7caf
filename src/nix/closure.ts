// closure.fp: every path of a system's closure as the fingerprint that Nix signs, one per line
// (SPEC §4.5): bytes to a map, and back.
// Refuses, each with its own code: any other form than the one that formatClosure writes
// (E_CLOSURE_FORM); a reference or a toplevel without a line (E_CLOSURE_MISSING); a line that the
// toplevel does not need (E_CLOSURE_UNREACHABLE). Linear in the bytes, and never recursive.

import { FleetError } from '../errors.ts';
import { isNarHash, type NarHash } from './hash.ts';
import { fingerprintOf } from './signature.ts';
import { compareBytewise, parseStorePath, type StorePath } from './storepath.ts';

/** What a signature covers about a store path. */
export type PathInfo = {
  readonly path: StorePath;
  readonly narHash: NarHash;
  /** Bytes of the NAR, from 1 to 2^53 - 1. */
  readonly narSize: number;
  /** Strictly increasing bytewise; the path itself is among them when it refers to itself. */
  readonly references: readonly StorePath[];
};

export type Closure = {
  readonly toplevel: StorePath;
  /** In the order of the file: sorted by path. */
  readonly paths: ReadonlyMap<StorePath, PathInfo>;
  /** Sum of all NAR sizes. */
  readonly narBytes: number;
};

/** Bytes of the NARs of `infos` together. */
export function narBytesOf(infos: readonly Pick<PathInfo, 'narSize'>[]): number {
  return infos.reduce((sum, { narSize }) => sum + narSize, 0);
}

/** closure.fp of `infos`, given in any order. E_CLOSURE_FORM when a path comes twice. */
export function formatClosure(infos: Iterable<PathInfo>): Buffer {
  const sorted = [...infos].sort((a, b) => compareBytewise(a.path, b.path));
  let previous = '';
  const lines: string[] = [];
  for (const info of sorted) {
    if (info.path === previous) throw form(`${info.path} is listed twice`);
    if (!strictlyIncreasing(info.references)) {
      throw form(`the references of ${info.path} are not in order`);
    }
    previous = info.path;
    lines.push(fingerprintOf(info), '\n');
  }
  return Buffer.from(lines.join(''), 'latin1');
}

/**
 * The closure of `toplevel`, whose bytes the caller has compared with a signed hash and size.
 * @throws FleetError E_CLOSURE_FORM, E_CLOSURE_MISSING, E_CLOSURE_UNREACHABLE
 */
export function parseClosure(bytes: Uint8Array, toplevel: StorePath): Closure {
  const lines = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length)
    .toString('latin1')
    .split('\n');
  if (lines.length === 1 && lines[0] === '') throw form('it is empty');
  if (lines.pop() !== '') throw form('its last line has no newline');

  const known = new Map<string, StorePath>();
  const rows: { path: StorePath; narHash: NarHash; narSize: number; references: string }[] = [];
  let previous = '';
  let narBytes = 0;
  for (const [index, line] of lines.entries()) {
    const row = parseLine(line, index + 1);
    if (row.path <= previous) throw form(`line ${index + 1} is not sorted by path, or comes twice`);
    previous = row.path;
    narBytes += row.narSize;
    if (!Number.isSafeInteger(narBytes)) throw form('its NAR sizes add up to 2^53 or more');
    known.set(row.path, row.path);
    rows.push(row);
  }

  const paths = new Map<StorePath, PathInfo>();
  for (const { path, narHash, narSize, references } of rows) {
    paths.set(path, { path, narHash, narSize, references: resolve(references, path, known) });
  }
  refuseUnreachable(paths, toplevel);
  return { toplevel, paths, narBytes };
}

function parseLine(line: string, number: number) {
  const [version, path, narHash, narSize, references, ...more] = line.split(';');
  if (version !== '1' || references === undefined || more.length > 0) {
    throw form(`line ${number} is not 1;path;hash;size;references`);
  }
  if (path === undefined || narHash === undefined || !isNarHash(narHash)) {
    throw form(`line ${number} has no hash sha256:<52 nix32>`);
  }
  const size = Number(narSize);
  if (!/^[1-9][0-9]{0,15}$/.test(narSize ?? '') || !Number.isSafeInteger(size)) {
    throw form(`line ${number} has a NAR size that is not a decimal from 1 to 2^53 - 1`);
  }
  return { path: storePath(path, number), narHash, narSize: size, references };
}

function storePath(text: string, number: number): StorePath {
  try {
    return parseStorePath(text);
  } catch (error) {
    throw form(`line ${number} names something that is not a store path`, error);
  }
}

/**
 * The references of one line. A text that is a line's path needs no second look, which is why
 * store paths are parsed here only to tell a missing line from a malformed one.
 */
function resolve(
  list: string,
  path: StorePath,
  known: ReadonlyMap<string, StorePath>,
): readonly StorePath[] {
  if (list === '') return [];
  const references: StorePath[] = [];
  for (const text of list.split(',')) {
    const reference = known.get(text);
    if (reference === undefined) {
      try {
        parseStorePath(text);
      } catch (error) {
        throw form(`${path} refers to something that is not a store path`, error);
      }
      throw new FleetError('E_CLOSURE_MISSING', `${path} refers to ${text}, which has no line`);
    }
    references.push(reference);
  }
  if (!strictlyIncreasing(references)) throw form(`the references of ${path} are not in order`);
  return references;
}

function refuseUnreachable(paths: ReadonlyMap<StorePath, PathInfo>, toplevel: StorePath): void {
  const start = paths.get(toplevel);
  if (start === undefined) {
    throw new FleetError('E_CLOSURE_MISSING', `the closure has no line for ${toplevel} itself`);
  }
  const reached = new Set<StorePath>([toplevel]);
  const open = [start];
  for (let info = open.pop(); info !== undefined; info = open.pop()) {
    for (const reference of info.references) {
      const next = paths.get(reference);
      if (next === undefined || reached.has(reference)) continue;
      reached.add(reference);
      open.push(next);
    }
  }
  for (const path of paths.keys()) {
    if (!reached.has(path)) {
      throw new FleetError('E_CLOSURE_UNREACHABLE', `${toplevel} does not need ${path}`);
    }
  }
}

function strictlyIncreasing(texts: readonly string[]): boolean {
  return texts.every((text, i) => i === 0 || (texts[i - 1] ?? '') < text);
}

function form(what: string, cause?: unknown): FleetError {
  return new FleetError('E_CLOSURE_FORM', `the closure file is malformed: ${what}`, { cause });
}
