// What Nix writes of the outputs of content-addressed derivations, text ↔ what a cache keeps of it:
// `realisations/<id>.doi` (Nix up to 2.34, Lix: libstore/realisation.cc) and, from Nix 2.35 on,
// `build-trace-v2/<derivation>/<output>.doi`. Clients check the signatures; a cache only keeps form:
// known fields, an output path, an id that is the key's.
import { FleetError } from '../errors.ts';
import { parsePathSignature } from './signature.ts';
import { parseStorePathBaseName, type StorePath } from './storepath.ts';

export type Realisation = {
  /** The path of its URL, without a leading slash. */
  readonly key: string;
  readonly outPath: StorePath;
  /** The document as it is served. */
  readonly json: string;
};

const MAX_BYTES = 64 * 1024;
const ID = /^sha256:[0-9a-f]{64}![0-9A-Za-z+._?=-]{1,211}$/;
const OLD_KEY = /^realisations\/(.+)\.doi$/;
const NEW_KEY = /^build-trace-v2\/([^/]+\.drv)\/([0-9A-Za-z+._?=-]{1,211})\.doi$/;
const FIELDS: ReadonlySet<string> = new Set([
  'id',
  'outPath',
  'signatures',
  'dependentRealisations',
]);

/** Whether `key` is one under which a realisation can be. */
export function isRealisationKey(key: string): boolean {
  const id = OLD_KEY.exec(key)?.[1];
  if (id !== undefined) return ID.test(id);
  const drv = NEW_KEY.exec(key)?.[1];
  if (drv === undefined) return false;
  try {
    parseStorePathBaseName(drv);
    return true;
  } catch {
    return false;
  }
}

/** @throws FleetError E_REALISATION naming what is wrong */
export function parseRealisation(key: string, text: string): Realisation {
  if (!isRealisationKey(key)) throw bad(`${JSON.stringify(key.slice(0, 300))} names none`);
  if (Buffer.byteLength(text) > MAX_BYTES) throw bad(`over ${MAX_BYTES} bytes`);
  const fields = objectOf(text);
  for (const name of fields.keys()) if (!FIELDS.has(name)) throw bad(`unknown field "${name}"`);
  const id = fields.get('id');
  const expected = OLD_KEY.exec(key)?.[1];
  if (id !== expected) throw bad('its id is not that of its address');
  const signatures = fields.get('signatures') ?? [];
  if (!Array.isArray(signatures) || signatures.length > 100) throw bad('signatures are no list');
  for (const signature of signatures) guarded('signature', () => parsePathSignature(signature));
  const dependent = fields.get('dependentRealisations') ?? {};
  if (typeof dependent !== 'object' || dependent === null || Array.isArray(dependent)) {
    throw bad('dependentRealisations is no object');
  }
  for (const [name, path] of Object.entries(dependent)) {
    if (!ID.test(name)) throw bad('dependentRealisations names no realisation');
    guarded('dependentRealisations', () => parseStorePathBaseName(path as string));
  }
  const outPath = guarded('outPath', () => parseStorePathBaseName(fields.get('outPath') as string));
  return { key, outPath, json: JSON.stringify(Object.fromEntries(fields)) };
}

function objectOf(text: string): Map<string, unknown> {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (cause) {
    throw bad('not JSON', cause);
  }
  if (typeof json !== 'object' || json === null || Array.isArray(json)) throw bad('no object');
  return new Map(Object.entries(json));
}

function guarded<T>(what: string, parse: () => T): T {
  try {
    return parse();
  } catch (cause) {
    throw bad(`its ${what} is malformed`, cause);
  }
}

function bad(what: string, cause?: unknown): FleetError {
  return new FleetError('E_REALISATION', `realisation: ${what}`, { cause });
}
