import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import {
  baseNameOf,
  hashPartOf,
  isHashPart,
  nameOf,
  parseStorePath,
  parseStorePathBaseName,
} from '../../src/nix/storepath.ts';

const HASH = '0123456789abcdfghijklmnpqrsvwxyz';
const refused = { code: 'E_STORE_PATH' };

describe('store paths', () => {
  it('come apart', () => {
    const path = parseStorePath(`/nix/store/${HASH}-hello-2.12+b_1?=`);
    assert.equal(path, `/nix/store/${HASH}-hello-2.12+b_1?=`);
    assert.equal(baseNameOf(path), `${HASH}-hello-2.12+b_1?=`);
    assert.equal(hashPartOf(path), HASH);
    assert.equal(nameOf(path), 'hello-2.12+b_1?=');
    assert.equal(parseStorePathBaseName(baseNameOf(path)), path);
  });
  const bad: [string, string][] = [
    ['nothing', ''],
    ['no name', `${HASH}-`],
    ['no dash', HASH],
    ['a hash part of 31', `${HASH.slice(1)}-x`],
    ['a hash part of 33', `${HASH}0-x`],
    ['a hash part with e', `e${HASH.slice(1)}-x`],
    ['a hash part with t', `t${HASH.slice(1)}-x`],
    ['an upper-case hash part', `${HASH.toUpperCase()}-x`],
    ['something below', `${HASH}-x/bin`],
    ['a trailing slash', `${HASH}-x/`],
    ['a newline', `${HASH}-x\n`],
    ['a NUL', `${HASH}-x\0`],
    ['a space', `${HASH}-x y`],
    ['a character beyond ASCII', `${HASH}-é`],
    ['the name .', `${HASH}-.`],
    ['the name ..', `${HASH}-..`],
    ['the name .-x', `${HASH}-.-x`],
    ['the name ..-x', `${HASH}-..-x`],
    ['212 characters', `${HASH}-${'x'.repeat(212)}`],
    ['a path in front', `../${HASH}-x`],
  ];
  for (const [what, baseName] of bad) {
    it(`refuse ${what}`, () => {
      assert.throws(() => parseStorePathBaseName(baseName), refused);
      assert.throws(() => parseStorePath(`/nix/store/${baseName}`), refused);
    });
  }
  it('accept what Nix accepts: 211 characters, a leading dot', () => {
    parseStorePathBaseName(`${HASH}-${'x'.repeat(211)}`);
    parseStorePathBaseName(`${HASH}-.x`);
    parseStorePathBaseName(`${HASH}-...`);
  });
  it('refuse other store directories', () => {
    for (const dir of [
      '',
      '/',
      '/nix/store',
      '/nix/store//',
      '/nix/store/../store/',
      '/gnu/store/',
    ]) {
      assert.throws(() => parseStorePath(`${dir}${HASH}-x`), refused);
    }
  });
  it('a refusal does not print a megabyte', () => {
    assert.throws(
      () => parseStorePath('x'.repeat(1 << 20)),
      (error: Error) => error.message.length < 400,
    );
  });
  it('a hash part is 32 digits of nix32', () => {
    assert.ok(isHashPart(HASH));
    for (const text of ['', HASH.slice(1), `${HASH}0`, `${HASH}\n`, `u${HASH.slice(1)}`]) {
      assert.ok(!isHashPart(text));
    }
  });
});
