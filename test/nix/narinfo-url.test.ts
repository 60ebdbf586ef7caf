// A narinfo's URL may only lead below the cache that it came from.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { formatNarInfo, parseNarInfo, parseNarUrl } from '../../src/nix/narinfo.ts';
import { pathInfo, storePath } from '../helpers/paths.ts';

const refused = { code: 'E_NARINFO' };

/** Written, not checked: formatNarInfo takes any URL. */
const narinfo = (url: string) =>
  formatNarInfo({
    ...pathInfo(storePath('a')),
    url,
    compression: 'zstd',
    fileHash: null,
    fileSize: null,
    deriver: null,
    sigs: [],
    ca: null,
  });

describe('the URL of a narinfo', () => {
  const urls = [
    '',
    '/',
    '/nar/x',
    '//other.example/nar/x',
    'http://other.example/nar/x',
    'https://other.example/x',
    'file:///etc/passwd',
    'file:nar/x',
    'javascript:x',
    'user:secret@other.example/x',
    'user@other.example/x',
    '..',
    '../../x',
    'nar/../../x',
    'nar/..',
    'nar/./x',
    './nar',
    'nar//x',
    'nar/',
    'nar/%2e%2e/x',
    '%2e%2e/x',
    'nar/..%2fx',
    'nar\\..\\x',
    '\\\\other\\x',
    'nar/x y',
    'nar/x#fragment',
    'nar/é',
    '?query',
    'nar/?query',
    'nar/x?a b',
    `nar/${'x'.repeat(1024)}`,
  ];
  for (const url of urls) {
    it(`refuses the URL ${JSON.stringify(url.slice(0, 40))}`, () => {
      assert.throws(() => parseNarUrl(url), refused);
      assert.throws(() => parseNarInfo(narinfo(url)), refused);
    });
  }
  it('accepts relative URLs, with a query too, and they stay below the cache', () => {
    const accepted = [
      'x',
      'nar/x.nar',
      'nar/a/b/..x/x..',
      'nar/x.nar.zst?hash=0a-b&c=../d',
      'nar/~a+b=c,d',
    ];
    for (const url of accepted) {
      assert.equal(parseNarInfo(narinfo(url)).url, url);
      const joined = new URL(url, 'https://cache.example/base/');
      assert.ok(joined.href.startsWith('https://cache.example/base/'), joined.href);
    }
  });
});
