// Which old path a new one is made from: by name, by name without version, by size; always the same.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { pairPaths, renamesOf } from '../../src/delta/pair.ts';
import type { PathInfo } from '../../src/nix/closure.ts';
import { formatNarHash } from '../../src/nix/hash.ts';
import { nameOf, parseStorePath, type StorePath } from '../../src/nix/storepath.ts';

const HASH = formatNarHash(Buffer.alloc(32));
const pathOf = (mark: string, name: string) =>
  parseStorePath(`/nix/store/${mark.repeat(32)}-${name}`);
const info = (path: StorePath, narSize = 100, references: StorePath[] = []): PathInfo => ({
  path,
  narHash: HASH,
  narSize,
  references: references.sort(),
});
const closure = (infos: PathInfo[]) => ({ paths: new Map(infos.map((one) => [one.path, one])) });

/** `new name` → `old name` with the mark of the old one's hash. */
function pairs(
  olds: readonly (readonly [string, string, number?])[],
  news: readonly (readonly [string, string, number?])[],
) {
  const of = (all: readonly (readonly [string, string, number?])[]) =>
    closure(all.map(([mark, name, size]) => info(pathOf(mark, name), size)));
  return Object.fromEntries(
    [...pairPaths(of(olds), of(news))].map(([next, old]) => [
      nameOf(next),
      `${old[11]} ${nameOf(old)}`,
    ]),
  );
}

describe('pairPaths', () => {
  it('takes the same name, else the same but for the version, outputs apart', () => {
    assert.deepEqual(
      pairs(
        [
          ['a', 'unit-a.service'],
          ['a', 'openssl-3.0.17'],
          ['a', 'openssl-3.0.17-bin'],
          ['a', 'gone-1'],
        ],
        [
          ['b', 'unit-a.service'],
          ['b', 'openssl-3.0.22'],
          ['b', 'openssl-3.0.22-bin'],
          ['b', 'fresh-1'],
        ],
      ),
      {
        'unit-a.service': 'a unit-a.service',
        'openssl-3.0.22': 'a openssl-3.0.17',
        'openssl-3.0.22-bin': 'a openssl-3.0.17-bin',
      },
    );
  });

  it('takes the nearest in size of several, each once', () => {
    assert.deepEqual(
      pairs(
        [
          ['a', 'etc', 10],
          ['c', 'etc', 1000],
          ['d', 'perl-5', 7],
        ],
        [
          ['b', 'etc', 990],
          ['d', 'perl-5', 7],
        ],
      ),
      { etc: 'c etc' },
    );
  });

  it('leaves out what stayed, and takes it as a source for what has no other', () => {
    assert.deepEqual(
      pairs(
        [['a', 'gcc-12', 5]],
        [
          ['a', 'gcc-12', 5],
          ['b', 'gcc-13', 6],
        ],
      ),
      { 'gcc-13': 'a gcc-12' },
    );
  });

  it('pairs very many of one name by their sizes', () => {
    const many = (letters: string) =>
      [...letters].flatMap((x) =>
        [...'0123456789abcdfghijklmnpqrsvwxyz'].map((y, i) =>
          info(parseStorePath(`/nix/store/${(x + y).repeat(16)}-source`), i),
        ),
      );
    const [olds, news] = [
      closure(many('abcdfghijklmnpqrsvwx')),
      closure(many('0123456789yz'.replace(/[yz]/g, ''))),
    ];
    const found = pairPaths(olds, news);
    assert.equal(found.size, news.paths.size);
    assert.equal(new Set(found.values()).size, news.paths.size);
  });
});

describe('renamesOf', () => {
  it('has the path itself and the references that changed', () => {
    const [glibc, glibc2] = [pathOf('a', 'glibc-2.36'), pathOf('b', 'glibc-2.40')];
    const [same, gone, fresh] = [
      pathOf('c', 'zlib-1'),
      pathOf('d', 'gone-1'),
      pathOf('f', 'fresh-1'),
    ];
    const [old, next] = [pathOf('g', 'git-1'), pathOf('h', 'git-2')];
    const renames = renamesOf(
      info(old, 1, [glibc, same, gone, old]),
      info(next, 1, [glibc2, same, fresh, next]),
    );
    assert.deepEqual(
      [...renames].sort(),
      [
        [glibc, glibc2],
        [old, next],
      ].sort(),
    );
  });
});
