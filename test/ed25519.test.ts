import assert from 'node:assert/strict';
import { createHash, createPublicKey, verify as nodeVerify } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { test } from 'node:test';
import { hashes, verify as nobleVerify, Point } from '@noble/ed25519';
import {
  admitPublicKey,
  generateSecretKey,
  publicKeyOf,
  publicKeyToSpki,
  secretKeyFromPkcs8,
  secretKeyToPkcs8,
  sign,
  type Verifier,
  verifierOf,
  verify as verifyOnce,
} from '../src/ed25519.ts';

const VECTORS = new URL('../../shared/vectors/ed25519/', import.meta.url);
const skip = existsSync(VECTORS) ? false : 'no ../shared/vectors/ed25519 beside this checkout';
const hex = (text: string): Uint8Array => Uint8Array.from(Buffer.from(text, 'hex'));
const read = <T>(name: string): T => JSON.parse(readFileSync(new URL(name, VECTORS), 'utf8')) as T;

const prepared = new Map<string, Verifier>();

hashes.sha512 = (message: Uint8Array) =>
  Uint8Array.from(createHash('sha512').update(message).digest());

/** What the two verifiers say, each asked as its authors meant it. */
function bothSay(signature: Uint8Array, message: Uint8Array, key: Uint8Array): boolean {
  try {
    const object = createPublicKey({ key: publicKeyToSpki(key), format: 'der', type: 'spki' });
    const noble = nobleVerify(signature, message, key, { zip215: false });
    return noble && nodeVerify(null, message, object, signature);
  } catch {
    return false;
  }
}

/** The verdict, which a prepared verifier of the key must share, and noble and node:crypto together. */
function verify(signature: Uint8Array, message: Uint8Array, key: Uint8Array): boolean {
  const verdict = verifyOnce(signature, message, key);
  const name = Buffer.from(key).toString('hex');
  const verifier = prepared.get(name) ?? verifierOf(key);
  prepared.set(name, verifier);
  assert.equal(verifier(signature, message), verdict, `prepared for ${name}`);
  assert.equal(bothSay(signature, message, key), verdict, `noble and node:crypto, for ${name}`);
  return verdict;
}

// RFC 8032 §7.1, TEST 1, 2, 3 and SHA(abc); TEST 1024 is among Wycheproof's.
const RFC8032 = [
  {
    secret: '9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60',
    public: 'd75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a',
    message: '',
    signature:
      'e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b',
  },
  {
    secret: '4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb',
    public: '3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c',
    message: '72',
    signature:
      '92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00',
  },
  {
    secret: 'c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7',
    public: 'fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025',
    message: 'af82',
    signature:
      '6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a',
  },
  {
    secret: '833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42',
    public: 'ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf',
    message:
      'ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f',
    signature:
      'dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b58909351fc9ac90b3ecfdfbc7c66431e0303dca179c138ac17ad9bef1177331a704',
  },
];

test('RFC 8032 vectors: public key and signature are reproduced and verified', () => {
  for (const vector of RFC8032) {
    const secret = hex(vector.secret);
    const message = hex(vector.message);
    assert.deepEqual(publicKeyOf(secret), hex(vector.public));
    assert.deepEqual(sign(message, secret), hex(vector.signature));
    assert.equal(verify(hex(vector.signature), message, hex(vector.public)), true);
    assert.equal(admitPublicKey(hex(vector.public)), true);
  }
});

type Case = { tcId: number; comment: string; msg: string; sig: string; result: string };
type Group = { publicKey: { pk: string }; tests: Case[] };

test('RFC 8032 TEST 1024: a message of 1023 bytes is signed as it is there', { skip }, () => {
  const secret = hex('f5e5767cf153319517630f226876b86c8160cc583bc013744c6bf255f5cc0ee5');
  const { testGroups } = read<{ testGroups: Group[] }>('wycheproof.json');
  const cases = testGroups.flatMap(({ tests }) => tests);
  const found = cases.find(({ comment }) => comment.endsWith('Test 1024'));
  const message = hex(found?.msg ?? '');
  assert.equal(message.length, 1023);
  assert.deepEqual(sign(message, secret), hex(found?.sig ?? ''));
  assert.equal(verify(sign(message, secret), message, publicKeyOf(secret)), true);
});

test('every Wycheproof verdict is matched', { skip }, () => {
  const { testGroups } = read<{ testGroups: Group[] }>('wycheproof.json');
  let count = 0;
  for (const group of testGroups) {
    for (const { tcId, msg, sig, result } of group.tests) {
      assert.equal(
        verify(hex(sig), hex(msg), hex(group.publicKey.pk)),
        result === 'valid',
        `tcId ${tcId}`,
      );
      count++;
    }
  }
  assert.equal(count, 151);
});

