// The NAR format's fixed parts, shared by the reader and the writers (Nix manual, "Nix Archive
// (NAR) format"; Dolstra 2006, figure 5.2): its events, its caps, and what a name may be.
// Every token is a 64-bit little-endian length, the bytes, and zeros up to a multiple of 8.
// Names and link targets are bytes: they are strings of one character per byte (latin1), so that
// nothing is merged, lost or normalised, and so that `<` compares them bytewise.

import { FleetError } from '../errors.ts';

/**
 * A NAR in the order of its bytes. `name` is null for the root, else the entry's name in the
 * directory that was entered last and not left yet. A `file` is followed by `contents` whose data
 * add up to `size` (none when it is 0).
 */
export type NarEvent =
  | { readonly type: 'directory'; readonly name: string | null }
  | { readonly type: 'leave' }
  | {
      readonly type: 'file';
      readonly name: string | null;
      readonly executable: boolean;
      readonly size: number;
    }
  | { readonly type: 'contents'; readonly data: Uint8Array }
  | { readonly type: 'symlink'; readonly name: string | null; readonly target: string };

export const MAGIC = 'nix-archive-1';
/** Longest of the format's own words that a reader takes in. */
export const MAX_TAG = 32;
export const MAX_NAME = 255;
export const MAX_TARGET = 4095;
/** A node may have at most this many directories above it (CVE-2026-44028). */
export const MAX_DEPTH = 63;

/** What Nix appends on case-insensitive systems; in an archive it could only be meant to confuse. */
const CASE_HACK = '~nix~case~hack~';

/** What is wrong with a directory entry's name, or undefined. */
export function nameFault(name: string): string | undefined {
  if (name === '') return 'an empty name';
  if (name === '.' || name === '..') return `the name ${name}`;
  if (name.includes('/') || name.includes('\0')) return 'a name with a slash or a NUL';
  if (name.length > MAX_NAME) return `a name of ${name.length} bytes`;
  if (name.includes(CASE_HACK)) return `a name with ${CASE_HACK}`;
  return undefined;
}

/** What is wrong with a symlink's target, or undefined. */
export function targetFault(target: string): string | undefined {
  if (target === '') return 'an empty symlink target';
  if (target.includes('\0')) return 'a symlink target with a NUL';
  if (target.length > MAX_TARGET) return `a symlink target of ${target.length} bytes`;
  return undefined;
}

/** Zeros that follow `length` bytes. */
export function paddingOf(length: number): number {
  return (8 - (length % 8)) % 8;
}

/** A byte string as people read it: UTF-8 where it is, quoted. */
export function showBytes(bytes: string): string {
  const text = JSON.stringify(Buffer.from(bytes, 'latin1').toString());
  return text.length > 300 ? `${text.slice(0, 300)}…` : text;
}

export function badNar(what: string): FleetError {
  return new FleetError('E_NAR_BAD', `malformed NAR: ${what}`);
}
