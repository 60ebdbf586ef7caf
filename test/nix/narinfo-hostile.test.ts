// Every item of the list of hostile narinfos, by its name and where it is refused: as text, by its
// signature, beside what a host's manifest signs, or by the bytes that its URL gives. URLs that lead away
// are in narinfo-url.test.ts.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { describe, it } from 'node:test';
import { zstdCompressSync } from 'node:zlib';
import { checkAgainst } from '../../src/agent/cached.ts';
import { formatClosure, type PathInfo, parseClosure } from '../../src/nix/closure.ts';
import { checkContentAddress } from '../../src/nix/content-address.ts';
import { decompress } from '../../src/nix/decompress.ts';
import { formatNarHash } from '../../src/nix/hash.ts';
import { checkNar } from '../../src/nix/nar-check.ts';
import { formatNarInfo, type NarInfo, parseNarInfo } from '../../src/nix/narinfo.ts';
import {
  generateNixKey,
  nixPublicKeyOf,
  signPath,
  verifyPathSignature,
} from '../../src/nix/signature.ts';
import { baseNameOf, hashPartOf } from '../../src/nix/storepath.ts';
import { bytesOf, file, inChunks, nar } from '../helpers/nar.ts';
import { withLine } from '../helpers/narinfo.ts';
import { narHash, pathInfo, storePath } from '../helpers/paths.ts';

const [a, b] = [storePath('a', 'hello-2.12'), storePath('b', 'glibc-2.40')];
const key = generateNixKey('cache.example-1');
const keys = [nixPublicKeyOf(key)];
const bytes = nar(file('a'.repeat(1000)));
const signed: PathInfo = {
  path: a,
  narHash: formatNarHash(createHash('sha256').update(bytes).digest()),
  narSize: bytes.length,
  references: [a, b].sort(),
};
const info: NarInfo = {
  ...signed,
  url: 'nar/0123.nar.zst',
  compression: 'zstd',
  fileHash: narHash('file'),
  fileSize: 50_088,
  deriver: storePath('drv', 'hello-2.12.drv'),
  sigs: [signPath(signed, key)],
  ca: null,
};
const text = formatNarInfo(info);
const refused = { code: 'E_NARINFO' };

