// narinfo: every line of the list of hostile ones, and that what is accepted comes back.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { isFleetError } from '../../src/errors.ts';
import { formatNarInfo, type NarInfo, parseNarInfo } from '../../src/nix/narinfo.ts';
import {
  generateNixKey,
  nixPublicKeyOf,
  signPath,
  verifyPathSignature,
} from '../../src/nix/signature.ts';
import { baseNameOf, hashPartOf } from '../../src/nix/storepath.ts';
import {
  byteArbitrary,
  mutated,
  narHash,
  narHashArbitrary,
  pathInfo,
  pathInfoArbitrary,
  storePath,
  storePathArbitrary,
} from '../helpers/paths.ts';

const [a, b] = [storePath('a', 'hello-2.12'), storePath('b', 'glibc-2.40')];
const key = generateNixKey('cache.example-1');
const keys = [nixPublicKeyOf(key)];
const base = pathInfo(a, [a, b], 226_560);
const info: NarInfo = {
  ...base,
  url: 'nar/0123.nar.zst',
  compression: 'zstd',
  fileHash: narHash('file'),
  fileSize: 50_088,
  deriver: storePath('drv', 'hello-2.12.drv'),
  sigs: [signPath(base, key), signPath(base, generateNixKey('other-1'))],
  ca: null,
};
const text = formatNarInfo(info);
const refused = { code: 'E_NARINFO' };

/** `text` with the line of `key` replaced, or removed. */
function withLine(key: string, line: string | null): string {
  const lines = text.split('\n');
  const index = lines.findIndex((each) => each.startsWith(`${key}:`));
  assert.ok(index >= 0);
  lines.splice(index, 1, ...(line === null ? [] : [line]));
  return lines.join('\n');
}

