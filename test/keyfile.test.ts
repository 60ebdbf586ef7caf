import assert from 'node:assert/strict';
import { createPrivateKey, createPublicKey, generateKeyPairSync } from 'node:crypto';
import { test } from 'node:test';
import { publicKeyOf } from '../src/ed25519.ts';
import {
  fingerprint,
  formatPublicKey,
  formatSecretKey,
  isPublicKey,
  keyId,
  parsePublicKey,
  parsePublicKeyFile,
  parseSecretKey,
  publicKeyOfSecret,
} from '../src/keyfile.ts';
import {
  formatVerifierKey,
  NOTE_COSIGNATURE,
  NOTE_ED25519,
  parseVerifierKey,
} from '../src/tlog/vkey.ts';
import { publicKey, refuses, secretKey } from './helpers/trust.ts';

test("a secret key's PEM is what node:crypto exports and imports", () => {
  const pem = formatSecretKey(secretKey(1));
  const key = createPrivateKey(pem);
  assert.equal(key.export({ format: 'pem', type: 'pkcs8' }), pem);
  const spki = createPublicKey(key).export({ format: 'der', type: 'spki' });
  assert.deepEqual(Uint8Array.from(spki.subarray(12)), publicKeyOf(secretKey(1)));
  assert.deepEqual(parseSecretKey(pem), secretKey(1));
});

test('a key file that is none is refused, and the error never shows what it held', () => {
  const pem = formatSecretKey(secretKey(0x5a));
  const rsa = generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey;
  const secretText = pem.split('\n')[1] ?? '';
  for (const text of [
    '',
    pem.replace('PRIVATE', 'PUBLIC'),
    pem.replace('\n', '\r\n'),
    `${pem}\n`,
    ` ${pem}`,
    pem.replace(secretText, secretText.slice(0, 60)),
    pem.replace(secretText, `${secretText}AAAA`),
    String(rsa.export({ format: 'pem', type: 'pkcs8' })),
  ]) {
    assert.throws(
      () => parseSecretKey(text),
      (error: Error & { code?: string }) =>
        error.code === 'E_KEY_FILE' && !error.message.includes(secretText.slice(0, 20)),
    );
  }
});

test('a public key has one spelling', () => {
  const text = publicKeyOfSecret(secretKey(1));
  assert.equal(text.length, 44);
  assert.equal(parsePublicKey(text), text);
  const loose = [
    text.slice(0, -1),
    `${text}=`,
    ` ${text}`,
    `${text}\n`,
    Buffer.from(publicKeyOf(secretKey(1))).toString('base64url'),
    Buffer.from(publicKeyOf(secretKey(1))).toString('hex'),
    text.replace(/.=$/, (end) => `${String.fromCharCode(end.charCodeAt(0) + 1)}=`),
    '',
  ];
  for (const other of loose) refuses('E_PUBLIC_KEY', () => parsePublicKey(other));
  assert.equal(isPublicKey(5), false);
});

test('a public key of small order is refused however often it is asked for', () => {
  const identity = Uint8Array.of(1, ...new Uint8Array(31));
  refuses('E_PUBLIC_KEY', () => formatPublicKey(identity));
  refuses('E_PUBLIC_KEY', () => formatPublicKey(identity));
  refuses('E_PUBLIC_KEY', () => formatPublicKey(new Uint8Array(31)));
});

test('key ids and fingerprints are the SHA-256 of the raw key', () => {
  const key = publicKey(1);
  assert.equal(keyId(key), '34750f98bd59fcfc');
  assert.equal(fingerprint(key).replaceAll(' ', '').slice(0, 16), keyId(key));
  assert.match(fingerprint(key), /^([0-9a-f]{4} ){15}[0-9a-f]{4}$/);
});

test("the C2SP signed-note document's own verifier key is read", () => {
  // golang.org/x/mod/sumdb/note, the key of the documentation's example.
  const text = 'PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW';
  const key = parseVerifierKey(text, NOTE_ED25519);
  assert.equal(key.name, 'PeterNeumann');
  assert.equal(formatVerifierKey(key), text);
});

test('a verifier key of another type, with a wrong key ID, or malformed is refused', () => {
  const text = formatVerifierKey({ name: 'a/b', type: NOTE_ED25519, publicKey: publicKey(4) });
  assert.equal(parseVerifierKey(text, NOTE_ED25519).publicKey, publicKey(4));
  refuses('E_PUBLIC_KEY', () => parseVerifierKey(text, NOTE_COSIGNATURE));
  const [name, id, body] = text.split('+');
  for (const bad of [
    '',
    `${name}+00000000+${body}`,
    `${name}+${id?.toUpperCase()}+${body}`,
    `other+${id}+${body}`,
    `+${id}+${body}`,
    `a b+${id}+${body}`,
    `${name}+${id}+${body?.slice(4)}`,
    `${text}\n`,
  ]) {
    refuses('E_PUBLIC_KEY', () => parseVerifierKey(bad, NOTE_ED25519));
  }
});

test('a public key file is PEM as openssl writes it, or 44 characters of base64', () => {
  const { publicKey: key } = generateKeyPairSync('ed25519');
  const pem = key.export({ type: 'spki', format: 'pem' }).toString();
  const raw = key.export({ type: 'spki', format: 'der' }).subarray(12).toString('base64');
  assert.equal(parsePublicKeyFile(pem), raw);
  assert.equal(parsePublicKeyFile(`${raw}\n`), raw);
  const rsa = generateKeyPairSync('rsa', { modulusLength: 2048 }).publicKey;
  const other = rsa.export({ type: 'spki', format: 'pem' }).toString();
  for (const text of [other, '', 'AAAA', pem.replace('MCow', 'MCox'), `${pem}${pem}`]) {
    assert.throws(() => parsePublicKeyFile(text), { code: 'E_PUBLIC_KEY' }, text);
  }
});

test('a secret key in the place of a public one is refused, and nothing of it is shown', () => {
  const secret = secretKey(0x5a);
  const pem = formatSecretKey(secret);
  const base64 = pem.split('\n')[1] ?? '';
  const nix = `cache-1:${Buffer.concat([secret, publicKeyOf(secret)]).toString('base64')}`;
  for (const text of [pem, ` ${pem}`, pem.slice(0, 70), base64, nix, `${nix}\n`]) {
    for (const parse of [parsePublicKeyFile, parsePublicKey]) {
      assert.throws(
        () => parse(text),
        (error: Error & { code?: string; hint?: string }) => {
          assert.equal(error.code, 'E_PUBLIC_KEY');
          const told = `${error.message} ${error.hint}`;
          assert.ok(
            !told.includes(base64.slice(24, 32)) && !told.includes(nix.slice(10, 20)),
            told,
          );
          return true;
        },
      );
    }
  }
});