describe('hostile narinfos', () => {
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
      withLine(text, 'NarSize', `NarSize: ${size}`),
    ]),
    ['FileSize -1', withLine(text, 'FileSize', 'FileSize: -1')],
    ['FileSize 2^64', withLine(text, 'FileSize', 'FileSize: 18446744073709551616')],
    ...['', 'ZSTD', 'zst', 'gzip', 'lzma', '../x'].map((name): [string, string] => [
      `Compression ${JSON.stringify(name)}`,
      withLine(text, 'Compression', `Compression: ${name}`),
    ]),
    ['Sig without a colon', `${text}Sig: ${sig.replace(':', '')}\n`],
    ['Sig with bad base64', `${text}Sig: cache.example-1:****\n`],
    ['Sig of a wrong length', `${text}Sig: cache.example-1:AAAA\n`],
    ['an empty Sig', `${text}Sig: \n`],
    [
      'a NarHash of another kind',
      withLine(text, 'NarHash', 'NarHash: md5:d41d8cd98f00b204e9800998ecf8427e'),
    ],
    ['a bare NarHash', withLine(text, 'NarHash', `NarHash: ${info.narHash.slice(7)}`)],
    [
      'a NarHash that is too short',
      withLine(text, 'NarHash', `NarHash: ${info.narHash.slice(0, -1)}`),
    ],
    [
      'a FileHash with a foreign digit',
      withLine(text, 'FileHash', `FileHash: sha256:e${'0'.repeat(51)}`),
    ],
    ['a StorePath in another store', text.replace('/nix/store/', '/gnu/store/')],
    ['a StorePath that is a base name', withLine(text, 'StorePath', `StorePath: ${baseNameOf(a)}`)],
    ['a StorePath with something below', withLine(text, 'StorePath', `StorePath: ${a}/bin`)],
    ['References in full', withLine(text, 'References', `References: ${a}`)],
    [
      'a reference twice',
      withLine(text, 'References', `References: ${baseNameOf(a)} ${baseNameOf(a)}`),
    ],
    [
      'two spaces between references',
      withLine(text, 'References', `References: ${baseNameOf(a)}  ${baseNameOf(b)}`),
    ],
    ['a space after the references', withLine(text, 'References', `References: ${baseNameOf(a)} `)],
    ['a Deriver in full', withLine(text, 'Deriver', `Deriver: ${a}`)],
    ['an empty Deriver', withLine(text, 'Deriver', 'Deriver: ')],
  ];
  for (const [what, bad] of malformed) {
    it(`narinfo: ${what}`, () => {
      assert.notEqual(bad, text);
      assert.throws(() => parseNarInfo(bad), refused);
    });
  }

  it('narinfo: StorePath of another hash or another name', () => {
    assert.deepEqual(parseNarInfo(text, { hashPart: hashPartOf(a) }), info);
    const expect = { hashPart: hashPartOf(b) };
    assert.throws(() => parseNarInfo(text, expect), { ...refused, message: /was asked for/ });
    const renamed = parseNarInfo(
      withLine(text, 'StorePath', `StorePath: ${storePath('a', 'hello-2.13')}`),
      { hashPart: hashPartOf(a) },
    );
    assert.ok(!holds(renamed));
    assert.throws(() => checkAgainst(signed, renamed), mismatch('name'));
  });
  it('narinfo: a missing Compression means bzip2, which is not unpacked', async () => {
    const { compression } = parseNarInfo(withLine(text, 'Compression', null));
    assert.equal(compression, 'bzip2');
    const unpacked = decompress(inChunks(Buffer.from('BZh9')), compression);
    await assert.rejects(bytesOf(unpacked), { code: 'E_UPLOAD_COMPRESSION', message: /bzip2/ });
  });
  it('narinfo: References removed, NarHash or NarSize changed: the signature fails', () => {
    assert.ok(holds(parseNarInfo(text)));
    for (const [field, line, what] of [
      ['References', null, 'references'],
      ['References', 'References: ', 'references'],
      ['References', `References: ${baseNameOf(b)}`, 'references'],
      ['NarHash', `NarHash: ${narHash('other')}`, 'hash'],
      ['NarSize', `NarSize: ${info.narSize + 1}`, 'size'],
    ] as const) {
      const changed = parseNarInfo(withLine(text, field, line));
      assert.ok(!holds(changed));
      assert.throws(() => checkAgainst(signed, changed), mismatch(what));
    }
    assert.ok(!holds(parseNarInfo(withLine(text, 'Sig', null))));
  });
  it("narinfo: a trusted key's name with another key", () => {
    const impostor = generateNixKey(key.name);
    assert.ok(!holds({ ...info, sigs: [signPath(signed, impostor)] }));
  });
  it("narinfo: NarHash and URL swapped with another path's", () => {
    const swapped = parseNarInfo(
      withLine(text, 'NarHash', `NarHash: ${narHash('other')}`).replace('nar/0123', 'nar/4567'),
    );
    assert.ok(!holds(swapped));
    assert.throws(() => checkAgainst(signed, swapped), mismatch('hash'));
  });
  it('narinfo: a right Sig with a swapped URL holds, and the bytes are refused', async () => {
    const swapped = parseNarInfo(withLine(text, 'URL', 'URL: nar/of-another.nar.zst'));
    assert.ok(holds(swapped));
    for (const other of ['b'.repeat(1000), 'b'.repeat(5000), 'b']) {
      const body = zstdCompressSync(nar(file(other)));
      const unpacked = decompress(inChunks(body), swapped.compression);
      await assert.rejects(bytesOf(checkNar(unpacked, swapped)), {
        code: /^E_NAR_(MISMATCH|LIMIT|TRUNCATED)$/,
      });
    }
  });
  it('narinfo: a right Sig with a swapped Compression holds, and the bytes are refused', async () => {
    const body = zstdCompressSync(bytes);
    const through = (narinfo: NarInfo) =>
      bytesOf(checkNar(decompress(inChunks(body), narinfo.compression), narinfo));
    assert.ok((await through(info)).equals(bytes));
    for (const compression of ['none', 'xz']) {
      const swapped = parseNarInfo(withLine(text, 'Compression', `Compression: ${compression}`));
      assert.ok(holds(swapped));
      await assert.rejects(through(swapped), { code: 'E_NAR_BAD' });
    }
  });
  it('narinfo: a right Sig with a swapped Deriver holds, for nothing rests on it', () => {
    const swapped = parseNarInfo(withLine(text, 'Deriver', `Deriver: ${baseNameOf(b)}`));
    assert.ok(holds(swapped));
    assert.doesNotThrow(() => checkAgainst(signed, swapped));
  });
  it('narinfo: CA claimed falsely does not sign an unsigned path', () => {
    const unsigned = parseNarInfo(
      formatNarInfo({ ...info, sigs: [], ca: `fixed:r:${info.narHash}` }),
    );
    assert.equal(unsigned.ca, `fixed:r:${info.narHash}`);
    assert.ok(!holds(unsigned));
    // Nor is it what was claimed: an upload of it is refused.
    assert.throws(() => checkContentAddress({ ...unsigned, ca: `fixed:r:${info.narHash}` }, null), {
      code: 'E_UPLOAD_CA',
    });
  });
  it('narinfo: reference cycles end, and a closure with one too many paths is refused', () => {
    const [c, d] = [storePath('c'), storePath('d')];
    const cycle = [pathInfo(c, [d, c]), pathInfo(d, [c])];
    for (const each of cycle) {
      const read = parseNarInfo(formatNarInfo({ ...info, ...each }));
      assert.deepEqual(read.references, each.references);
    }
    assert.equal(parseClosure(formatClosure(cycle), c).paths.size, 2);
    assert.throws(() => parseClosure(formatClosure([...cycle, pathInfo(b)]), b), {
      code: 'E_CLOSURE_UNREACHABLE',
    });
  });
  it('narinfo: 100,000 references', () => {
    const references = Array.from({ length: 100_000 }, (_, i) => storePath(`${i}`)).sort();
    const long = formatNarInfo({ ...info, references });
    assert.deepEqual(parseNarInfo(long).references, references);
    assert.throws(
      () => parseNarInfo(long.replace('References: ', `$&${baseNameOf(references[9] ?? a)} `)),
      {
        ...refused,
        message: /comes twice/,
      },
    );
  });
});

function holds(narinfo: NarInfo): boolean {
  return narinfo.sigs.some((sig) => verifyPathSignature(narinfo, sig, keys));
}

function mismatch(what: string) {
  return { code: 'E_NARINFO_MISMATCH', message: new RegExp(`another ${what} `) };
}
