// The proxy that the environment names.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { readProxies } from '../../src/agent/proxy.ts';
import { refused } from '../helpers/nix-scratch.ts';

test('lower case counts first, and what is empty is not set', () => {
  assert.deepEqual(readProxies({}), {});
  assert.deepEqual(readProxies({ http_proxy: '', HTTP_PROXY: '' }), {});
  assert.deepEqual(
    readProxies({
      http_proxy: 'http://a:1',
      HTTP_PROXY: 'http://b:2',
      HTTPS_PROXY: 'https://c:3',
      no_proxy: 'localhost',
    }),
    { HTTP_PROXY: 'http://a:1', HTTPS_PROXY: 'https://c:3', NO_PROXY: 'localhost' },
  );
});

for (const value of ['proxy:3128', 'foo', 'socks5://a:1', 'user:secret@host']) {
  test(`${value} is no HTTP proxy, and is not repeated`, () => {
    assert.throws(
      () => readProxies({ HTTPS_PROXY: value }),
      (error: Error) => refused('E_PROXY', /^HTTPS_PROXY/)(error) && !error.message.includes(value),
    );
  });
}
