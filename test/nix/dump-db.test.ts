// parseDumpDb is strict: a record is whole or refused, and the message names the line.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseDumpDb } from '../../src/nix/dump-db.ts';
import { narHashHex } from '../../src/nix/hash.ts';

const A = '/nix/store/0ccp5ig94r6vlmgqqcvl3hq4kzw3v8ix-a';
const B = '/nix/store/1yhgh9hf5bkr52qvm4q5mm3gpqzm6hmm-b';
const DRV = '/nix/store/2sdkqlpmdh4yvrvq4k0bwvr2qqb5ss0v-b.drv';
const HEX = '878832cd22b5e038e117b701378558f8a9b6cad7381a0e6d57a9e865d34f85a6';

const record = (...lines: (string | number)[]): string => lines.map((line) => `${line}\n`).join('');
const GOOD = record(A, HEX, 288, '', 0) + record(B, HEX, 120, DRV, 2, B, A);

test('reads records, sorts references, keeps the order of paths', () => {
  const infos = parseDumpDb(GOOD);
  assert.deepEqual(
    infos.map(({ path, narSize, deriver, references }) => ({ path, narSize, deriver, references })),
    [
      { path: A, narSize: 288, deriver: null, references: [] },
      { path: B, narSize: 120, deriver: DRV, references: [A, B] },
    ],
  );
  for (const { narHash } of infos) assert.equal(narHashHex(narHash), HEX);
});

test('nothing is no path', () => assert.deepEqual(parseDumpDb(''), []));

const refused: [name: string, text: string, line: number][] = [
  ['a path of another store', record('/gnu/store/x', HEX, 1, '', 0), 1],
  ['a path with something below it', record(`${A}/bin`, HEX, 1, '', 0), 1],
  ['a short hash', record(A, HEX.slice(1), 1, '', 0), 2],
  ['a hash with its algorithm', record(A, `sha256:${HEX}`, 1, '', 0), 2],
  ['an upper-case hash', record(A, HEX.toUpperCase(), 1, '', 0), 2],
  ['an empty size', record(A, HEX, '', '', 0), 3],
  ['a negative size', record(A, HEX, -1, '', 0), 3],
  ['a size with an exponent', record(A, HEX, '1e3', '', 0), 3],
  ['a size above 2^53', record(A, HEX, '9007199254740993', '', 0), 3],
  ['a deriver that is no path', record(A, HEX, 1, 'unknown-deriver', 0), 4],
  ['a count that is no number', record(A, HEX, 1, '', 'two'), 5],
  ['a count larger than what follows', record(A, HEX, 1, '', 9_000_000_000, A), 7],
  ['a count smaller than what follows', record(A, HEX, 1, '', 0, B), 7],
  ['a reference twice', record(A, HEX, 1, '', 2, B, B), 7],
  ['no newline at the end', GOOD.slice(0, -1), 12],
  ['a blank line', `${GOOD}\n`, 13],
  ['CRLF', GOOD.replaceAll('\n', '\r\n'), 1],
];
for (const [name, text, line] of refused) {
  test(`refuses ${name}`, () => {
    assert.throws(() => parseDumpDb(text), {
      code: 'E_NIX_OUTPUT',
      message: new RegExp(`line ${line}: `),
    });
  });
}

test('every cut is refused, unless it falls between two records', () => {
  const between = record(A, HEX, 288, '', 0).length;
  for (let end = 1; end < GOOD.length; end += 1) {
    if (end === between) continue;
    assert.throws(() => parseDumpDb(GOOD.slice(0, end)), { code: 'E_NIX_OUTPUT' }, `cut at ${end}`);
  }
});