test('of the twelve cases of ed25519-speccheck only case 3 is accepted', { skip }, () => {
  const cases = read<{ message: string; pub_key: string; signature: string }[]>('speccheck.json');
  const accepted = cases.flatMap((c, index) =>
    verify(hex(c.signature), hex(c.message), hex(c.pub_key)) ? [index] : [],
  );
  assert.equal(cases.length, 12);
  assert.deepEqual(accepted, [3]);
});

test('a signature with any one bit flipped is refused, and so is a changed message', () => {
  const secret = generateSecretKey();
  const key = publicKeyOf(secret);
  const message = Buffer.from('manifest');
  const good = sign(message, secret);
  assert.equal(verify(good, message, key), true);
  for (let bit = 0; bit < 512; bit += 7) {
    const bad = Uint8Array.from(good);
    bad[bit >> 3] = (bad[bit >> 3] ?? 0) ^ (1 << (bit & 7));
    assert.equal(verify(bad, message, key), false, `bit ${bit}`);
  }
  assert.equal(verify(good, Buffer.from('manifesT'), key), false);
});

test('a wrong length is false, never a throw', () => {
  const secret = generateSecretKey();
  const key = publicKeyOf(secret);
  const good = sign(new Uint8Array(), secret);
  for (const n of [0, 1, 31, 33, 63, 65, 128]) {
    assert.equal(verify(new Uint8Array(n), new Uint8Array(), key), false);
    if (n !== 32) assert.equal(verify(good, new Uint8Array(), new Uint8Array(n)), false);
    assert.equal(admitPublicKey(new Uint8Array(n)), false);
  }
});

test('a public key of small order, with a torsion part, or not canonical is not admitted', () => {
  const identity = hex(`01${'00'.repeat(31)}`);
  const order2 = hex(`ec${'ff'.repeat(30)}7f`);
  const order4 = new Uint8Array(32);
  const order8 = hex('26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05');
  for (const raw of [identity, order2, order4, order8]) assert.equal(admitPublicKey(raw), false);
  const good = Point.fromBytes(publicKeyOf(generateSecretKey()));
  assert.equal(admitPublicKey(good.toBytes()), true);
  assert.equal(admitPublicKey(good.add(Point.fromBytes(order8)).toBytes()), false);
  // y = 1 written as p + 1; x = 0 with its sign bit set; y = p + 3 is on the curve under ZIP 215.
  assert.equal(admitPublicKey(hex(`ee${'ff'.repeat(30)}7f`)), false);
  assert.equal(admitPublicKey(hex(`01${'00'.repeat(30)}80`)), false);
  assert.equal(admitPublicKey(hex(`f0${'ff'.repeat(30)}7f`)), false);
  // No point of the curve has y = 2.
  assert.equal(admitPublicKey(hex(`02${'00'.repeat(31)}`)), false);
});

test('PKCS #8 DER is read back, and any other form of it is not', () => {
  const secret = generateSecretKey();
  const der = secretKeyToPkcs8(secret);
  assert.deepEqual(secretKeyFromPkcs8(der), Uint8Array.from(secret));
  assert.equal(secretKeyFromPkcs8(der.subarray(1)), undefined);
  assert.equal(secretKeyFromPkcs8(Buffer.concat([der, Buffer.of(0)])), undefined);
  const x25519 = Buffer.from(der);
  x25519[11] = 0x6e;
  assert.equal(secretKeyFromPkcs8(x25519), undefined);
});

test('a prepared verifier and noble agree on whatever is signed', () => {
  for (let i = 0; i < 20; i++) {
    const secret = generateSecretKey();
    const key = publicKeyOf(secret);
    for (let length = 0; length < 2000; length += 397) {
      const message = Buffer.alloc(length, i);
      assert.equal(verify(sign(message, secret), message, key), true);
      assert.equal(verify(sign(message, generateSecretKey()), message, key), false);
    }
  }
});

test('an array that holds another secret by now signs with that one', () => {
  const [one, other] = [generateSecretKey(), generateSecretKey()];
  const secret = Uint8Array.from(one);
  const message = Buffer.from('message');
  assert.deepEqual(sign(message, secret), sign(message, one));
  secret.set(other);
  assert.deepEqual(sign(message, secret), sign(message, other));
  assert.ok(verify(sign(message, secret), message, publicKeyOf(other)));
});
