// One more signature for an envelope, as commands that sign take it: by a secret key in a file, or made by another
// program and brought with the public key.
import {
  type PublicKey,
  parsePublicKeyFile,
  parseSecretKey,
  publicKeyOfSecret,
} from '../src/keyfile.ts';
import type { Envelope } from '../src/manifest/dsse.ts';
import { attachSignature, signWith } from '../src/manifest/rotate.ts';
import { readInput } from './input.ts';

export type SignatureOptions = {
  readonly key?: string;
  readonly signature?: string;
  readonly publicKey?: string;
};

/** The envelope's text with the signature, and whose it is. @throws FleetError E_SIGNATURE, E_USAGE. */
export async function withSignature(
  envelope: Envelope,
  options: SignatureOptions,
): Promise<{ readonly key: PublicKey; readonly text: string }> {
  if (options.key === undefined) {
    const key = parsePublicKeyFile((await readInput(options.publicKey ?? '')).toString('utf8'));
    const signature = await readInput(options.signature ?? '');
    return { key, text: attachSignature(envelope, key, signature) };
  }
  const secret = parseSecretKey((await readInput(options.key)).toString('utf8'));
  return { key: publicKeyOfSecret(secret), text: signWith(envelope, secret) };
}
