// narinfo: that it is written as Nix writes it, and that what is accepted comes back. What is refused is in
// narinfo-hostile.test.ts.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { isFleetError } from '../../src/errors.ts';
import { formatNarInfo, type NarInfo, parseNarInfo } from '../../src/nix/narinfo.ts';
import { generateNixKey, signPath } from '../../src/nix/signature.ts';
import { baseNameOf } from '../../src/nix/storepath.ts';
import { withLine } from '../helpers/narinfo.ts';
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
      assert.throws(() => parseNarInfo(withLine(text, required, null)), { ...refused, message });
    }
  });
  it('ignores keys it does not know, as Nix does', () => {
    assert.deepEqual(parseNarInfo(`System: x86_64-linux\nX-Note: né\nX-Note: 2\n${text}`), info);
  });
  it('reads the fields in any order, references unsorted, and an unknown deriver', () => {
    const shuffled = text.trimEnd().split('\n').sort().join('\n');
    assert.deepEqual(parseNarInfo(`${shuffled}\n`).references, info.references);
    const reversed = `References: ${[...info.references].reverse().map(baseNameOf).join(' ')}`;
    assert.deepEqual(parseNarInfo(withLine(text, 'References', reversed)), info);
    assert.equal(parseNarInfo(withLine(text, 'Deriver', 'Deriver: unknown-deriver')).deriver, null);
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
