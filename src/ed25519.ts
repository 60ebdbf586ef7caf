// Ed25519, strict: 32-byte seeds and public keys, 64-byte signatures (RFC 8032).
// A signature counts only when @noble/ed25519 (zip215: false) AND node:crypto accept it: each alone
// accepts crafted signatures that the other refuses, and no signer may make two readers disagree.
// Refuses by `false`, never by a throw: wrong lengths, keys that are not canonical, of small order,
// or with a torsion part, and S that is not reduced.
import {
  createHash,
  createPrivateKey,
  createPublicKey,
  type KeyObject,
  sign as nodeSign,
  verify as nodeVerify,
  randomBytes,
} from 'node:crypto';
import { hashes, verify as nobleVerify, Point } from '@noble/ed25519';

// The synchronous half of noble asks for a SHA-512 of the caller's.
hashes.sha512 = (message: Uint8Array) =>
  Uint8Array.from(createHash('sha512').update(message).digest());

// RFC 8410: the DER of a PKCS #8 private key and of a SubjectPublicKeyInfo is constant up to the key.
const PKCS8_PREFIX = Buffer.from('302e020100300506032b657004220420', 'hex');
const SPKI_PREFIX = Buffer.from('302a300506032b6570032100', 'hex');

/** Length in bytes of a secret key (the seed) and of a public key. */
const KEY_BYTES = 32;
/** Length in bytes of a signature. */
const SIGNATURE_BYTES = 64;

/** A new secret key: 32 random bytes, the seed of RFC 8032 §5.1.5. */
export function generateSecretKey(): Uint8Array {
  return randomBytes(KEY_BYTES);
}

/** The PKCS #8 DER (48 bytes, RFC 8410) of a 32-byte secret key. */
export function secretKeyToPkcs8(secret: Uint8Array): Buffer {
  if (secret.length !== KEY_BYTES) throw new RangeError('an Ed25519 secret key has 32 bytes');
  return Buffer.concat([PKCS8_PREFIX, secret]);
}

/** The 32-byte secret key of a PKCS #8 DER, or undefined unless it is exactly the form above. */
export function secretKeyFromPkcs8(der: Uint8Array): Uint8Array | undefined {
  const at = PKCS8_PREFIX.length;
  if (der.length !== at + KEY_BYTES) return undefined;
  return PKCS8_PREFIX.equals(der.subarray(0, at)) ? Uint8Array.from(der.subarray(at)) : undefined;
}

/** The SubjectPublicKeyInfo DER (44 bytes, RFC 8410) of a 32-byte public key. */
export function publicKeyToSpki(publicKey: Uint8Array): Buffer {
  if (publicKey.length !== KEY_BYTES) throw new RangeError('an Ed25519 public key has 32 bytes');
  return Buffer.concat([SPKI_PREFIX, publicKey]);
}

/** The 32-byte public key of a 32-byte secret key. */
export function publicKeyOf(secret: Uint8Array): Uint8Array {
  const spki = createPublicKey(privateKeyObject(secret)).export({ type: 'spki', format: 'der' });
  return Uint8Array.from(spki.subarray(SPKI_PREFIX.length));
}

/** The 64-byte signature of `message` by a 32-byte secret key; deterministic (RFC 8032 §5.1.6). */
export function sign(message: Uint8Array, secret: Uint8Array): Uint8Array {
  return Uint8Array.from(nodeSign(null, message, privateKeyObject(secret)));
}

/**
 * True when `signature` is one of `message` by `publicKey`, for noble and for node:crypto alike.
 * Anything malformed is `false`; never throws. The key should have passed `admitPublicKey` once.
 */
export function verify(signature: Uint8Array, message: Uint8Array, publicKey: Uint8Array): boolean {
  if (signature.length !== SIGNATURE_BYTES || publicKey.length !== KEY_BYTES) return false;
  try {
    // node:crypto first: it is fifteen times faster at refusing.
    const key = createPublicKey({ key: publicKeyToSpki(publicKey), format: 'der', type: 'spki' });
    if (!nodeVerify(null, message, key, signature)) return false;
    return nobleVerify(signature, message, publicKey, { zip215: false });
  } catch {
    return false;
  }
}

/** True when the signature is one of the message by a key that is known. */
export type Verifier = (signature: Uint8Array, message: Uint8Array) => boolean;

