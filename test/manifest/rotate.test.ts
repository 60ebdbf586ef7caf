// Drafts of roots and their signatures, as files that people carry about.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { sign } from '../../src/ed25519.ts';
import { keyId } from '../../src/keyfile.ts';
import { pae, parseEnvelope } from '../../src/manifest/dsse.ts';
import { canonicalBytes } from '../../src/manifest/jcs.ts';
import { formatRoot, ROOT_PAYLOAD_TYPE, verifyRootUpdate } from '../../src/manifest/root.ts';
import {
  attachSignature,
  draftRoot,
  formatDraft,
  openDraft,
  parseCacheKey,
  type RootChanges,
  signWith,
} from '../../src/manifest/rotate.ts';
import { makeRoot, NOW, publicKey, SECRETS, secretKey } from '../helpers/trust.ts';

const root = makeRoot();
const blank: RootChanges = {
  now: NOW + 100,
  days: 30,
  keys: new Map(),
  cacheKeys: null,
  thresholds: new Map(),
  revoke: [],
  newEpoch: false,
  newLog: false,
  anchor: null,
  logSize: 7,
};

const draft = (changes: Partial<RootChanges> = {}) => draftRoot(root, { ...blank, ...changes });

test('a draft without changes is the root, one version and so many days on', () => {
  const { version, issuedAt, expiresAt, ...rest } = draft();
  assert.deepEqual([version, issuedAt, expiresAt], [2, NOW + 100, NOW + 100 + 30 * 86_400]);
  const { version: _v, issuedAt: _i, expiresAt: _e, ...before } = root;
  assert.deepEqual(rest, before);
});

test('a revoked key loses its role, and is named with the last entry that it may have signed', () => {
  const next = draft({
    revoke: [keyId(publicKey(3))],
    keys: new Map([['director', [publicKey(3), publicKey(13)]]]),
  });
  assert.deepEqual(next.roles.director.keys, [publicKey(13)]);
  assert.deepEqual(next.revoked, [{ key: publicKey(3), notAfterIndex: 6 }]);
  // Once revoked, it cannot be named again.
  assert.throws(
    () => draftRoot(next, { ...blank, keys: new Map([['director', [publicKey(3)]]]) }),
    { code: 'E_ROOT_FORM', message: /is revoked/ },
  );
  assert.throws(() => draft({ revoke: [keyId(publicKey(3))] }), {
    code: 'E_USAGE',
    message: /director would have no key/,
  });
  assert.throws(() => draft({ revoke: ['0000000000000000'] }), {
    code: 'E_USAGE',
    message: /no key 0000/,
  });
});

test('a new log has the next number, begins empty, and is signed under its own name', () => {
  const next = draft({ newLog: true, newEpoch: true });
  assert.equal(next.log.origin, 'fleet.example.org/log/2');
  assert.match(next.log.vkey, /^fleet\.example\.org\/log\/2\+/);
  assert.deepEqual([next.log.anchor.size, next.epoch], [0, 2]);
  const anchored = draft({ anchor: { size: 9, root: new Uint8Array(32).fill(1) } });
  assert.deepEqual(anchored.log.anchor, { size: 9, sha256: '01'.repeat(32) });
});

test('what a root may not be, a draft may not be', () => {
  const twice = new Map([['log' as const, [publicKey(4), publicKey(14)]]]);
  assert.throws(() => draft({ keys: twice }), { code: 'E_USAGE', message: /a log has one key/ });
  const other = new Map([['nonce' as const, [publicKey(3)]]]);
  assert.throws(() => draft({ keys: other }), {
    code: 'E_KEY_ROLE',
    message: /director and nonce|nonce and director/,
  });
  assert.throws(() => draft({ thresholds: new Map([['root', 2]]) }), {
    code: 'E_ROOT_FORM',
    message: /2 signatures/,
  });
  assert.throws(() => parseCacheKey('cache.example-1:short'), { code: 'E_NIX_KEY', message: /./ });
});

test('an edited draft is signed as it stands; a signature is added, replaced, or refused', () => {
  const text = formatDraft(draft()).replace('604800', '86400');
  const envelope = openDraft(text);
  const signed = signWith(envelope, SECRETS.root);
  const next = verifyRootUpdate(root, parseEnvelope(signed));
  assert.equal(next.maxAge, 86_400);
  assert.equal(signWith(openDraft(signed), SECRETS.root), signed);
  const two = signWith(openDraft(signed), secretKey(11));
  assert.equal(parseEnvelope(two).signatures.length, 2);
  // Made elsewhere.
  const message = pae(ROOT_PAYLOAD_TYPE, formatRoot(next));
  assert.equal(attachSignature(envelope, publicKey(1), sign(message, SECRETS.root)), signed);
  const wrong = sign(message, secretKey(11));
  assert.throws(() => attachSignature(envelope, publicKey(1), wrong), {
    code: 'E_SIGNATURE',
    message: /no signature/,
  });
  assert.throws(() => attachSignature(envelope, publicKey(1), wrong.subarray(1)), {
    code: 'E_SIGNATURE',
    message: /./,
  });
});

test('what is no draft is refused', () => {
  assert.throws(() => openDraft('{'), { code: 'E_ROOT_FORM', message: /not a draft/ });
  assert.throws(() => openDraft('{"version": 1}'), { code: 'E_ROOT_FORM' });
  const manifest = Buffer.from(canonicalBytes({ a: 1 })).toString('base64');
  const sig = Buffer.alloc(64).toString('base64');
  const other = canonicalBytes({
    payload: manifest,
    payloadType: 'application/vnd.in-toto+json',
    signatures: [{ keyid: keyId(publicKey(1)), sig }],
  });
  assert.throws(() => openDraft(Buffer.from(other).toString()), {
    code: 'E_ROOT_FORM',
    message: /something else/,
  });
});
