// Store paths → what `nix path-info --json` says of their signatures and content addresses, which
// `nix-store --dump-db` does not. Its form differs between versions: a list with `path` in each (2.4 to
// 2.18), or an object by path (from 2.19 on). What is of another form is left out: both are extras.
import { batchesOf } from './batches.ts';
import { runNix } from './command.ts';
import type { QueryOptions } from './query.ts';
import { parsePathSignature } from './signature.ts';
import type { StorePath } from './storepath.ts';

export type PathExtras = { readonly sigs: readonly string[]; readonly ca: string | null };

/** @throws FleetError E_NIX_OUTPUT, and what runNix throws */
export async function queryExtras(
  paths: readonly StorePath[],
  options: QueryOptions = {},
): Promise<Map<string, PathExtras>> {
  const found = new Map<string, PathExtras>();
  for (const batch of batchesOf(paths)) {
    const { stdout } = await runNix('nix', ['path-info', '--json', ...batch], options);
    for (const [path, extras] of parsePathInfoJson(stdout)) found.set(path, extras);
  }
  return found;
}

/** Tolerant: what it does not know is not there. */
export function parsePathInfoJson(text: string): Map<string, PathExtras> {
  const json: unknown = JSON.parse(text);
  const infos: [unknown, unknown][] = Array.isArray(json)
    ? json.map((info) => [(info as { path?: unknown } | null)?.path, info])
    : Object.entries(json ?? {});
  const found = new Map<string, PathExtras>();
  for (const [path, info] of infos) {
    if (typeof path !== 'string' || typeof info !== 'object' || info === null) continue;
    const { signatures, ca } = info as { signatures?: unknown; ca?: unknown };
    found.set(path, {
      sigs: Array.isArray(signatures) ? signatures.filter(isSignature) : [],
      ca: typeof ca === 'string' && ca !== '' ? ca : null,
    });
  }
  return found;
}

function isSignature(text: unknown): text is string {
  try {
    return typeof text === 'string' && parsePathSignature(text) !== undefined;
  } catch {
    return false;
  }
}
