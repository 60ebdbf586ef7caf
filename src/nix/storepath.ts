// Store paths: text to a branded type, once, at the door. A store path is
// /nix/store/<32 digits of nix32>-<name> (Nix manual, "Store Path"; libstore/path.cc).
// Refuses other store directories, anything below a path, a hash part with a foreign digit, and
// names that are empty, over 211 characters, hold other characters than Nix allows, or read as
// `.` or `..` (alone or before a dash).

import { FleetError } from '../errors.ts';
import { BASE32_CLASS } from './base32.ts';

/** A full store path, such as `/nix/store/<32 nix32>-hello-2.12`. */
export type StorePath = string & { readonly __brand: 'StorePath' };

/** The only store directory that fleet serves: hashes of store paths depend on it. */
export const STORE_DIR = '/nix/store';

const HASH_PART = new RegExp(`^[${BASE32_CLASS}]{32}$`);
const BASE_NAME = new RegExp(
  `^[${BASE32_CLASS}]{32}-(?!\\.{1,2}(?:-|$))[0-9A-Za-z+\\-._?=]{1,211}$`,
);
const PREFIX = `${STORE_DIR}/`;

/** True for the 32 digits that start a store path's base name. */
export function isHashPart(text: string): boolean {
  return HASH_PART.test(text);
}

/** `/nix/store/<hash>-<name>` and nothing below it; else E_STORE_PATH. */
export function parseStorePath(text: string): StorePath {
  if (text.startsWith(PREFIX) && BASE_NAME.test(text.slice(PREFIX.length))) {
    return text as StorePath;
  }
  throw refusal(text);
}

/** `<hash>-<name>` as narinfo files write it; else E_STORE_PATH. */
export function parseStorePathBaseName(text: string): StorePath {
  if (BASE_NAME.test(text)) return `${PREFIX}${text}` as StorePath;
  throw refusal(text);
}

/** `<hash>-<name>` */
export function baseNameOf(path: StorePath): string {
  return path.slice(PREFIX.length);
}

/** The 32 digits under which binary caches keep a path's narinfo. */
export function hashPartOf(path: StorePath): string {
  return path.slice(PREFIX.length, PREFIX.length + 32);
}

/** The human part, such as `hello-2.12`. */
export function nameOf(path: StorePath): string {
  return path.slice(PREFIX.length + 33);
}

function refusal(text: string): FleetError {
  const shown = text.length > 300 ? `${text.slice(0, 300)}…` : text;
  return new FleetError('E_STORE_PATH', `not a store path: ${JSON.stringify(shown)}`);
}

/** The order of names and paths, which are ASCII: bytewise, as in closure.fp. */
export function compareBytewise(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
