// A content address (`CA` of a narinfo) against the path and the bytes it is claimed for: the store path
// is computed from it as Nix does (libstore/store-api.cc, makeStorePath), and the hash in it must be
// that of the bytes. A client takes content-addressed paths without a signature, so a false claim must
// not be handed on.
import { createHash } from 'node:crypto';
import { FleetError, messageOf } from '../errors.ts';
import { encodeBase32 } from './base32.ts';
import type { PathInfo } from './closure.ts';
import { type NarHash, narHashHex, parseNarHash } from './hash.ts';
import { nameOf, parseStorePathBaseName, STORE_DIR, type StorePath } from './storepath.ts';

const FORM = /^(text|fixed):(r:)?(sha256:.+)$/;

/**
 * @param flatHash SHA-256 of the contents, where the path is one regular file; else null.
 * @returns `unverifiable` for kinds and algorithms that cannot be recomputed here.
 * @throws FleetError E_UPLOAD_CA when the claim is false.
 */
export function checkContentAddress(
  info: PathInfo & { readonly ca: string },
  flatHash: NarHash | null,
): 'verified' | 'unverifiable' {
  const [, kind, recursive, hashText] = FORM.exec(info.ca) ?? [];
  if (hashText === undefined || (kind === 'text' && recursive !== undefined)) {
    return 'unverifiable';
  }
  const claimed = claimedHash(info, hashText);
  const actual = kind === 'fixed' && recursive !== undefined ? info.narHash : flatHash;
  if (claimed !== actual) throw falseClaim(info, 'its bytes have another hash');
  const self = info.references.includes(info.path);
  const others = info.references.filter((path) => path !== info.path);
  const path =
    kind === 'text'
      ? makeStorePath(['text', ...others].join(':'), narHashHex(claimed), info)
      : recursive !== undefined
        ? makeStorePath(
            ['source', ...others, ...(self ? ['self'] : [])].join(':'),
            narHashHex(claimed),
            info,
          )
        : makeStorePath('output:out', sha256Hex(`fixed:out:sha256:${narHashHex(claimed)}:`), info);
  const mayRefer = kind === 'text' ? !self : recursive !== undefined || others.length === 0;
  if (path !== info.path || !mayRefer) throw falseClaim(info, `it makes the path ${path}`);
  return 'verified';
}

function claimedHash(info: PathInfo & { readonly ca: string }, text: string): NarHash {
  try {
    return parseNarHash(text);
  } catch (cause) {
    throw falseClaim(info, messageOf(cause), cause);
  }
}

function makeStorePath(type: string, hashHex: string, info: PathInfo): StorePath {
  const name = nameOf(info.path);
  const digest = createHash('sha256')
    .update(`${type}:sha256:${hashHex}:${STORE_DIR}:${name}`)
    .digest();
  const folded = new Uint8Array(20);
  for (const [i, byte] of digest.entries()) folded[i % 20] = (folded[i % 20] ?? 0) ^ byte;
  return parseStorePathBaseName(`${encodeBase32(folded)}-${name}`);
}

function sha256Hex(text: string): string {
  return createHash('sha256').update(text).digest('hex');
}

function falseClaim(info: PathInfo & { readonly ca: string }, why: string, cause?: unknown) {
  return new FleetError('E_UPLOAD_CA', `${info.path} is not ${info.ca}: ${why}`, { cause });
}
