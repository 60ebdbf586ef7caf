// The missing paths of a verified closure → what the server's cache says about each (narinfo), taken
// only where it agrees with closure.fp: hash, size and references are the signed ones, the URL lies on
// the server (or on an upstream that agent.json names), the compression is one we unpack, and a key that the root names has signed. All of it is
// known before Nix starts and before the first NAR is fetched. (Nix itself checks the signatures' sums.)
import { FleetError, isFleetError } from '../errors.ts';
import type { PathInfo } from '../nix/closure.ts';
import { type NarInfo, parseNarInfo } from '../nix/narinfo.ts';
import { type NixPublicKey, parsePathSignature } from '../nix/signature.ts';
import { hashPartOf } from '../nix/storepath.ts';
import type { Source } from './source.ts';

/** As many requests at once: a line with a long round trip is not idle, a weak server not flooded. */
const PARALLEL = 8;

/**
 * The narinfos of `missing`, by hash part.
 * @throws FleetError E_NARINFO_REFUSED, E_NARINFO_MISMATCH, E_NARINFO_UNSIGNED, E_FETCH, and what Source throws
 */
export async function fetchNarInfos(
  source: Source,
  missing: readonly PathInfo[],
  keys: readonly NixPublicKey[],
): Promise<Map<string, NarInfo>> {
  const found = new Map<string, NarInfo>();
  const abort = new AbortController();
  const todo = missing.values();
  const worker = async (): Promise<void> => {
    for (const info of todo) {
      if (abort.signal.aborted) return;
      found.set(hashPartOf(info.path), await fetchNarInfo(source, info, keys, abort.signal));
    }
  };
  const workers = Array.from({ length: PARALLEL }, worker);
  try {
    await Promise.all(workers);
  } catch (error) {
    abort.abort();
    await Promise.allSettled(workers);
    throw error;
  }
  return found;
}

async function fetchNarInfo(
  source: Source,
  info: PathInfo,
  keys: readonly NixPublicKey[],
  signal: AbortSignal,
): Promise<NarInfo> {
  const hashPart = hashPartOf(info.path);
  // A base name has at most 244 characters; the rest of a narinfo is short.
  const most = 16 * 1024 + info.references.length * 256;
  const answer = await source.document(`/${hashPart}.narinfo`, most, { expect: [404], signal });
  if (answer.status === 404) {
    throw new FleetError('E_FETCH', `the cache does not have ${info.path}`, {
      hint: 'publish again: fleet build',
    });
  }
  const narinfo = parsed(info, answer.body.toString('utf8'), source.upstreams);
  checkAgainst(info, narinfo);
  if (!['zstd', 'xz', 'none'].includes(narinfo.compression)) {
    throw new FleetError(
      'E_NARINFO_REFUSED',
      `${info.path} is served with compression ${narinfo.compression}, not zstd, xz or none`,
    );
  }
  const trusted = new Set(keys.map(({ name }) => name));
  const signers = narinfo.sigs.map((sig) => parsePathSignature(sig).name);
  if (!signers.some((name) => trusted.has(name))) {
    throw new FleetError(
      'E_NARINFO_UNSIGNED',
      `${info.path} is signed by ${list(signers)}; the root trusts ${list([...trusted])}`,
    );
  }
  return narinfo;
}

/** A narinfo of no good form is the server's doing, as one that lies is. */
function parsed(info: PathInfo, text: string, upstreams: readonly string[]): NarInfo {
  try {
    return parseNarInfo(text, { hashPart: hashPartOf(info.path), upstreams });
  } catch (cause) {
    if (!isFleetError(cause)) throw cause;
    const message = `the narinfo of ${info.path}: ${cause.message}`;
    throw new FleetError('E_NARINFO_REFUSED', message, { cause });
  }
}

/** @throws FleetError E_NARINFO_MISMATCH unless `narinfo` says what `info` says. */
export function checkAgainst(info: PathInfo, narinfo: NarInfo): void {
  const differs =
    narinfo.path !== info.path
      ? 'name'
      : narinfo.narHash !== info.narHash
        ? 'hash'
        : narinfo.narSize !== info.narSize
          ? 'size'
          : narinfo.references.join() !== info.references.join()
            ? 'references'
            : null;
  if (differs === null) return;
  throw new FleetError(
    'E_NARINFO_MISMATCH',
    `the cache offers ${info.path} with another ${differs} than the signed one`,
  );
}

function list(names: readonly string[]): string {
  return names.length === 0 ? 'no key' : names.slice(0, 5).join(', ');
}
