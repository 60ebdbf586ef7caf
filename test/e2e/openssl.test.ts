// Our keys and signatures against openssl: each side reads what the other wrote. This is the command
// that auditors are told to run, so it must go on working.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { promisify } from 'node:util';
import { publicKeyToSpki, sign, verify } from '../../src/ed25519.ts';
import {
  formatSecretKey,
  parseSecretKey,
  publicKeyBytes,
  publicKeyOfSecret,
} from '../../src/keyfile.ts';
import { pae, parseEnvelope, verifiedBy } from '../../src/manifest/dsse.ts';
import { KEYS, makeManifest, SECRETS, signManifest } from '../helpers/trust.ts';

const run = promisify(execFile);
const openssl = (...args: string[]) => run('openssl', args);

async function directory() {
  const dir = await mkdtemp(join(tmpdir(), 'fleet-openssl-'));
  return {
    at: (name: string): string => join(dir, name),
    [Symbol.asyncDispose]: () => rm(dir, { recursive: true }),
  };
}

const verifyWith = (key: string, message: string, signature: string) =>
  openssl(
    'pkeyutl',
    '-verify',
    '-rawin',
    '-pubin',
    '-inkey',
    key,
    '-keyform',
    'DER',
    '-in',
    message,
    '-sigfile',
    signature,
  );

test('openssl accepts the director signature of a manifest over its PAE, and no other bytes', async () => {
  await using dir = await directory();
  const envelope = parseEnvelope(signManifest(makeManifest()));
  const [key] = verifiedBy(envelope, KEYS.director);
  const signature = envelope.signatures[0]?.sig;
  assert.ok(key !== undefined && signature !== undefined);
  const message = pae(envelope.payloadType, envelope.payload);
  await writeFile(dir.at('key.der'), publicKeyToSpki(publicKeyBytes(key)));
  await writeFile(dir.at('pae'), message);
  await writeFile(dir.at('sig'), signature);
  const { stdout } = await verifyWith(dir.at('key.der'), dir.at('pae'), dir.at('sig'));
  assert.match(stdout, /Signature Verified Successfully/);
  await writeFile(dir.at('other'), Buffer.concat([message, Buffer.from('\n')]));
  await assert.rejects(verifyWith(dir.at('key.der'), dir.at('other'), dir.at('sig')));
});

test('we accept a key and a signature that openssl made', async () => {
  await using dir = await directory();
  await openssl('genpkey', '-algorithm', 'ed25519', '-out', dir.at('key.pem'));
  const secret = parseSecretKey(await readFile(dir.at('key.pem'), 'utf8'));
  const message = Buffer.from('what an auditor signs\n');
  await writeFile(dir.at('message'), message);
  await openssl(
    'pkeyutl',
    '-sign',
    '-rawin',
    '-inkey',
    dir.at('key.pem'),
    '-in',
    dir.at('message'),
    '-out',
    dir.at('sig'),
  );
  const signature = await readFile(dir.at('sig'));
  assert.equal(verify(signature, message, publicKeyBytes(publicKeyOfSecret(secret))), true);
  // Ed25519 is deterministic: both make the same signature.
  assert.deepEqual(sign(message, secret), Uint8Array.from(signature));
});

test('openssl reads our secret key file, and writes the same one back', async () => {
  await using dir = await directory();
  const pem = formatSecretKey(SECRETS.director);
  await writeFile(dir.at('key.pem'), pem, { mode: 0o600 });
  const { stdout } = await openssl('pkey', '-in', dir.at('key.pem'));
  assert.equal(stdout, pem);
  await openssl(
    'pkey',
    '-in',
    dir.at('key.pem'),
    '-pubout',
    '-outform',
    'DER',
    '-out',
    dir.at('pub.der'),
  );
  const spki = publicKeyToSpki(publicKeyBytes(publicKeyOfSecret(SECRETS.director)));
  assert.deepEqual(await readFile(dir.at('pub.der')), spki);
});
