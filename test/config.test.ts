// fleet.json: strict, pure, and clear about what is wrong.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  formatConfig,
  formatListen,
  nearestWord,
  parseConfig,
  parseListen,
} from '../src/config.ts';
import { isFleetError } from '../src/errors.ts';

const parse = (text: string) => parseConfig(text, 'fleet.json');

function refused(text: string, pattern: RegExp): void {
  assert.throws(
    () => parse(text),
    (error) =>
      isFleetError(error, 'E_CONFIG') && error.exitCode === 2 && pattern.test(error.message),
    text,
  );
}

test('what is not said has its default, and the whole comes back from its own text', () => {
  const config = parse('{"version":1,"fleet":"a.example"}');
  assert.deepEqual(config, {
    fleet: 'a.example',
    url: null,
    listen: '127.0.0.1:8080',
    public: false,
    publicLog: false,
    zstdLevel: 3,
    manifestDays: 90,
    hostTokenDays: 90,
    cachePriority: 30,
    keepManifests: 5,
    keepUnusedDays: 7,
    keepNarDays: 30,
    packs: true,
    packWorkers: 2,
    gcHours: 24,
    uploadKeys: [],
    uploadReferences: 'exact',
    uploadMaxBytes: 64 * 1024 ** 3,
    upstreams: [],
    trustedProxies: [],
  });
  assert.deepEqual(parse(formatConfig(config)), config);
  assert.ok(Object.isFrozen(config));
});

test('an unknown key is refused, and a misspelt one is told which word was meant', () => {
  refused(
    '{"version":1,"fleet":"a","zstdlevel":3}',
    /unknown key "zstdlevel"; did you mean "zstdLevel"/,
  );
  refused('{"version":1,"fleet":"a","pubilc":true}', /did you mean "public"/);
  refused('{"version":1,"fleet":"a","retention":5}', /unknown key "retention"$/);
  refused('{"version":1,"fleet":"a","__proto__":{}}', /unknown key "__proto__"/);
  assert.equal(nearestWord('x'.repeat(100_000), ['listen']), null);
});

test('a missing key without a default is named', () => {
  refused('{"version":1}', /"fleet" is missing/);
  refused('{"fleet":"a"}', /"version" is missing/);
});

test('what is no object is refused', () => {
  for (const text of ['', 'null', '[]', '"x"', '{', '{"version":1,}']) refused(text, /JSON/);
});

test('each value is checked', () => {
  const values: [string, unknown[]][] = [
    ['version', [0, 2, '1', null]],
    ['fleet', ['', 'A', 'a..b', '-a', 'a-', 'a/b', 'a b', 'x'.repeat(201), 7, null]],
    ['url', ['', 'ftp://a', 'http://u:p@a', 'http://a?q', 'http://a#f', 'a.example', 7]],
    ['listen', ['', '8080', 'a:b', '::1:80', '[::1]', 'a:65536', ':80', 80]],
    ['public', ['true', 1, null]],
    ['zstdLevel', [0, 20, 1.5, '3', null]],
    ['manifestDays', [0, 3651, -1, '90']],
    ['hostTokenDays', [0, 3651, 1.5, null]],
    ['cachePriority', [0, 1001, '1']],
  ];
  for (const [key, bad] of values) {
    for (const value of bad) {
      const text = JSON.stringify({ version: 1, fleet: 'a', [key]: value });
      refused(text, new RegExp(`fleet.json: "${key}" must`));
    }
  }
});

test('a URL loses its final slash, and keeps its path', () => {
  const url = (text: string) => parse(JSON.stringify({ version: 1, fleet: 'a', url: text })).url;
  assert.equal(url('https://a.example/'), 'https://a.example');
  assert.equal(url('https://a.example/fleet/'), 'https://a.example/fleet');
});

test('an address to listen on comes back from its own text', () => {
  for (const text of ['127.0.0.1:8080', '[::]:80', '[::1]:0', 'localhost:65535']) {
    assert.equal(formatListen(parseListen(text)), text);
  }
});

test('lists and nested settings are refused by name when they are wrong', () => {
  const key = `k-1:${Buffer.alloc(32).toString('base64')}`;
  const upstream = { url: 'https://cache.nixos.org/', keys: [key] };
  const given = { uploadKeys: [key], upstreams: [upstream], trustedProxies: ['10.0.0.0/8', '::1'] };
  const config = parse(JSON.stringify({ version: 1, fleet: 'a', ...given }));
  assert.deepEqual(config.upstreams, [{ url: 'https://cache.nixos.org', keys: [key] }]);
  assert.deepEqual(config.trustedProxies, given.trustedProxies);
  for (const [name, value, pattern] of [
    ['uploadKeys', 'k', /"uploadKeys" must be a list/],
    ['uploadKeys', ['k-1:short'], /Nix public keys/],
    ['uploadReferences', 'some', /"exact" or "declared"/],
    ['uploadMaxBytes', 0, /whole number/],
    ['upstreams', [{ url: 'https://x' }], /at least one key/],
    ['upstreams', [{ ...upstream, keys: [] }], /at least one key/],
    ['upstreams', [{ ...upstream, url: 'file:///etc' }], /must be a URL/],
    ['upstreams', [{ ...upstream, more: 1 }], /unknown key "more"/],
    ['upstreams', [null], /at least one key/],
    ['keepManifests', 0, /from 1 to 1000/],
    ['gcHours', -1, /from 0/],
    ...['300.1.1.1', '10.0.0.0/33', 'localhost', '', '1:2', '::1/129', 7].map(
      (proxy) => ['trustedProxies', [proxy], /must hold addresses/] as const,
    ),
  ] as const) {
    refused(JSON.stringify({ version: 1, fleet: 'a', [name]: value }), pattern);
  }
});
