// Paths → those that a configured upstream serves, with the same hash, size and references and a valid
// signature by one of its configured keys, and whose NAR answers. They may be left out of storage. What is
// not there, differs, or cannot be asked is stored here: an upstream in trouble never stops a build.
import { Agent } from 'undici';
import type { Upstream } from '../config.ts';
import { FleetError, isFleetError, messageOf } from '../errors.ts';
import { type NarInfo, parseNarInfo } from '../nix/narinfo.ts';
import { parseNixPublicKey, verifyPathSignature } from '../nix/signature.ts';
import { hashPartOf, type StorePath } from '../nix/storepath.ts';
import type { UpstreamPath } from '../storage/state.ts';
import { Gate } from './gate.ts';
import type { IngestInfo } from './ingest.ts';

export type AskOptions = {
  readonly signal?: AbortSignal;
  /** Told once per upstream that cannot be asked; it is not asked any further. */
  readonly onTrouble?: (error: FleetError) => void;
};

const PARALLEL = 16;
const SECONDS = 15_000;
const MAX_NARINFO = 1024 * 1024;

/** Upstreams are asked in their order; the first that has a path serves it. */
export async function askUpstreams(
  infos: readonly IngestInfo[],
  upstreams: readonly Upstream[],
  { signal, onTrouble }: AskOptions,
): Promise<Map<StorePath, UpstreamPath>> {
  const found = new Map<StorePath, UpstreamPath>();
  await using agent = disposable(new Agent({ connections: PARALLEL, headersTimeout: SECONDS }));
  for (const upstream of upstreams) {
    const gate = new Gate(PARALLEL);
    let trouble: FleetError | null = null;
    const ask = async (info: IngestInfo): Promise<void> => {
      using _place = await gate.enter();
      if (trouble !== null) return;
      signal?.throwIfAborted();
      try {
        const row = await askOne(agent.agent, info, upstream, signal);
        if (row !== null) found.set(info.path, row);
      } catch (error) {
        signal?.throwIfAborted();
        trouble ??= new FleetError('E_UPSTREAM', `${upstream.url}: ${messageOf(error)}`, {
          cause: error,
        });
      }
    };
    await Promise.all(infos.filter(({ path }) => !found.has(path)).map(ask));
    if (trouble !== null) onTrouble?.(trouble);
  }
  return found;
}

async function askOne(
  agent: Agent,
  info: IngestInfo,
  { url, keys }: Upstream,
  signal: AbortSignal | undefined,
): Promise<UpstreamPath | null> {
  const hashPart = hashPartOf(info.path);
  const text = await get(agent, 'GET', `${url}/${hashPart}.narinfo`, signal);
  const narinfo = text === null ? null : parsed(text, hashPart);
  if (narinfo === null || !isSame(info, narinfo)) return null;
  const trusted = keys.map(parseNixPublicKey);
  if (!narinfo.sigs.some((sig) => verifyPathSignature(info, sig, trusted))) return null;
  const narUrl = `${url}/${narinfo.url}`;
  if ((await get(agent, 'HEAD', narUrl, signal)) === null) return null;
  const { path, narHash, narSize, references, deriver } = info;
  const { compression, sigs, fileHash, fileSize } = narinfo;
  return {
    ...{ path, narHash, narSize, references, deriver, compression, sigs, ca: null },
    ...{ blob: null, blobSize: null, upstream: { url: narUrl, fileHash, fileSize } },
  };
}

/** The body of a 200, or null for 403 and 404 (which both mean missing to Nix). */
async function get(
  agent: Agent,
  method: 'GET' | 'HEAD',
  address: string,
  signal: AbortSignal | undefined,
): Promise<string | null> {
  const { origin, pathname, search } = new URL(address);
  const limit = AbortSignal.timeout(SECONDS);
  const response = await agent.request({
    ...{ origin, path: pathname + search, method },
    signal: signal === undefined ? limit : AbortSignal.any([signal, limit]),
  });
  const parts: Uint8Array[] = [];
  let size = 0;
  for await (const part of response.body) {
    size += (part as Uint8Array).length;
    if (size > MAX_NARINFO) throw new Error(`${address} has no end`);
    parts.push(part as Uint8Array);
  }
  if (response.statusCode === 200) return Buffer.concat(parts).toString('utf8');
  if (response.statusCode === 404 || response.statusCode === 403) return null;
  throw new Error(`${address} answered ${response.statusCode}`);
}

function parsed(text: string, hashPart: string): NarInfo | null {
  try {
    return parseNarInfo(text, { hashPart });
  } catch (error) {
    // What a client of ours could not read is no path to be left to them.
    if (isFleetError(error, 'E_NARINFO')) return null;
    throw error;
  }
}

function isSame(info: IngestInfo, narinfo: NarInfo): boolean {
  return (
    narinfo.path === info.path &&
    narinfo.narHash === info.narHash &&
    narinfo.narSize === info.narSize &&
    narinfo.references.join() === info.references.join() &&
    // What agents can unpack.
    ['none', 'zstd', 'xz'].includes(narinfo.compression)
  );
}

function disposable(agent: Agent) {
  return { agent, [Symbol.asyncDispose]: () => agent.destroy() };
}
