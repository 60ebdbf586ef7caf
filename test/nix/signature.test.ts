// Keys and signatures of paths; that they are Nix's own is shown in test/e2e/nix-signatures.test.ts.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import {
  fingerprintOf,
  formatNixPublicKey,
  formatNixSecretKey,
  generateNixKey,
  nixPublicKeyOf,
  parseNixPublicKey,
  parseNixSecretKey,
  parsePathSignature,
  signPath,
  verifyPathSignature,
} from '../../src/nix/signature.ts';
import { narHash, pathInfo, pathInfoArbitrary, storePath } from '../helpers/paths.ts';

// Written by `nix key generate-secret` (Nix 2.8).
const SECRET =
  'cache.example-1:KCcjVyioEWRo1KKNqoAlzO+qws7bzshyZXdqV3FWmpY6vNrcbdyRIXWwZURBLCuXzeTuJO8vOX0GIL2SeC7YRw==';
const PUBLIC = 'cache.example-1:Orza3G3ckSF1sGVEQSwrl83k7iTvLzl9BiC9kngu2Ec=';

const key = parseNixSecretKey(SECRET);
const trusted = parseNixPublicKey(PUBLIC);
const [a, b] = [storePath('a'), storePath('b')];
const info = pathInfo(a, [a, b]);
const signature = signPath(info, key);
const base64 = signature.slice(signature.indexOf(':') + 1);

describe('Nix keys', () => {
  it('come back as they were written', () => {
    assert.equal(formatNixSecretKey(key), SECRET);
    assert.equal(formatNixPublicKey(trusted), PUBLIC);
    assert.equal(formatNixPublicKey(nixPublicKeyOf(key)), PUBLIC);
    const fresh = generateNixKey('fleet-1');
    assert.deepEqual(
      parseNixSecretKey(formatNixSecretKey(fresh)).secret,
      Uint8Array.from(fresh.secret),
    );
  });
  const half = Buffer.alloc(32, 1).toString('base64');
  const badPublic = [
    '',
    ':',
    PUBLIC.slice(PUBLIC.indexOf(':')),
    PUBLIC.replace(':', ''),
    PUBLIC.replace('cache', 'ca che'),
    `${PUBLIC}\n`,
    ` ${PUBLIC}`,
    PUBLIC.slice(0, -1),
    PUBLIC.replace('Ec=', 'Ed='),
    PUBLIC.replace('/', '_').replace('Orz', 'Or-'),
    `n:${Buffer.alloc(31).toString('base64')}`,
    `n:${Buffer.alloc(33).toString('base64')}`,
    SECRET,
  ];
  for (const text of badPublic) {
    it(`refuse ${JSON.stringify(text.slice(0, 60))} as a public key`, () => {
      assert.throws(() => parseNixPublicKey(text), { code: 'E_NIX_KEY' });
    });
  }
  it('refuse a public key of small order, or one that is no point', () => {
    const identity = Buffer.alloc(32);
    identity[0] = 1;
    for (const raw of [identity, Buffer.alloc(32), Buffer.alloc(32, 0xff)]) {
      assert.throws(() => parseNixPublicKey(`n:${raw.toString('base64')}`), { code: 'E_NIX_KEY' });
    }
  });
  it('refuse a secret key that is malformed or whose halves disagree, without showing it', () => {
    const other = Buffer.concat([key.secret, Buffer.alloc(32, 1)]).toString('base64');
    for (const text of [
      '',
      PUBLIC,
      SECRET.slice(1 + SECRET.indexOf(':')),
      `n:${half}`,
      `n:${other}`,
      `${SECRET}\n`,
    ]) {
      assert.throws(
        () => parseNixSecretKey(text),
        (error: Error & { code?: string }) =>
          error.code === 'E_NIX_KEY' && !/[A-Za-z0-9+/]{24}/.test(error.message),
      );
    }
  });
  it('refuse names that cannot stand in a nix.conf', () => {
    for (const name of ['', 'a b', 'a:b', 'a\nb', 'é', 'x'.repeat(256)]) {
      assert.throws(() => generateNixKey(name), { code: 'E_NIX_KEY' });
    }
  });
});

describe('signatures of paths', () => {
  it('cover the fingerprint', () => {
    const both = [a, b].sort().join(',');
    assert.equal(fingerprintOf(info), `1;${a};${narHash(a)};120;${both}`);
    assert.equal(fingerprintOf(pathInfo(b)), `1;${b};${narHash(b)};120;`);
  });
  it('are found among several keys', () => {
    const other = nixPublicKeyOf(generateNixKey('other-1'));
    assert.ok(verifyPathSignature(info, signature, [other, trusted]));
    assert.ok(!verifyPathSignature(info, signature, [other]));
    assert.ok(!verifyPathSignature(info, signature, []));
  });
  it("fail under a trusted key's name with another key, and under another name", () => {
    const impostor = generateNixKey(key.name);
    assert.ok(!verifyPathSignature(info, signPath(info, impostor), [trusted]));
    assert.ok(!verifyPathSignature(info, `other-1:${base64}`, [trusted]));
    assert.ok(verifyPathSignature(info, signature, [nixPublicKeyOf(impostor), trusted]));
  });
  it('fail when anything they cover is another', () => {
    const changed = [
      { ...info, path: b },
      { ...info, narHash: narHash('other') },
      { ...info, narSize: 121 },
      { ...info, references: [] },
      { ...info, references: [a] },
    ];
    for (const other of changed) assert.ok(!verifyPathSignature(other, signature, [trusted]));
  });
  const malformed: [string, string][] = [
    ['nothing', ''],
    ['no colon', base64],
    ['no name', `:${base64}`],
    ['no base64', `${key.name}:`],
    ['bad base64', `${key.name}:${base64.replace(/^./, '*')}`],
    ['URL-safe base64', `${key.name}:-_${base64.slice(2)}`],
    ['no padding', signature.slice(0, -2)],
    ['63 bytes', `${key.name}:${Buffer.alloc(63).toString('base64')}`],
    ['65 bytes', `${key.name}:${Buffer.alloc(65).toString('base64')}`],
    ['a newline', `${signature}\n`],
    ['stray bits', `${key.name}:${Buffer.alloc(64).toString('base64').replace('A==', 'B==')}`],
  ];
  for (const [what, text] of malformed) {
    it(`are false, and refused by the parser, with ${what}`, () => {
      assert.equal(verifyPathSignature(info, text, [trusted]), false);
      assert.throws(() => parsePathSignature(text), { code: 'E_NARINFO' });
    });
  }
  it('hold for any path, and for no other', () => {
    fc.assert(
      fc.property(pathInfoArbitrary, (any) => {
        const sig = signPath(any, key);
        assert.ok(verifyPathSignature(any, sig, [trusted]));
        assert.ok(!verifyPathSignature(info, sig, [trusted]));
      }),
      { numRuns: 25 },
    );
  });
});