describe('narinfo', () => {
  it('is written as Nix writes it', () => {
    const expected = [
      `StorePath: ${a}`,
      'URL: nar/0123.nar.zst',
      'Compression: zstd',
      `FileHash: ${info.fileHash}`,
      'FileSize: 50088',
      `NarHash: ${info.narHash}`,
      'NarSize: 226560',
      `References: ${[a, b].sort().map(baseNameOf).join(' ')}`,
      `Deriver: ${baseNameOf(storePath('drv', 'hello-2.12.drv'))}`,
      ...info.sigs.map((sig) => `Sig: ${sig}`),
      '',
    ];
    assert.equal(text, expected.join('\n'));
    assert.deepEqual(parseNarInfo(text), info);
  });
  it('without references keeps the space, as Nix does', () => {
    const lonely = formatNarInfo({ ...info, references: [] });
    assert.match(lonely, /^References: $/m);
    assert.deepEqual(parseNarInfo(lonely).references, []);
  });
  it('needs only StorePath, URL, NarHash and NarSize; a missing Compression means bzip2', () => {
    const lines = text.split('\n').filter((line) => /^(StorePath|URL|NarHash|NarSize):/.test(line));
    assert.deepEqual(parseNarInfo(`${lines.join('\n')}\n`), {
      ...base,
      references: [],
      url: info.url,
      compression: 'bzip2',
      fileHash: null,
      fileSize: null,
      deriver: null,
      sigs: [],
      ca: null,
    });
    for (const required of ['StorePath', 'URL', 'NarHash', 'NarSize']) {
      const message = new RegExp(`${required} is missing`);
      assert.throws(() => parseNarInfo(withLine(required, null)), { ...refused, message });
    }
  });
  it('ignores keys it does not know, as Nix does', () => {
    assert.deepEqual(parseNarInfo(`System: x86_64-linux\nX-Note: né\nX-Note: 2\n${text}`), info);
  });
  it('reads the fields in any order, references unsorted, and an unknown deriver', () => {
    const shuffled = text.trimEnd().split('\n').sort().join('\n');
    assert.deepEqual(parseNarInfo(`${shuffled}\n`).references, info.references);
    const reversed = `References: ${[...info.references].reverse().map(baseNameOf).join(' ')}`;
    assert.deepEqual(parseNarInfo(withLine('References', reversed)), info);
    assert.equal(parseNarInfo(withLine('Deriver', 'Deriver: unknown-deriver')).deriver, null);
  });
  it('refuses a path of another hash than was asked for', () => {
    assert.deepEqual(parseNarInfo(text, { hashPart: hashPartOf(a) }), info);
    const message = /was asked for/;
    assert.throws(() => parseNarInfo(text, { hashPart: hashPartOf(b) }), { ...refused, message });
  });

  const sig = info.sigs[0] ?? '';
  const malformed: [string, string][] = [
    ['nothing', ''],
    ['a lone newline', '\n'],
    ['HTML', '<!DOCTYPE html>\n<html><body>Please log in</body></html>\n'],
    ['HTML with a colon', '<a href="https: //x">\n'],
    ['a line without a colon', `${text}nonsense\n`],
    ['no final newline', text.slice(0, -1)],
    ['an empty line', `${text}\n`],
    ['CRLF', text.replaceAll('\n', '\r\n')],
    ['a NUL', text.replace('nar/', 'nar/\0')],
    ['no space after a colon', text.replace('NarSize: ', 'NarSize:')],
    ['two spaces after a colon', text.replace('NarSize: ', 'NarSize:  ')],
    ['a tab after a colon', text.replace('NarSize: ', 'NarSize:\t')],
    ['a space before a key', text.replace('NarSize', ' NarSize')],
    ['two CA', `${text}CA: fixed:r:sha256:x\nCA: fixed:r:sha256:x\n`],
    ['an empty CA', `${text}CA: \n`],
    ...[
      'StorePath',
      'URL',
      'Compression',
      'FileHash',
      'FileSize',
      'NarHash',
      'NarSize',
      'References',
      'Deriver',
    ].map((key): [string, string] => [`${key} twice`, `${text}${text.match(`${key}: .*\n`)?.[0]}`]),
    ...[
      '0',
      '-1',
      '+1',
      '01',
      '1e3',
      '0x10',
      '1.5',
      '',
      ' 1',
      '1 ',
      '9007199254740992',
      '18446744073709551616',
    ].map((size): [string, string] => [
      `NarSize ${JSON.stringify(size)}`,
      withLine('NarSize', `NarSize: ${size}`),
    ]),
    ['FileSize -1', withLine('FileSize', 'FileSize: -1')],
    ['FileSize 2^64', withLine('FileSize', 'FileSize: 18446744073709551616')],
    ...['', 'ZSTD', 'zst', 'gzip', 'lzma', '../x'].map((name): [string, string] => [
      `Compression ${JSON.stringify(name)}`,
      withLine('Compression', `Compression: ${name}`),
    ]),
    ['Sig without a colon', `${text}Sig: ${sig.replace(':', '')}\n`],
    ['Sig with bad base64', `${text}Sig: cache.example-1:****\n`],
    ['Sig of a wrong length', `${text}Sig: cache.example-1:AAAA\n`],
    ['an empty Sig', `${text}Sig: \n`],
    [
      'a NarHash of another kind',
      withLine('NarHash', 'NarHash: md5:d41d8cd98f00b204e9800998ecf8427e'),
    ],
    ['a bare NarHash', withLine('NarHash', `NarHash: ${info.narHash.slice(7)}`)],
    ['a NarHash that is too short', withLine('NarHash', `NarHash: ${info.narHash.slice(0, -1)}`)],
    [
      'a FileHash with a foreign digit',
      withLine('FileHash', `FileHash: sha256:e${'0'.repeat(51)}`),
    ],
    ['a StorePath in another store', text.replace('/nix/store/', '/gnu/store/')],
    ['a StorePath that is a base name', withLine('StorePath', `StorePath: ${baseNameOf(a)}`)],
    ['a StorePath with something below', withLine('StorePath', `StorePath: ${a}/bin`)],
    ['References in full', withLine('References', `References: ${a}`)],
    ['a reference twice', withLine('References', `References: ${baseNameOf(a)} ${baseNameOf(a)}`)],
    [
      'two spaces between references',
      withLine('References', `References: ${baseNameOf(a)}  ${baseNameOf(b)}`),
    ],
    ['a space after the references', withLine('References', `References: ${baseNameOf(a)} `)],
    ['a Deriver in full', withLine('Deriver', `Deriver: ${a}`)],
    ['an empty Deriver', withLine('Deriver', 'Deriver: ')],
  ];
  for (const [what, bad] of malformed) {
    it(`refuses ${what}`, () => {
      assert.notEqual(bad, text);
      assert.throws(() => parseNarInfo(bad), refused);
    });
  }

  it('a signature covers path, hash, size and references', () => {
    const valid = (narinfo: string) => {
      const parsed = parseNarInfo(narinfo);
      return parsed.sigs.some((each) => verifyPathSignature(parsed, each, keys));
    };
    assert.ok(valid(text));
    const other = storePath('a', 'hello-2.13');
    assert.ok(!valid(withLine('References', null)));
    assert.ok(!valid(withLine('References', 'References: ')));
    assert.ok(!valid(withLine('StorePath', `StorePath: ${b}`)));
    assert.ok(!valid(withLine('StorePath', `StorePath: ${other}`)));
    assert.ok(!valid(withLine('NarHash', `NarHash: ${narHash('other')}`)));
    assert.ok(!valid(withLine('NarSize', 'NarSize: 226561')));
    assert.ok(!valid(withLine('Sig', null)));
  });
  it('a signature does not cover URL, Compression, Deriver and CA', () => {
    for (const changed of [
      withLine('URL', 'URL: nar/of-another.nar.zst'),
      withLine('Compression', 'Compression: none'),
      withLine('Deriver', `Deriver: ${baseNameOf(b)}`),
      `${text}CA: text:sha256:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73\n`,
    ]) {
      const parsed = parseNarInfo(changed);
      assert.ok(verifyPathSignature(parsed, parsed.sigs[0] ?? '', keys));
    }
  });
  it('a false CA does not make an unsigned path signed', () => {
    const unsigned = { ...info, sigs: [], ca: `fixed:r:${info.narHash}` };
    const parsed = parseNarInfo(formatNarInfo(unsigned));
    assert.equal(parsed.ca, unsigned.ca);
    assert.deepEqual(parsed.sigs, []);
  });
  it('reads a hundred thousand references at once', () => {
    const references = Array.from({ length: 100_000 }, (_, i) => storePath(`${i}`)).sort();
    const long = formatNarInfo({ ...info, references });
    const start = performance.now();
    assert.deepEqual(parseNarInfo(long).references, references);
    assert.ok(performance.now() - start < 10_000);
  });

  const narInfoArbitrary: fc.Arbitrary<NarInfo> = fc
    .tuple(
      pathInfoArbitrary,
      fc.record({
        url: fc.stringMatching(/^nar\/[0-9a-z]{1,20}(\.nar)?(\.zst)?(\?hash=[0-9a-z]{4})?$/),
        compression: fc.constantFrom('none', 'xz', 'bzip2', 'br', 'zstd'),
        fileHash: fc.option(narHashArbitrary),
        fileSize: fc.option(fc.maxSafeNat()),
        deriver: fc.option(storePathArbitrary),
        sigs: fc.array(
          fc
            .uint8Array({ minLength: 64, maxLength: 64 })
            .map((bytes) => `k-1:${Buffer.from(bytes).toString('base64')}`),
          { maxLength: 3 },
        ),
        ca: fc.option(fc.stringMatching(/^fixed:r:sha256:[0-9a-z]{4}$/)),
      }),
    )
    .map(([path, rest]) => ({ ...path, ...rest }));

  it('any narinfo comes back', () => {
    fc.assert(
      fc.property(narInfoArbitrary, (any) => {
        assert.deepEqual(parseNarInfo(formatNarInfo(any)), any);
      }),
    );
  });
  it('one byte changed is refused, ignored with its unknown key, or says something else', () => {
    // Two narinfos say the same when they differ in unknown lines and the order of references only.
    const essence = (narinfo: string) =>
      narinfo
        .split('\n')
        .filter((line) =>
          /^(StorePath|URL|Compression|FileHash|FileSize|NarHash|NarSize|References|Deriver|Sig|CA): /.test(
            line,
          ),
        )
        .map((line) =>
          line.startsWith('References: ') ? line.slice(12).split(' ').sort().join(' ') : line,
        )
        .filter((line) => line !== '' && line !== 'Compression: bzip2')
        .join('\n');
    fc.assert(
      fc.property(narInfoArbitrary, fc.nat(), byteArbitrary, (any, at, byte) => {
        const changed = mutated(formatNarInfo(any), at, byte);
        try {
          assert.equal(essence(formatNarInfo(parseNarInfo(changed))), essence(changed));
        } catch (error) {
          assert.ok(isFleetError(error, 'E_NARINFO'), `${error}`);
        }
      }),
      { numRuns: 3000 },
    );
  });
});
