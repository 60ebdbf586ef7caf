// Content addresses: paths that Nix computed, written down here (more, made on the spot, are in
// test/e2e/content-address.test.ts), and every way to claim one falsely.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { describe, it } from 'node:test';
import { checkContentAddress } from '../../src/nix/content-address.ts';
import { formatNarHash, narHashHex, parseNarHash } from '../../src/nix/hash.ts';
import { parseStorePathBaseName } from '../../src/nix/storepath.ts';
import { narHash, storePath } from '../helpers/paths.ts';

const flatHashOf = (contents: string) =>
  formatNarHash(createHash('sha256').update(contents).digest());
const helloNar = parseNarHash('sha256:0sg9f58l1jj88w6pdrfdpj5x9b1zrwszk84j81zvby36q9whhhqa');
const helloFlat = flatHashOf('hello');

const recursive = {
  path: parseStorePathBaseName('yqi18hzk6wxzj2ksv7x9k8rnnzwirzz9-hello'),
  narHash: helloNar,
  narSize: 120,
  references: [],
  ca: `fixed:r:${helloNar}`,
};
const flat = {
  ...recursive,
  path: parseStorePathBaseName('3fhdhfqli6qm669f7sz8d8v6xz24zrqc-hello'),
  ca: `fixed:${helloFlat}`,
};
const text = {
  ...recursive,
  path: parseStorePathBaseName('i4f75pn3bxkxdk2kld86k5qazq4cqj8i-hello'),
  ca: `text:${helloFlat}`,
};
const refers = {
  path: parseStorePathBaseName('c16727sb1ji3qvq6ydz9psai38lp7igj-refers'),
  narHash: parseNarHash('sha256:05iba2pz81lz2qig23xwl0hzznlk7zwz8sgag1hdilw9pn0hs3a2'),
  narSize: 168,
  references: [text.path],
  ca: 'text:sha256:09iq91dbmpj217d8r1jg637y6fgfzqhf2h9clmxpq5s46zhs08q7',
};
const refersFlat = flatHashOf(text.path);
/** An output of `__contentAddressed`, whose hash leaves out its own hash part. */
const self = {
  path: parseStorePathBaseName('9zhklkavlpmfww668vk5nblqsc1qdn39-multi'),
  narHash: parseNarHash('sha256:09pzk8dsgcnz8xavyw2jrfh227gpr52pjspfzl8gncfvcvz07f8h'),
  narSize: 216,
  references: [
    '9zhklkavlpmfww668vk5nblqsc1qdn39-multi',
    'ryb67dkxiv9lqlj101f1b2m2cp5iwqkf-dep-a',
  ].map(parseStorePathBaseName),
  ca: 'fixed:r:sha256:07q5sl2hnn0jz58lkwlabdplaxxrhfkassw4nx7js0sqgmrf204a',
};

const refused = (message: RegExp) => ({ code: 'E_UPLOAD_CA', message });

describe('checkContentAddress', () => {
  it('verifies what Nix computed, in each of its kinds', () => {
    assert.equal(checkContentAddress(recursive, helloFlat), 'verified');
    assert.equal(checkContentAddress(recursive, null), 'verified');
    assert.equal(checkContentAddress(flat, helloFlat), 'verified');
    assert.equal(checkContentAddress(text, helloFlat), 'verified');
    assert.equal(checkContentAddress(refers, refersFlat), 'verified');
    const hex = { ...recursive, ca: `fixed:r:sha256:${narHashHex(helloNar)}` };
    assert.equal(checkContentAddress(hex, null), 'verified');
  });
  it('says so when the bytes cannot tell: self-references, other algorithms, Git', () => {
    assert.equal(checkContentAddress(self, null), 'unverifiable');
    for (const ca of [
      'fixed:md5:10d5n5p8b8wsxhi6s92hgkbszh',
      'fixed:r:sha1:ax3jqwj7mh1a0ws7m0ijxg5p4n4b3mkk',
      'fixed:git:sha1:ax3jqwj7mh1a0ws7m0ijxg5p4n4b3mkk',
      `fixed:sha512:${'0'.repeat(103)}`,
      `fixed:r:blake3:${'0'.repeat(52)}`,
      `fixed:git:${helloNar}`,
    ]) {
      assert.equal(checkContentAddress({ ...recursive, ca }, helloFlat), 'unverifiable', ca);
    }
  });
  it('refuses other bytes', () => {
    const other = { narHash: narHash('other') };
    assert.throws(
      () => checkContentAddress({ ...recursive, ...other }, null),
      refused(/its bytes/),
    );
    for (const info of [flat, text]) {
      assert.throws(() => checkContentAddress(info, narHash('other')), refused(/its bytes/));
      // A directory, a symlink, an executable.
      assert.throws(() => checkContentAddress(info, null), refused(/its bytes/));
    }
  });
  it('refuses the path of another name, hash or kind', () => {
    const renamed = parseStorePathBaseName('yqi18hzk6wxzj2ksv7x9k8rnnzwirzz9-hullo');
    for (const info of [
      { ...recursive, path: renamed },
      { ...recursive, path: flat.path },
      { ...recursive, ca: text.ca },
      { ...recursive, ca: flat.ca },
      { ...flat, ca: recursive.ca },
      { ...flat, ca: text.ca },
      { ...text, ca: flat.ca },
      { ...text, ca: recursive.ca },
      { ...self, path: storePath('self', 'multi'), references: [storePath('self', 'multi')] },
    ]) {
      assert.throws(
        () => checkContentAddress(info, helloFlat),
        refused(/that makes the path \/nix\/store\//),
        `${info.path} ${info.ca}`,
      );
    }
  });
  it('refuses references that are left out, added, or that the kind cannot have', () => {
    const makes = refused(/that makes the path/);
    const [other] = [storePath('other')];
    assert.throws(() => checkContentAddress({ ...refers, references: [] }, refersFlat), makes);
    assert.throws(() => checkContentAddress({ ...text, references: [other] }, helloFlat), makes);
    assert.throws(() => checkContentAddress({ ...recursive, references: [other] }, null), makes);
    const ofSelf = self.references.filter((path) => path !== self.path);
    assert.throws(() => checkContentAddress({ ...self, references: ofSelf }, null), makes);
    const withOther = { ...flat, references: [other] };
    assert.throws(() => checkContentAddress(withOther, helloFlat), refused(/no references/));
    for (const info of [flat, text]) {
      const toItself = { ...info, references: [info.path] };
      assert.throws(() => checkContentAddress(toItself, helloFlat), refused(/refers to itself/));
    }
  });
  it('refuses what is no content address', () => {
    for (const ca of [
      'x',
      'fixed:',
      'fixed:r:',
      'fixed:r:sha256:',
      'text:r:sha256:0sg9f58l1jj88w6pdrfdpj5x9b1zrwszk84j81zvby36q9whhhqa',
      `source:${helloNar}`,
      `fixed:r:r:${helloNar}`,
      `fixed:r:${helloNar}x`,
      `fixed:r:${helloNar.slice(0, -1)}`,
      `fixed:r:${helloNar} `,
      `fixed:r:${helloNar.replace('sha256', 'SHA256')}`,
      `fixed:r:${helloNar.replace(/.$/, 'e')}`,
      `fixed:r:crc32:00000000`,
    ]) {
      assert.throws(() => checkContentAddress({ ...recursive, ca }, helloFlat), refused(/./), ca);
    }
  });
});
