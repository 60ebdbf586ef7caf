// JSON text of one of the agent's own files → a typed record, strictly: every field present (but those that came later) and of its
// type. Anything else is corrupt state, which is not lost state: it is refused by name and never repaired by guessing. Fields that
// nobody knows are passed over: a newer agent wrote them, whose update was undone, perhaps by the watchdog of an older one that reads
// this. What such an agent must not read has another version. Only in files that people edit are they refused.
import { basename } from 'node:path';
import { FleetError, messageOf } from '../errors.ts';

/** Turns a JSON value into T, or throws a TypeError that says what it must be. */
export type Reader<T> = ((value: unknown) => T) & {
  /** What a field is that is not there; it must be there where this is absent. */
  readonly fallback?: T;
};

export type Fields<T> = { readonly [K in keyof T]-?: Reader<T[K]> };

/**
 * Parses `{"version": 1, …fields}`; `file` names it in errors. `isEdited`: people write in it, and misspell.
 * @throws FleetError E_AGENT_STATE_CORRUPT; E_STATE_NEWER for a later version.
 */
export function parseRecord<T extends object>(
  text: string,
  file: string,
  fields: Fields<T>,
  isEdited = false,
): T {
  try {
    const json = new Map(Object.entries(plainObject(JSON.parse(text))));
    const version = json.get('version');
    if (Number.isSafeInteger(version) && Number(version) > 1) {
      throw new FleetError('E_STATE_NEWER', `${file} was written by a newer fleet`);
    }
    if (version !== 1) throw new TypeError('"version" must be 1');
    json.delete('version');
    const unknown = [...json.keys()].find((name) => !Object.hasOwn(fields, name));
    if (isEdited && unknown !== undefined) {
      throw new TypeError(`unknown key ${JSON.stringify(unknown)}`);
    }
    return record(fields)(Object.fromEntries(json));
  } catch (cause) {
    if (cause instanceof FleetError) throw cause;
    throw corrupt(file, messageOf(cause), cause);
  }
}

/** Those fields of a damaged record that can be read all the same, each by itself. Throws nothing. */
export function salvageRecord<T extends object>(text: string, fields: Fields<T>): Partial<T> {
  const left: Partial<T> = {};
  try {
    const json = new Map(Object.entries(plainObject(JSON.parse(text))));
    for (const [name, read] of Object.entries<Reader<unknown>>(fields)) {
      try {
        if (json.has(name)) Object.assign(left, { [name]: read(json.get(name)) });
      } catch {
        // This one is lost.
      }
    }
  } catch {
    // All are.
  }
  return left;
}

/** These come from enrolment alone. */
const IDENTITY: ReadonlySet<string> = new Set(['agent.json', 'host-key.pem', 'token']);

/** The error for a state file that is there but not as the agent wrote it, or that must be there and is not. */
export function corrupt(file: string, why: string, cause?: unknown): FleetError {
  const hint =
    'restore it from a backup; or move the state directory away and enrol again (server: fleet host enroll HOST --replace)';
  const isIdentity = IDENTITY.has(basename(file));
  return new FleetError('E_AGENT_STATE_CORRUPT', `${file} is damaged: ${why}`, {
    cause,
    ...(isIdentity ? { hint } : {}),
  });
}

/** The text that parseRecord reads. */
export function formatRecord(record: object): string {
  return `${JSON.stringify({ version: 1, ...record }, null, 2)}\n`;
}

/** A field that files of an older fleet do not have. */
export function since<T>(fallback: T, read: Reader<T>): Reader<T> {
  return Object.assign((value: unknown) => read(value), { fallback });
}

/** An object with these fields; others are left out. */
export function record<T extends object>(fields: Fields<T>): Reader<T> {
  const known = new Map(Object.entries<Reader<unknown>>(fields));
  return (value) => {
    const given = new Map(Object.entries(plainObject(value)));
    const result: Record<string, unknown> = {};
    for (const [name, read] of known) {
      if (!given.has(name) && read.fallback !== undefined) {
        result[name] = read.fallback;
        continue;
      }
      if (!given.has(name)) throw new TypeError(`"${name}" is missing`);
      try {
        result[name] = read(given.get(name));
      } catch (cause) {
        throw new TypeError(`"${name}" ${messageOf(cause)}`, { cause });
      }
    }
    return result as T;
  };
}

export const string: Reader<string> = (value) => {
  if (typeof value !== 'string') throw new TypeError('must be a string');
  return value;
};

export const boolean: Reader<boolean> = (value) => {
  if (typeof value !== 'boolean') throw new TypeError('must be true or false');
  return value;
};

export function integer(low: number, high: number = Number.MAX_SAFE_INTEGER): Reader<number> {
  return (value) => {
    if (Number.isSafeInteger(value) && Number(value) >= low && Number(value) <= high) {
      return Number(value);
    }
    throw new TypeError(`must be a whole number from ${low} to ${high}`);
  };
}

export function matching(pattern: RegExp, what: string): Reader<string> {
  return (value) => {
    if (typeof value === 'string' && pattern.test(value)) return value;
    throw new TypeError(`must be ${what}`);
  };
}

/** SHA-256 in lowercase hex. */
export const digest: Reader<string> = matching(/^[0-9a-f]{64}$/, '64 lowercase hex digits');

export function oneOf<const T extends string>(words: readonly T[]): Reader<T> {
  return (value) => {
    const found = words.find((word) => word === value);
    if (found === undefined) throw new TypeError(`must be one of ${words.join(', ')}`);
    return found;
  };
}

export function nullable<T>(read: Reader<T>): Reader<T | null> {
  return (value) => (value === null ? null : read(value));
}

export function list<T>(read: Reader<T>): Reader<readonly T[]> {
  return (value) => {
    if (!Array.isArray(value)) throw new TypeError('must be a list');
    return value.map(read);
  };
}

/** A text that `parse` accepts. */
export function parsedBy<T>(parse: (text: string) => T): Reader<T> {
  return (value) => parse(string(value));
}

function plainObject(value: unknown): object {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new TypeError('must be a JSON object');
  }
  return value;
}
