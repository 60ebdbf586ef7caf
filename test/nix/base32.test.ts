import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { decodeBase32, encodeBase32 } from '../../src/nix/base32.ts';

describe('base32', () => {
  it('encodes the SHA-256 of nothing as Nix does', () => {
    const digest = createHash('sha256').digest();
    const text = '0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73';
    assert.equal(encodeBase32(digest), text);
    assert.deepEqual(Buffer.from(decodeBase32(text, 32)), digest);
  });
  it('comes back, for any bytes of any length', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 70 }), (bytes) => {
        assert.deepEqual(decodeBase32(encodeBase32(bytes), bytes.length), bytes);
      }),
    );
  });
  it('every text that is accepted is the only one of its bytes', () => {
    const text = fc.stringMatching(/^[0-9a-z]{52}$/);
    fc.assert(
      fc.property(text, (candidate) => {
        try {
          assert.equal(encodeBase32(decodeBase32(candidate, 32)), candidate);
        } catch (error) {
          assert.equal((error as { code?: string }).code, 'E_BASE32');
        }
      }),
    );
  });
  for (const [what, text, bytes] of [
    ['a digit too few', '0'.repeat(31), 20],
    ['a digit too many', '0'.repeat(33), 20],
    ['nothing', '', 20],
    ['digits for no bytes', '0', 0],
    ['bits beyond the last byte', `2${'0'.repeat(51)}`, 32],
    ['upper case', 'A'.repeat(32), 20],
    ...[...'eout'].map((digit) => [`the digit ${digit}`, digit.repeat(32), 20] as const),
    ['a character beyond ASCII', 'é'.repeat(32), 20],
    ['a newline', `${'0'.repeat(31)}\n`, 20],
  ] as const) {
    it(`refuses ${what}`, () => {
      assert.throws(() => decodeBase32(text, bytes), { code: 'E_BASE32' });
    });
  }
});
