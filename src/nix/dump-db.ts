// `nix-store --dump-db` → path infos: the quick way to ask what a store's database says of many paths,
// and of one shape from Nix 2.3 to 2.36 and in Lix (Store::makeValidityRegistration), unlike
// `nix path-info --json`. Per path, a line each: path, SHA-256 of the NAR in hex, NAR size, deriver
// (may be empty), number of references, then one line per reference.
// Refuses anything else, E_NIX_OUTPUT naming the line.
import { FleetError } from '../errors.ts';
import type { PathInfo } from './closure.ts';
import { parseNarHash } from './hash.ts';
import { parseStorePath, type StorePath } from './storepath.ts';

/** What the store's database holds of a path. `narSize` 0: registered by a Nix that did not count. */
export type RegisteredPath = PathInfo & { readonly deriver: StorePath | null };

/** Paths in the order of `text`, references sorted bytewise. */
export function parseDumpDb(text: string): RegisteredPath[] {
  const infos: RegisteredPath[] = [];
  let at = 0;
  let lineNumber = 0;
  const refuse = (what: string, cause?: unknown): never => {
    throw new FleetError('E_NIX_OUTPUT', `nix-store --dump-db, line ${lineNumber}: ${what}`, {
      cause,
    });
  };
  const line = (): string => {
    lineNumber += 1;
    const end = text.indexOf('\n', at);
    if (end === -1) return refuse('ends too early');
    const found = text.slice(at, end);
    at = end + 1;
    return found;
  };
  const parsed = <T>(parse: (text: string) => T): T => {
    const found = line();
    try {
      return parse(found);
    } catch (error) {
      return refuse(JSON.stringify(found.slice(0, 300)), error);
    }
  };
  while (at < text.length) {
    const path = parsed(parseStorePath);
    const narHash = parsed((hex) => parseNarHash(`sha256:${/^[0-9a-f]{64}$/.exec(hex)?.[0]}`));
    const narSize = parsed(parseCount);
    const deriver = parsed((text) => (text === '' ? null : parseStorePath(text)));
    const count = parsed(parseCount);
    const references: StorePath[] = [];
    // Ends at the end of the text at the latest, however large the count claims to be.
    for (let i = 0; i < count; i += 1) references.push(parsed(parseStorePath));
    references.sort();
    if (references.some((reference, i) => reference === references[i - 1])) {
      refuse(`a reference of ${path} is there twice`);
    }
    infos.push({ path, narHash, narSize, references, deriver });
  }
  return infos;
}

function parseCount(text: string): number {
  const value = /^(0|[1-9][0-9]{0,15})$/.test(text) ? Number(text) : Number.NaN;
  if (!Number.isSafeInteger(value)) throw new RangeError('not a count');
  return value;
}
