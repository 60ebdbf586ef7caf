// The schemas of fields that several documents share (SPEC §1.5). Each accepts one spelling of a
// value; those with a meaning of their own (store paths, keys, times) are checked by its parser. TypeBox is imported as
// `* as Type` everywhere, so that the published package has of it only what is named.
import type { TSchema } from 'typebox';
import * as Type from 'typebox';
import { parseFleetName } from '../config.ts';
import { isPublicKey, type PublicKey } from '../keyfile.ts';
import { parseStorePath, type StorePath } from '../nix/storepath.ts';
import { parseTime } from './time.ts';

/** An object without fields other than these. */
export function Exact<Fields extends Record<string, TSchema>>(fields: Fields) {
  return Type.Object(fields, { additionalProperties: false });
}

export function Nullable<Schema extends TSchema>(schema: Schema) {
  return Type.Union([schema, Type.Null()]);
}

function accepts(parse: (text: string) => unknown): (text: string) => boolean {
  return (text) => {
    try {
      parse(text);
      return true;
    } catch {
      return false;
    }
  };
}

const HOST_ID = '^[a-z0-9-]{1,63}$';

/** True for a host's name: 1 to 63 of a-z, 0-9 and the hyphen. */
export function isHostId(text: string): boolean {
  return new RegExp(HOST_ID).test(text);
}

export const HostId = Type.String({ pattern: HOST_ID });
export const FleetName = Type.Refine(
  Type.String(),
  accepts(parseFleetName),
  () => 'must be a name such as "fleet.example.org": lowercase labels and dots',
);
export const System = Type.String({ pattern: '^[a-z0-9_]{1,32}-[a-z0-9]{1,32}$' });

/** A whole number from 0, and one from 1. */
export const Count = Type.Integer({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER });
export const Ordinal = Type.Integer({ minimum: 1, maximum: Number.MAX_SAFE_INTEGER });

/** SHA-256 in 64 lowercase hex digits. */
export const Sha256 = Type.String({ pattern: '^[0-9a-f]{64}$' });

/** One line of text for people. */
export const Line = Type.String({ pattern: '^\\P{Cc}{0,1024}$' });

export const StorePathText = Type.Unsafe<StorePath>(
  Type.Refine(Type.String(), accepts(parseStorePath), () => 'must be a store path'),
);

export const PublicKeyText = Type.Unsafe<PublicKey>(
  Type.Refine(
    Type.String(),
    isPublicKey,
    () => 'must be an admissible Ed25519 public key in standard base64',
  ),
);

export const Time = Type.Refine(
  Type.String(),
  accepts(parseTime),
  () => 'must be a time such as 2026-01-31T23:59:59Z',
);
