// A closure's digest → what its file, a blob, says of the system.
import { buffer } from 'node:stream/consumers';
import { FleetError } from '../errors.ts';
import { type Closure, parseClosure } from '../nix/closure.ts';
import type { StorePath } from '../nix/storepath.ts';
import type { BlobId, Blobs } from '../storage/blobs.ts';

/** @throws FleetError E_CACHE_INCOMPLETE where the file is not here; E_CLOSURE_… */
export async function readClosure(
  blobs: Pick<Blobs, 'get'>,
  { closure, toplevel }: { readonly closure: BlobId; readonly toplevel: StorePath },
): Promise<Closure> {
  const file = await blobs.get(closure);
  if (file !== null) return parseClosure(await buffer(file), toplevel);
  throw new FleetError('E_CACHE_INCOMPLETE', `the closure file of ${toplevel} is missing`);
}
