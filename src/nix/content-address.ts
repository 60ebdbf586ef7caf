// A content address (`CA` of a narinfo) against the path and the bytes it is claimed for: the store path
// is computed from it as Nix does (libstore/store-dir-config.cc, makeFixedOutputPath and makeTextPath), and
// the hash in it must be that of the bytes. A client takes content-addressed paths without a signature,
// so a false claim must not be handed on.
// Refuses what is no content address, another path, other bytes, and references that the kind cannot have.
import { createHash } from 'node:crypto';
import { FleetError, messageOf } from '../errors.ts';
import { encodeBase32 } from './base32.ts';
import type { PathInfo } from './closure.ts';
import { type NarHash, narHashHex, parseNarHash } from './hash.ts';
import { nameOf, parseStorePathBaseName, STORE_DIR, type StorePath } from './storepath.ts';

type Claim = PathInfo & { readonly ca: string };

const FORM =
  /^(text|fixed|fixed:r|fixed:git):(md5|sha1|sha256|sha512|blake3):([0-9A-Za-z+/]{8,200}={0,2})$/;

/**
 * @param flatHash SHA-256 of the contents, where the path is one regular file that is not executable;
 *   else null.
 * @returns `unverifiable` for what cannot be recomputed from these: other algorithms than SHA-256, Git's
 *   trees, and paths that refer to themselves, whose bytes are hashed without their own hash part.
 * @throws FleetError E_UPLOAD_CA when the claim is false.
 */
export function checkContentAddress(
  info: Claim,
  flatHash: NarHash | null,
): 'verified' | 'unverifiable' {
  const [, kind, algorithm, digits = ''] = FORM.exec(info.ca) ?? [];
  if (kind === undefined) throw falseClaim(info, 'no content address has that form');
  if (algorithm !== 'sha256' || kind === 'fixed:git') return 'unverifiable';
  const claimed = claimedHash(info, digits);
  const refersToItself = info.references.includes(info.path);
  if (refersToItself && kind !== 'fixed:r') throw falseClaim(info, 'it refers to itself');

  const path = pathOf(info, kind, claimed);
  if (path !== info.path) throw falseClaim(info, `that makes the path ${path}`);
  if (refersToItself) return 'unverifiable';
  if (claimed !== (kind === 'fixed:r' ? info.narHash : flatHash)) {
    throw falseClaim(info, 'its bytes have another hash');
  }
  return 'verified';
}

function pathOf(info: Claim, kind: string, claimed: NarHash): StorePath {
  const others = info.references.filter((path) => path !== info.path).sort();
  const hex = narHashHex(claimed);
  if (kind === 'text') return makeStorePath(['text', ...others].join(':'), hex, info);
  if (kind === 'fixed:r') {
    const self = others.length < info.references.length ? ['self'] : [];
    return makeStorePath(['source', ...others, ...self].join(':'), hex, info);
  }
  if (others.length > 0) throw falseClaim(info, 'a flat file has no references');
  return makeStorePath('output:out', sha256Hex(`fixed:out:sha256:${hex}:`), info);
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

function claimedHash(info: Claim, digits: string): NarHash {
  try {
    return parseNarHash(`sha256:${digits}`);
  } catch (cause) {
    throw falseClaim(info, messageOf(cause), cause);
  }
}

function sha256Hex(text: string): string {
  return createHash('sha256').update(text).digest('hex');
}

function falseClaim(info: Claim, why: string, cause?: unknown): FleetError {
  const message = `${info.path} is not ${info.ca}: ${why}`;
  return new FleetError('E_UPLOAD_CA', message, { cause });
}
