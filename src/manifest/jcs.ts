// JSON values ↔ their one canonical text: the JSON Canonicalization Scheme, RFC 8785 (SPEC §1.1).
// `parseCanonical` is the strict profile for everything that is signed (SPEC §1.2): it refuses floats,
// integers of 2^53 or more, lone surrogates, duplicate keys, -0, nesting deeper than 32, and any
// bytes that are not exactly JCS(parse(bytes)).
import { FleetError } from '../errors.ts';

export type Json = null | boolean | number | string | readonly Json[] | JsonObject;
/** Made by JSON.parse only, which makes `__proto__` an ordinary key. */
export type JsonObject = { readonly [key: string]: Json };

/** Arrays and objects may nest this deep. */
export const MAX_DEPTH = 32;

/**
 * The canonical JSON text of `value` (RFC 8785): no white space, keys sorted by UTF-16 code units,
 * numbers and strings as ECMAScript writes them.
 * @throws FleetError E_PAYLOAD_FORM for what JSON cannot say (undefined, NaN, functions, lone
 *   surrogates, objects that are not plain) and for nesting deeper than MAX_DEPTH.
 */
export function canonicalize(value: unknown): string {
  return write(value, 0);
}

/** `canonicalize` in UTF-8: the bytes that are signed and hashed. */
export function canonicalBytes(value: unknown): Uint8Array {
  return new TextEncoder().encode(canonicalize(value));
}

/**
 * Parses the bytes of a signed payload.
 * @throws FleetError E_PAYLOAD_FORM unless they are canonical and within the profile.
 */
export function parseCanonical(bytes: Uint8Array): Json {
  let text: string;
  let value: Json;
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
    value = JSON.parse(text) as Json;
  } catch {
    // Without the engine's message, which quotes the text: a secret may have been given by mistake.
    throw new FleetError('E_PAYLOAD_FORM', 'the payload is not JSON');
  }
  // Duplicate keys, -0, escapes and spacing all come out differently than they went in.
  if (canonicalize(value) !== text) {
    refuse('the payload is not canonical JSON, or has a duplicate key');
  }
  requireIntegers(value);
  return value;
}

function write(value: unknown, depth: number): string {
  if (depth > MAX_DEPTH) refuse(`the payload nests deeper than ${MAX_DEPTH}`);
  switch (typeof value) {
    case 'boolean':
      return value ? 'true' : 'false';
    case 'number':
      if (!Number.isFinite(value)) refuse(`${value} is not a JSON number`);
      // RFC 8785 §3.2.2.3 is ECMAScript's own number formatting; -0 becomes 0.
      return String(value);
    case 'string':
      return writeString(value);
    case 'object':
      if (value === null) return 'null';
      if (Array.isArray(value)) {
        return `[${Array.from(value, (item) => write(item, depth + 1)).join(',')}]`;
      }
      return writeObject(value, depth);
    default:
      return refuse(`a value of type ${typeof value} is not JSON`);
  }
}

function writeObject(value: object, depth: number): string {
  const prototype: unknown = Object.getPrototypeOf(value);
  if (prototype !== Object.prototype && prototype !== null) {
    refuse('only plain objects are JSON');
  }
  // The default sort compares UTF-16 code units, as RFC 8785 §3.2.3 asks.
  const members = new Map<string, unknown>(Object.entries(value));
  return `{${[...members.keys()]
    .sort()
    .map((key) => `${writeString(key)}:${write(members.get(key), depth + 1)}`)
    .join(',')}}`;
}

function writeString(text: string): string {
  if (!text.isWellFormed()) refuse('a string has a lone surrogate');
  return JSON.stringify(text);
}

function requireIntegers(value: Json): void {
  if (typeof value === 'number') {
    if (!Number.isSafeInteger(value)) {
      refuse(`${value} is not a whole number below 2^53`);
    }
  } else if (typeof value === 'object' && value !== null) {
    for (const item of Object.values(value)) requireIntegers(item);
  }
}

function refuse(message: string): never {
  throw new FleetError('E_PAYLOAD_FORM', message);
}
