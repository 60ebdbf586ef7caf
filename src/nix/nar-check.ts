// A NAR from an untrusted place to the same bytes, known to be exactly the NAR that was signed.
// Passes chunks through while it counts, hashes and parses them: refuses at the first byte beyond
// the signed size (so that a small download that unpacks to terabytes stops there), at the first
// byte that is no NAR, an early end, and another hash.

import { createHash } from 'node:crypto';
import { FleetError } from '../errors.ts';
import { formatNarHash, type NarHash } from './hash.ts';
import { NarParser } from './nar-read.ts';

/**
 * The chunk that completes the size is handed on only when the hash is right and `chunks` has come to its
 * end, so that nobody downstream ever holds a whole NAR that is not the signed one, or takes one that is
 * refused a moment later.
 * @throws FleetError E_NAR_LIMIT, E_NAR_BAD, E_NAR_TRUNCATED, E_NAR_MISMATCH
 */
export async function* checkNar(
  chunks: AsyncIterable<Uint8Array>,
  expect: { readonly narSize: number; readonly narHash: NarHash },
): AsyncGenerator<Uint8Array> {
  const parser = new NarParser();
  const hash = createHash('sha256');
  let size = 0;
  let last: Uint8Array | null = null;
  for await (const chunk of chunks) {
    if (chunk.length === 0) continue;
    size += chunk.length;
    if (size > expect.narSize) {
      throw new FleetError('E_NAR_LIMIT', `the NAR is longer than its ${expect.narSize} bytes`);
    }
    parser.push(chunk);
    hash.update(chunk);
    if (size === expect.narSize) {
      refuseOther(formatNarHash(hash.digest()), expect.narHash);
      parser.finish();
      last = chunk;
    } else yield chunk;
  }
  if (size < expect.narSize) {
    throw new FleetError('E_NAR_TRUNCATED', `the NAR ends at ${size} of ${expect.narSize} bytes`);
  }
  if (last !== null) yield last;
}

function refuseOther(actual: NarHash, expected: NarHash): void {
  if (actual === expected) return;
  throw new FleetError('E_NAR_MISMATCH', `the NAR has the hash ${actual}, not ${expected}`);
}
