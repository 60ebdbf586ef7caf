// Whether a pack that State has may be given out: all its bytes are there, and hosts believe those who signed its paths.
import { formatNixPublicKey, type NixSecretKey, nixPublicKeyOf } from '../nix/signature.ts';
import type { Blobs } from '../storage/blobs.ts';
import type { KeptPack, PackStep } from '../storage/packs.ts';
import type { State } from '../storage/state.ts';

/** `signers`: of the keys of now (signersOf). */
export async function readyPack(
  step: PackStep,
  signers: string,
  { state, blobs }: { readonly state: Pick<State, 'pack'>; readonly blobs: Pick<Blobs, 'size'> },
): Promise<KeptPack | null> {
  const pack = await state.pack(step);
  if (pack === null || pack.signers !== signers) return null;
  return (await isWholePack(pack, blobs)) ? pack : null;
}

/** What a pack's paths are signed by; a pack by others is made anew. */
export function signersOf(keys: readonly NixSecretKey[]): string {
  return keys.map((key) => formatNixPublicKey(nixPublicKeyOf(key))).join(' ');
}

/** Whether all blobs of a pack are there with their right size. */
export async function isWholePack(
  { parts }: Pick<KeptPack, 'parts'>,
  blobs: Pick<Blobs, 'size'>,
): Promise<boolean> {
  for (const { id, size } of parts) if ((await blobs.size(id)) !== size) return false;
  return true;
}
