// What Nix writes of the outputs of content-addressed derivations, text → what a cache keeps of it:
// `realisations/<id>.doi` (Nix up to 2.34, Lix: libstore/realisation.cc) and, from Nix 2.35 on,
// `build-trace-v2/<derivation>/<output>.doi`, which leaves the id to its address. Clients check the
// signatures; a cache only sees to the form, so that what it serves can be read.
// Refuses unknown fields, another id than the address has, what is no output path, and signatures that are
// none. What is kept is written anew, fields in Nix's order, each once.
import { FleetError } from '../errors.ts';
import { parsePathSignature } from './signature.ts';
import { baseNameOf, parseStorePathBaseName, type StorePath } from './storepath.ts';

export type Realisation = {
  /** The path of its URL, without a leading slash. */
  readonly key: string;
  readonly outPath: StorePath;
  /** The document as it is served. */
  readonly json: string;
};

const MAX_BYTES = 64 * 1024;
const OUTPUT = '[0-9A-Za-z+._?=-]{1,211}';
const ID = new RegExp(`^sha256:[0-9a-f]{64}!${OUTPUT}$`);
const OLD_KEY = /^realisations\/(.+)\.doi$/;
const NEW_KEY = new RegExp(`^build-trace-v2/([^/]+\\.drv)/${OUTPUT}\\.doi$`);
const OLD_FIELDS = ['dependentRealisations', 'id', 'outPath', 'signatures'];
const NEW_FIELDS = ['outPath', 'signatures'];

/** Whether `key` (a path without a leading slash, percent-decoded) is one under which a realisation can be. */
export function isRealisationKey(key: string): boolean {
  const id = OLD_KEY.exec(key)?.[1];
  if (id !== undefined) return ID.test(id);
  const drv = NEW_KEY.exec(key)?.[1];
  return drv !== undefined && isBaseName(drv);
}

/** @throws FleetError E_REALISATION naming what is wrong */
export function parseRealisation(key: string, text: string): Realisation {
  if (!isRealisationKey(key)) throw bad(`${JSON.stringify(key.slice(0, 300))} names none`);
  if (Buffer.byteLength(text) > MAX_BYTES) throw bad(`over ${MAX_BYTES} bytes`);
  const id = OLD_KEY.exec(key)?.[1];
  const fields = objectOf(parseJson(text), 'the document');
  const known = id === undefined ? NEW_FIELDS : OLD_FIELDS;
  const unknown = [...fields.keys()].find((name) => !known.includes(name));
  if (unknown !== undefined) throw bad(`unknown field ${JSON.stringify(unknown.slice(0, 100))}`);
  if (fields.get('id') !== id) throw bad('its id is not that of its address');

  const outPath = storePathOf(fields.get('outPath'), 'outPath');
  const dependent = dependentOf(fields.get('dependentRealisations') ?? {});
  const document = {
    ...(id === undefined ? {} : { dependentRealisations: Object.fromEntries(dependent), id }),
    outPath: baseNameOf(outPath),
    signatures: signaturesOf(fields.get('signatures') ?? []),
  };
  return { key, outPath, json: JSON.stringify(document) };
}

/** The id of every realisation that this one was made with, and its output's base name. */
function dependentOf(value: unknown): (readonly [string, string])[] {
  const entries = [...objectOf(value, 'dependentRealisations')].sort(([a], [b]) =>
    a < b ? -1 : 1,
  );
  return entries.map(([name, path]) => {
    if (!ID.test(name)) throw bad('dependentRealisations names no realisation');
    return [name, baseNameOf(storePathOf(path, 'dependentRealisations'))];
  });
}

/** Texts up to Nix 2.33, objects of key name and signature from then on; each stays as it is. */
function signaturesOf(value: unknown): unknown[] {
  if (!Array.isArray(value)) throw bad('signatures are no list');
  return value.map((each: unknown) => {
    if (typeof each === 'string') return signatureOf(each);
    const parts = objectOf(each, 'a signature');
    const [keyName, sig] = [parts.get('keyName'), parts.get('sig')];
    if (parts.size !== 2 || typeof keyName !== 'string' || typeof sig !== 'string') {
      throw bad('a signature is not its key name and its bytes');
    }
    signatureOf(`${keyName}:${sig}`);
    return { keyName, sig };
  });
}

function signatureOf(text: string): string {
  try {
    parsePathSignature(text);
    return text;
  } catch (cause) {
    throw bad('a signature is malformed', cause);
  }
}

function storePathOf(value: unknown, field: string): StorePath {
  try {
    if (typeof value === 'string') return parseStorePathBaseName(value);
  } catch (cause) {
    throw bad(`${field} is no store path`, cause);
  }
  throw bad(`${field} is no store path`);
}

function isBaseName(text: string): boolean {
  try {
    parseStorePathBaseName(text);
    return true;
  } catch {
    return false;
  }
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw bad('not JSON', cause);
  }
}

function objectOf(value: unknown, what: string): Map<string, unknown> {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) {
    return new Map(Object.entries(value));
  }
  throw bad(`${what} is no object`);
}

function bad(what: string, cause?: unknown): FleetError {
  return new FleetError('E_REALISATION', `realisation: ${what}`, { cause });
}
