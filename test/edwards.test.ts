import assert from 'node:assert/strict';
import { createHash, createPublicKey, verify as nodeVerify } from 'node:crypto';
import { test } from 'node:test';
import { etc, hashes, verify as nobleVerify, Point } from '@noble/ed25519';
import fc from 'fast-check';
import { admitPublicKey, publicKeyOf, publicKeyToSpki, sign, verify } from '../src/ed25519.ts';
import { isIdentity, oddMultiplesOf, sumOfMultiples } from '../src/edwards.ts';

const { n: ORDER, p: PRIME } = Point.CURVE();
const ORDER8 = Point.fromHex('26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05');
/** The eight points of small order. */
const TORSION = Array.from({ length: 8 }, (_, i) => ORDER8.multiply(BigInt(i), false));

hashes.sha512 = (message: Uint8Array) =>
  Uint8Array.from(createHash('sha512').update(message).digest());

const scalar = fc.oneof(
  fc.bigInt(0n, ORDER - 1n),
  // Few ones, long runs of them, and what carries to the end.
  fc.nat(252).map((i) => (2n ** BigInt(i) - 1n) % ORDER),
  fc.nat(252).map((i) => 2n ** BigInt(i) % ORDER),
  fc.constantFrom(0n, 1n, 15n, 16n, 17n, ORDER - 1n),
);
/** Of the whole curve: subgroup and torsion. */
const point = fc
  .tuple(scalar, fc.constantFrom(...TORSION))
  .map(([k, torsion]) => Point.BASE.multiply(k, false).add(torsion));

const read = ({ X, Y, Z }: { X: bigint; Y: bigint; Z: bigint }): Point => {
  for (const one of [X, Y, Z]) assert.ok(one >= 0n && one < PRIME);
  return new Point(X, Y, Z, etc.mod(X * Y * etc.invert(Z, PRIME)));
};

/** Noble's, one bit after the other. */
const times = (of: Point, k: bigint): Point => (k === 0n ? Point.ZERO : of.multiply(k, false));

test('sums of multiples are those of noble, on the whole curve', () => {
  fc.assert(
    fc.property(scalar, point, scalar, point, (s, one, k, other) => {
      const terms = [[s, oddMultiplesOf(one)] as const, [k, oddMultiplesOf(other)] as const];
      const expected = times(one, s).add(times(other, k));
      assert.ok(read(sumOfMultiples(terms)).equals(expected));
      assert.deepEqual(read(sumOfMultiples(terms)).toBytes(), expected.toBytes());
    }),
    { numRuns: 200 },
  );
});

test('a sum of no terms, of zeros, and of a point and its negative is the identity', () => {
  const row = oddMultiplesOf(Point.BASE);
  const opposite = oddMultiplesOf(Point.BASE.negate());
  assert.ok(isIdentity(sumOfMultiples([])));
  assert.ok(isIdentity(sumOfMultiples([[0n, row]])));
  assert.ok(
    isIdentity(
      sumOfMultiples([
        [77n, row],
        [77n, opposite],
      ]),
    ),
  );
  assert.ok(!isIdentity(sumOfMultiples([[1n, row]])));
  // Of order two: x is 0 as well.
  assert.ok(!isIdentity(sumOfMultiples([[1n, oddMultiplesOf(TORSION[4] ?? Point.ZERO)]])));
});

test('keys are admitted as noble would, with torsion and without', () => {
  fc.assert(
    fc.property(point, (of) => {
      assert.equal(admitPublicKey(of.toBytes()), !of.isSmallOrder() && of.isTorsionFree());
    }),
    { numRuns: 100 },
  );
});

const seed = fc.uint8Array({ minLength: 32, maxLength: 32 });
const numberOf = (bytes: Uint8Array): bigint =>
  BigInt(`0x${Buffer.from(bytes).reverse().toString('hex')}`);
const bytesOf = (value: bigint): Buffer =>
  Buffer.from(value.toString(16).padStart(64, '0'), 'hex').reverse();

test('whatever is made of a signature by torsion, R and S: accepted where noble and node:crypto both accept it', () => {
  const seen = new Set<boolean>();
  fc.assert(
    fc.property(
      fc.bigInt(1n, ORDER - 1n),
      fc.constantFrom(...TORSION),
      fc.constantFrom(...TORSION),
      fc.bigInt(0n, ORDER - 1n),
      fc.constantFrom(0n, 0n, 1n, ORDER),
      seed,
      (secret, inKey, inR, nonce, more, message) => {
        const key = Point.BASE.multiply(secret).add(inKey).toBytes();
        const r = times(Point.BASE, nonce).add(inR).toBytes();
        const hash = createHash('sha512').update(r).update(key).update(message).digest();
        const s = ((nonce + (numberOf(hash) % ORDER) * secret) % ORDER) + more;
        const signature = Buffer.concat([r, bytesOf(s)]);
        const verdict = verify(signature, message, key);
        seen.add(verdict);
        const object = createPublicKey({ key: publicKeyToSpki(key), format: 'der', type: 'spki' });
        const byNode = nodeVerify(null, message, object, signature);
        const byNoble = nobleVerify(signature, message, key, { zip215: false });
        assert.equal(verdict, byNode && byNoble);
        // What noble's cofactor clears away has to cancel out by itself. (R of small order, which nobody's signature
        // has, is refused by node:crypto now and then.)
        const off = times(inKey, (numberOf(hash) % ORDER) % 8n).add(inR);
        if (nonce !== 0n) assert.equal(verdict, more === 0n && off.is0());
      },
    ),
    { numRuns: 300 },
  );
  assert.deepEqual([...seen].sort(), [false, true]);
});

test('what was signed verifies, whatever the key and the message', () => {
  fc.assert(
    fc.property(seed, fc.uint8Array({ maxLength: 300 }), seed, (secret, message, other) => {
      const signature = sign(message, secret);
      assert.equal(verify(signature, message, publicKeyOf(secret)), true);
      const isSame = Buffer.compare(secret, other) === 0;
      assert.equal(verify(signature, message, publicKeyOf(other)), isSame);
    }),
    { numRuns: 100 },
  );
});
