// What a cache signs about a store path, and the keys it signs with: Nix's fingerprint
// (`1;path;hash;size;references`), its key files (`name:base64`) and the `Sig` of a narinfo.
// Interoperable with `nix key`, `nix store sign` and `nix-store --generate-binary-cache-key`:
// secrets are in libsodium's 64-byte form, seed then public key.
// Refuses keys whose two halves disagree, public keys that Ed25519 must not admit, base64 that is
// not canonical, and names with a colon, a space or anything but printable ASCII.

import { admitPublicKey, generateSecretKey, publicKeyOf, sign, verify } from '../ed25519.ts';
import { FleetError } from '../errors.ts';
import type { PathInfo } from './closure.ts';

/** `publicKey`: 32 raw bytes. */
export type NixPublicKey = { readonly name: string; readonly publicKey: Uint8Array };
/** `secret`: the 32-byte seed. */
export type NixSecretKey = { readonly name: string; readonly secret: Uint8Array };
/** A narinfo's `Sig`; `signature`: 64 raw bytes. */
export type PathSignature = { readonly name: string; readonly signature: Uint8Array };

const KEY_NAME = /^[!-9;-~]{1,255}$/;

/** The text that a path's signature covers, which is its line in closure.fp without the newline. */
export function fingerprintOf(info: PathInfo): string {
  return `1;${info.path};${info.narHash};${info.narSize};${info.references.join(',')}`;
}

/** `name:<base64 of 32 bytes>`, without a newline; else E_NIX_KEY. */
export function parseNixPublicKey(text: string): NixPublicKey {
  const parts = splitNamed(text, 32);
  if (parts === undefined) throw badKey('public');
  const [name, publicKey] = parts;
  if (!admitPublicKey(publicKey)) {
    throw new FleetError('E_NIX_KEY', `the key named ${name} is not an Ed25519 key to be trusted`);
  }
  return { name, publicKey };
}

export function formatNixPublicKey(key: NixPublicKey): string {
  return `${key.name}:${Buffer.from(key.publicKey).toString('base64')}`;
}

/** `name:<base64 of 64 bytes>`, without a newline; else E_NIX_KEY, which never shows the key. */
export function parseNixSecretKey(text: string): NixSecretKey {
  const parts = splitNamed(text, 64);
  if (parts === undefined) throw badKey('secret');
  const [name, pair] = parts;
  const secret = pair.slice(0, 32);
  if (!Buffer.from(publicKeyOf(secret)).equals(pair.subarray(32))) {
    throw new FleetError(
      'E_NIX_KEY',
      `the two halves of the secret key ${name} do not belong together`,
    );
  }
  return { name, secret };
}

export function formatNixSecretKey(key: NixSecretKey): string {
  const pair = Buffer.concat([key.secret, publicKeyOf(key.secret)]);
  return `${key.name}:${pair.toString('base64')}`;
}

/** The public half, under the same name. */
export function nixPublicKeyOf(key: NixSecretKey): NixPublicKey {
  return { name: key.name, publicKey: publicKeyOf(key.secret) };
}

/** A new key; E_NIX_KEY when `name` cannot stand in a nix.conf or a narinfo. */
export function generateNixKey(name: string): NixSecretKey {
  if (!KEY_NAME.test(name)) {
    throw new FleetError('E_NIX_KEY', `not a name for a Nix key: ${JSON.stringify(name)}`);
  }
  return { name, secret: generateSecretKey() };
}

/** `name:<base64 of 64 bytes>`; else E_NARINFO. */
export function parsePathSignature(text: string): PathSignature {
  const parts = splitNamed(text, 64);
  if (parts === undefined) {
    const shown = text.length > 200 ? `${text.slice(0, 200)}…` : text;
    throw new FleetError('E_NARINFO', `not a signature NAME:BASE64: ${JSON.stringify(shown)}`);
  }
  return { name: parts[0], signature: parts[1] };
}

/** `name:base64`, as the value of a narinfo's `Sig`. */
export function signPath(info: PathInfo, key: NixSecretKey): string {
  const signature = sign(Buffer.from(fingerprintOf(info)), key.secret);
  return `${key.name}:${Buffer.from(signature).toString('base64')}`;
}

/**
 * True when `signature` (`name:base64`) is one of `info` by the key of that name among `keys`.
 * False for everything else, malformed text included: one bad `Sig` must not hide a good one.
 */
export function verifyPathSignature(
  info: PathInfo,
  signature: string,
  keys: readonly NixPublicKey[],
): boolean {
  const parts = splitNamed(signature, 64);
  if (parts === undefined) return false;
  const [name, raw] = parts;
  const message = Buffer.from(fingerprintOf(info));
  return keys.some((key) => key.name === name && verify(raw, message, key.publicKey));
}

/** `name:base64` in two, or undefined unless both are canonical and `length` bytes long. */
function splitNamed(text: string, length: number): [string, Uint8Array] | undefined {
  const colon = text.indexOf(':');
  const name = text.slice(0, Math.max(colon, 0));
  const base64 = text.slice(colon + 1);
  if (!KEY_NAME.test(name) || base64.length !== Math.ceil(length / 3) * 4) return undefined;
  const bytes = Buffer.from(base64, 'base64');
  // Node's decoder skips what it does not know; only the one canonical text survives this.
  if (bytes.length !== length || bytes.toString('base64') !== base64) return undefined;
  return [name, Uint8Array.from(bytes)];
}

function badKey(kind: 'public' | 'secret'): FleetError {
  return new FleetError('E_NIX_KEY', `not a Nix ${kind} key: it is not NAME:BASE64 of its length`);
}
