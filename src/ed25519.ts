// Ed25519, strict: 32-byte seeds and public keys, 64-byte signatures (RFC 8032).
// A signature counts only when node:crypto accepts it AND the equation holds when it is worked out anew, from keys that
// @noble/ed25519 decoded: no signer may make two readers disagree, nor one fault of a library let a signature pass.
// Noble's own verify is not asked: it prepares tables for 50 ms first, and would then accept all that passes here.
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
import { etc, Point } from '@noble/ed25519';
import { isIdentity, type OddMultiples, oddMultiplesOf, sumOfMultiples } from './edwards.ts';

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
 * True when `signature` is one of `message` by `publicKey`, for node:crypto and by the equation alike.
 * Anything malformed is `false`; never throws. The key should have passed `admitPublicKey` once.
 */
export function verify(signature: Uint8Array, message: Uint8Array, publicKey: Uint8Array): boolean {
  const key = readKey(publicKey);
  return key !== null && isSignature(signature, message, key, sumByDoubling);
}

/** True when the signature is one of the message by a key that is known. */
export type Verifier = (signature: Uint8Array, message: Uint8Array) => boolean;

/**
 * `verify` for one key that signed much: the same verdicts, five times as fast after 60 ms of preparation at the first
 * signature that may hold: multiples of the key are looked up in tables (3 MB) instead of being doubled anew for each
 * signature.
 */
export function verifierOf(publicKey: Uint8Array): Verifier {
  const key = readKey(publicKey);
  if (key === null) return () => false;
  let negative: Point[][] | undefined;
  return (signature, message) =>
    isSignature(signature, message, key, (s, k) => {
      negative ??= multiplesOf(key.negative);
      generatorMultiples ??= multiplesOf(Point.BASE);
      return times(generatorMultiples, s).add(times(negative, k));
    });
}

/** A public key for both verifiers. */
type Key = {
  readonly bytes: Uint8Array;
  readonly object: KeyObject;
  /** The key's point times -1. */
  readonly negative: Point;
};

function readKey(publicKey: Uint8Array): Key | null {
  if (publicKey.length !== KEY_BYTES) return null;
  try {
    const bytes = Uint8Array.from(publicKey);
    const object = createPublicKey({ key: publicKeyToSpki(bytes), format: 'der', type: 'spki' });
    const point = Point.fromBytes(bytes, false);
    return point.isSmallOrder() ? null : { bytes, object, negative: point.negate() };
  } catch {
    return null;
  }
}

/**
 * The verdict of both. The second is RFC 8032's equation without the cofactor, as node:crypto has it: R must be
 * the very bytes of s × generator - k × key, which `sum` computes. That is canonical, so whatever passes here
 * satisfies noble's equation too, which is this one times the cofactor.
 */
function isSignature(
  signature: Uint8Array,
  message: Uint8Array,
  key: Key,
  sum: (s: bigint, k: bigint, key: Key) => Point,
): boolean {
  if (signature.length !== SIGNATURE_BYTES) return false;
  try {
    // node:crypto first: it is fifteen times faster at refusing.
    if (!nodeVerify(null, message, key.object, signature)) return false;
    const r = signature.subarray(0, 32);
    const s = numberOf(signature.subarray(32));
    if (s >= ORDER) return false;
    const hash = createHash('sha512').update(r).update(key.bytes).update(message).digest();
    const point = sum(s, numberOf(hash) % ORDER, key);
    return Buffer.compare(point.toBytes(), r) === 0;
  } catch {
    return false;
  }
}

/** The order of the generator. */
const ORDER = Point.CURVE().n;
/** The prime of the field that coordinates are in. */
const FIELD = Point.CURVE().p;
let generatorMultiples: Point[][] | undefined;

/** Of the generator: worked out once. */
let generatorRow: OddMultiples | undefined;

/** For one signature, with nothing prepared. */
function sumByDoubling(s: bigint, k: bigint, key: Key): Point {
  generatorRow ??= oddMultiplesOf(Point.BASE);
  const { X, Y, Z } = sumOfMultiples([
    [s, generatorRow],
    [k, oddMultiplesOf(key.negative)],
  ]);
  const inverse = etc.invert(Z, FIELD);
  return Point.fromAffine({ x: etc.mod(X * inverse), y: etc.mod(Y * inverse) });
}

/** Bits of a digit where multiples are kept in tables. */
const WINDOW = 10;

/** For each digit of a scalar, the multiples of the point that it may stand for. */
function multiplesOf(point: Point): Point[][] {
  let base = point;
  return Array.from({ length: digitCount(WINDOW) }, () => {
    const row = rowOf(base, WINDOW);
    base = (row.at(-1) ?? base).double();
    return withoutZ(row);
  });
}

/** The same points with Z = 1, which are added a fifth quicker; all by one inversion (Montgomery's trick). */
function withoutZ(points: readonly Point[]): Point[] {
  const { mod, invert } = etc;
  const products: bigint[] = [];
  let product = 1n;
  for (const { Z } of points) {
    products.push(product);
    product = mod(product * Z);
  }
  let inverse = invert(product, FIELD);
  const found: Point[] = [];
  for (let i = points.length - 1; i >= 0; i--) {
    const { X, Y, Z } = points[i] ?? Point.BASE;
    const z = mod(inverse * (products[i] ?? 1n));
    found[i] = Point.fromAffine({ x: mod(X * z), y: mod(Y * z) });
    inverse = mod(inverse * Z);
  }
  return found;
}

/** `scalar` times the point whose multiples these are. */
function times(multiples: readonly (readonly Point[])[], scalar: bigint): Point {
  const digits = digitsOf(scalar, WINDOW);
  return multiples.reduce((sum, row, i) => addMultiple(sum, row, digits[i] ?? 0), Point.ZERO);
}

/** The point times 1, 2, … up to half of what a digit may be: the negative ones are these turned over. */
function rowOf(point: Point, window: number): Point[] {
  const row = [point];
  while (row.length < 2 ** (window - 1)) row.push((row.at(-1) ?? point).add(point));
  return row;
}

function addMultiple(sum: Point, row: readonly Point[], digit: number): Point {
  const multiple = row[Math.abs(digit) - 1];
  if (multiple === undefined) return sum;
  return digit < 0 ? sum.subtract(multiple) : sum.add(multiple);
}

/** Digits of a scalar below 2^253, one bit more than it has: the last digit may carry. */
function digitCount(window: number): number {
  return Math.ceil(254 / window);
}

/** `scalar` in digits of `window` bits, the lowest first, each from -(2^(window-1)) + 1 to 2^(window-1). */
function digitsOf(scalar: bigint, window: number): number[] {
  const half = 2 ** (window - 1);
  let carry = 0;
  return Array.from({ length: digitCount(window) }, (_, i) => {
    const bits = BigInt.asUintN(window, scalar >> BigInt(i * window));
    const digit = Number(bits) + carry;
    carry = digit > half ? 1 : 0;
    return digit - carry * 2 * half;
  });
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
    // A point of the subgroup, and no other, times the subgroup's order is the identity.
    const row = oddMultiplesOf(point);
    return !point.isSmallOrder() && isIdentity(sumOfMultiples([[ORDER, row]]));
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
