// Values of a pack's index (SPEC §12.3), each of the form that it must have. Whatever else they are is E_PACK_BAD.
import { FleetError } from '../errors.ts';

/** Exactly these members. */
export function members(json: unknown, names: readonly string[]): ReadonlyMap<string, unknown> {
  if (typeof json !== 'object' || json === null || Array.isArray(json))
    throw badPack('not an object');
  const map = new Map(Object.entries(json));
  if (map.size !== names.length || !names.every((name) => map.has(name))) {
    throw badPack(`members other than ${names.join(', ')}`);
  }
  return map;
}

/** An array. */
export function list(json: unknown): readonly unknown[] {
  if (!Array.isArray(json)) throw badPack('not an array');
  return json;
}

/** A string. */
export function string(json: unknown): string {
  if (typeof json !== 'string') throw badPack('not a string');
  return json;
}

/** An integer from 0 to 2^53 - 1. */
export function integer(json: unknown): number {
  if (!Number.isSafeInteger(json) || Number(json) < 0) throw badPack('not an integer from 0 on');
  return Number(json);
}

/** The one of `items` that `json` is the index of. */
export function at<T>(items: readonly T[], json: unknown): T {
  const item = items[integer(json)];
  if (item === undefined) throw badPack(`there is no number ${integer(json)}`);
  return item;
}

export function badPack(what: string, cause?: unknown): FleetError {
  return new FleetError('E_PACK_BAD', `the update pack is malformed: ${what}`, { cause });
}
