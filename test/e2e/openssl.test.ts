// Our keys and signatures against openssl: each side reads what the other wrote. This is the command
// that auditors are told to run, so it must go on working.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { promisify } from 'node:util';
import { generateSecretKey, publicKeyToSpki, verify } from '../../src/ed25519.ts';
import {
  formatSecretKey,
  parseSecretKey,
  publicKeyBytes,
  publicKeyOfSecret,
} from '../../src/keyfile.ts';
import { addSignature, pae, parseEnvelope, verifiedBy } from '../../src/manifest/dsse.ts';
import { verifyManifest } from '../../src/manifest/verify.ts';
import { KEYS, makeManifest, makeRoot, NOW, SECRETS, signManifest } from '../helpers/trust.ts';

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

/** A secret key's file, made by openssl or by us. */
async function keyOf(maker: 'openssl' | 'fleet', file: string): Promise<Uint8Array> {
  if (maker === 'openssl') await openssl('genpkey', '-algorithm', 'ed25519', '-out', file);
  else await writeFile(file, formatSecretKey(generateSecretKey()), { mode: 0o600 });
  return parseSecretKey(await readFile(file, 'utf8'));
}

for (const maker of ['openssl', 'fleet'] as const) {
  test(`with a key made by ${maker}: each accepts what the other signed, and an envelope counts with either`, async () => {
    await using dir = await directory();
    const secret = await keyOf(maker, dir.at('key.pem'));
    const key = publicKeyOfSecret(secret);
    await writeFile(dir.at('key.der'), publicKeyToSpki(publicKeyBytes(key)));
    // Ours.
    const root = makeRoot({ keys: { ...KEYS, director: [key] } });
    const envelope = signManifest(makeManifest(), secret);
    const { payload, payloadType, signatures } = parseEnvelope(envelope);
    await writeFile(dir.at('pae'), pae(payloadType, payload));
    await writeFile(dir.at('sig'), signatures[0]?.sig ?? '');
    const { stdout } = await verifyWith(dir.at('key.der'), dir.at('pae'), dir.at('sig'));
    assert.match(stdout, /Signature Verified Successfully/);
    // Theirs.
    const sign = ['pkeyutl', '-sign', '-rawin', '-inkey', dir.at('key.pem')];
    await openssl(...sign, '-in', dir.at('pae'), '-out', dir.at('theirs'));
    const theirs = await readFile(dir.at('theirs'));
    assert.equal(verify(theirs, pae(payloadType, payload), publicKeyBytes(key)), true);
    const attached = addSignature({ payloadType, payload, signatures: [] }, key, theirs);
    assert.equal(verifyManifest({ envelope: attached, root, now: NOW }).signers[0], key);
    // Ed25519 is deterministic: both make the same signature.
    assert.equal(attached, envelope);
    theirs.writeUInt8(theirs.readUInt8(5) ^ 1, 5);
    assert.equal(verify(theirs, pae(payloadType, payload), publicKeyBytes(key)), false);
    await writeFile(dir.at('sig'), theirs);
    await assert.rejects(verifyWith(dir.at('key.der'), dir.at('pae'), dir.at('sig')));
  });
}

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
