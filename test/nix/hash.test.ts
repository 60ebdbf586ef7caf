import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { formatNarHash, narHashDigest, narHashHex, parseNarHash } from '../../src/nix/hash.ts';
import { narHashArbitrary } from '../helpers/paths.ts';

const EMPTY = {
  nix32: 'sha256:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73',
  hex: 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855',
  sri: 'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=',
};

describe('NAR hashes', () => {
  it('read the three texts as one', () => {
    for (const text of [EMPTY.nix32, `sha256:${EMPTY.hex}`, EMPTY.sri]) {
      assert.equal(parseNarHash(text), EMPTY.nix32);
    }
    assert.equal(narHashHex(parseNarHash(EMPTY.sri)), EMPTY.hex);
  });
  it('come back from their bytes and their texts', () => {
    fc.assert(
      fc.property(narHashArbitrary, (hash) => {
        assert.equal(formatNarHash(narHashDigest(hash)), hash);
        assert.equal(parseNarHash(hash), hash);
        assert.equal(parseNarHash(`sha256:${narHashHex(hash)}`), hash);
        assert.equal(
          parseNarHash(`sha256-${Buffer.from(narHashDigest(hash)).toString('base64')}`),
          hash,
        );
      }),
    );
  });
  const bad = [
    '',
    EMPTY.hex,
    EMPTY.nix32.slice(7),
    EMPTY.nix32.slice(0, -1),
    `${EMPTY.nix32}0`,
    `${EMPTY.nix32}\n`,
    EMPTY.nix32.replace('sha256', 'sha512'),
    EMPTY.nix32.replace('sha256', 'SHA256'),
    EMPTY.nix32.replace(':0', ':2'),
    EMPTY.nix32.replace(':0', ':e'),
    `sha256:${EMPTY.hex.toUpperCase()}`,
    `sha256:${EMPTY.hex.slice(2)}`,
    EMPTY.sri.slice(0, -1),
    EMPTY.sri.replace('U=', 'V='),
    EMPTY.sri.replace('+/', '-_'),
    `sha256:${EMPTY.sri.slice(7)}`,
    'md5:d41d8cd98f00b204e9800998ecf8427e',
  ];
  for (const text of bad) {
    it(`refuse ${JSON.stringify(text)}`, () => {
      assert.throws(() => parseNarHash(text), { code: 'E_HASH' });
    });
  }
  it('refuse a digest of another length', () => {
    assert.throws(() => formatNarHash(new Uint8Array(31)), { code: 'E_HASH' });
  });
});