/**
 * `verify` for one key that signed much: the same verdicts, five times as fast after 60 ms of preparation at the first
 * signature that may hold. The same two verifiers: node:crypto, and noble's equation on noble's points, whose multiples
 * are looked up in tables (3 MB a key) instead of being doubled anew for each signature.
 */
export function verifierOf(publicKey: Uint8Array): Verifier {
  if (publicKey.length !== KEY_BYTES) return () => false;
  let key: KeyObject;
  let point: Point;
  try {
    key = createPublicKey({ key: publicKeyToSpki(publicKey), format: 'der', type: 'spki' });
    point = Point.fromBytes(publicKey, false);
    if (point.isSmallOrder()) return () => false;
  } catch {
    return () => false;
  }
  let multiples: Point[][] | undefined;
  return (signature, message) => {
    if (signature.length !== SIGNATURE_BYTES) return false;
    try {
      if (!nodeVerify(null, message, key, signature)) return false;
      const r = signature.subarray(0, 32);
      const s = numberOf(signature.subarray(32));
      if (s >= ORDER) return false;
      const hash = createHash('sha512').update(r).update(publicKey).update(message).digest();
      const k = numberOf(hash) % ORDER;
      multiples ??= multiplesOf(point);
      generatorMultiples ??= multiplesOf(Point.BASE);
      const left = Point.fromBytes(r, false).add(times(multiples, k));
      return left.subtract(times(generatorMultiples, s)).clearCofactor().is0();
    } catch {
      return false;
    }
  };
}

/** The order of the generator. */
const ORDER = Point.CURVE().n;
/** Digits of 10 bits, from -511 to 512, whose negative multiples are the positive ones turned over. */
const WINDOW = 10;
const HALF = 2 ** (WINDOW - 1);
let generatorMultiples: Point[][] | undefined;

/** For each window of a scalar's bits, the point times 1, 2, …, 512. */
function multiplesOf(point: Point): Point[][] {
  const rows: Point[][] = [];
  let base = point;
  // One bit more than a scalar has: the last digit may carry.
  for (let bit = 0; bit < 254; bit += WINDOW) {
    const row = [base];
    for (let value = 1; value < HALF; value++) row.push((row[value - 1] ?? base).add(base));
    rows.push(row);
    base = (row[HALF - 1] ?? base).double();
  }
  return rows;
}

/** `scalar` times the point whose multiples these are; below 2^253. */
function times(multiples: readonly (readonly Point[])[], scalar: bigint): Point {
  let sum = Point.ZERO;
  let rest = scalar;
  for (const row of multiples) {
    let digit = Number(rest & (2n ** BigInt(WINDOW) - 1n));
    rest >>= BigInt(WINDOW);
    if (digit > HALF) {
      digit -= 2 * HALF;
      rest += 1n;
    }
    const multiple = row[Math.abs(digit) - 1];
    if (multiple !== undefined) sum = digit < 0 ? sum.subtract(multiple) : sum.add(multiple);
  }
  return sum;
}

/** Little-endian. */
function numberOf(bytes: Uint8Array): bigint {
  return BigInt(`0x${Buffer.from(bytes).reverse().toString('hex')}`);
}

/**
 * True when `raw` is the canonical encoding of a point of the prime-order subgroup other than the
 * identity. Done once for each key that is about to be trusted. Never throws.
 */
export function admitPublicKey(raw: Uint8Array): boolean {
  if (raw.length !== KEY_BYTES) return false;
  try {
    // fromBytes refuses y ≥ p and x = 0 with the sign bit set: what it accepts is canonical.
    const point = Point.fromBytes(raw, false);
    return !point.isSmallOrder() && point.isTorsionFree();
  } catch {
    return false;
  }
}

/** Made once for each array that holds a secret: reading a key takes longer than signing with it. */
const privateKeys = new WeakMap<Uint8Array, { readonly secret: Buffer; readonly key: KeyObject }>();

function privateKeyObject(secret: Uint8Array): KeyObject {
  const known = privateKeys.get(secret);
  // The array may hold another one by now.
  if (known?.secret.equals(secret) === true) return known.key;
  const key = createPrivateKey({ key: secretKeyToPkcs8(secret), format: 'der', type: 'pkcs8' });
  privateKeys.set(secret, { secret: Buffer.from(secret), key });
  return key;
}
