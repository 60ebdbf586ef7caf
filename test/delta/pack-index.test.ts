// The beginning of a pack: what is written is read, and whatever breaks a rule of SPEC §12.2 or §12.3 is refused by name.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { zstdCompressSync, zstdDecompressSync } from 'node:zlib';
import fc from 'fast-check';
import {
  formatPackIndex,
  type PackIndex,
  parsePackHead,
  parsePackIndex,
} from '../../src/delta/pack-index.ts';
import { isFleetError } from '../../src/errors.ts';
import type { PathInfo } from '../../src/nix/closure.ts';
import { formatNarHash } from '../../src/nix/hash.ts';
import { parseStorePath } from '../../src/nix/storepath.ts';

const pathOf = (mark: string, name: string) =>
  parseStorePath(`/nix/store/${mark.repeat(32)}-${name}`);
const info = (mark: string, name: string, references: string[] = []): PathInfo => ({
  path: pathOf(mark, name),
  narHash: formatNarHash(Buffer.alloc(32, mark)),
  narSize: 1000,
  references: references.map((one) => parseStorePath(one)),
});
const glibc = info('b', 'glibc-2.40', [pathOf('b', 'glibc-2.40')]);
const git = info('c', 'git-2', [glibc.path]);
const unit = info('d', 'unit', [git.path]);
const fresh = info('f', 'fresh');
const top = info('g', 'top', [glibc.path, unit.path, fresh.path]);
const closure = { paths: new Map([glibc, git, unit, fresh, top].map((one) => [one.path, one])) };
const [oldGlibc, oldGit, oldUnit] = [
  pathOf('1', 'glibc-2.36'),
  pathOf('2', 'git-1'),
  pathOf('3', 'unit'),
];
const [digest, base] = ['a'.repeat(64), 'b'.repeat(64)];
const sigs = [`fleet-1:${Buffer.alloc(64).toString('base64')}`];
const segment = (mark: string, bytes: number) => ({ bytes, sha256: mark.repeat(64), memory: 10 });

const INDEX: PackIndex = {
  closure: digest,
  base,
  segments: [segment('1', 10), segment('2', 20), segment('3', 30)],
  paths: [
    {
      kind: 'patch',
      info: glibc,
      sigs,
      old: oldGlibc,
      renames: new Map([[oldGlibc, glibc.path]]),
      segment: 0,
    },
    {
      kind: 'patch',
      info: git,
      sigs,
      old: oldGit,
      renames: new Map([
        [oldGlibc, glibc.path],
        [oldGit, git.path],
      ]),
      segment: 1,
    },
    { kind: 'whole', info: fresh, sigs, segment: 2 },
    {
      kind: 'copy',
      info: unit,
      sigs,
      old: oldUnit,
      renames: new Map([
        [oldGit, git.path],
        [oldUnit, unit.path],
      ]),
    },
    { kind: 'whole', info: top, sigs, segment: 2 },
  ],
};
const expect = { closure, digest, base };

function framed(bytes: Uint8Array): Buffer {
  const head = parsePackHead(bytes);
  assert.ok(head);
  assert.equal(bytes.length, head.head + head.index);
  return Buffer.from(bytes.subarray(head.head));
}

type Json = { [name: string]: unknown };
const json = () =>
  JSON.parse(zstdDecompressSync(framed(formatPackIndex(INDEX, closure))).toString()) as Json & {
    paths: Json[];
    segments: Json[];
    old: string[];
  };
const parsed = (value: unknown) =>
  parsePackIndex(zstdCompressSync(Buffer.from(JSON.stringify(value))), expect);

const REFUSED: readonly (readonly [
  what: string,
  change: (j: ReturnType<typeof json>) => unknown,
])[] = [
  ['of another closure', (j) => ({ ...j, closure: 'c'.repeat(64) })],
  ['of another base', (j) => ({ ...j, base: null })],
  ['with a member more', (j) => ({ ...j, more: 1 })],
  ['with a member less', ({ old: _, ...j }) => j],
  ['that is a list', () => []],
  ['that is null', () => null],
  ['whose old paths are in no order', (j) => ({ ...j, old: j.old.toReversed() })],
  ['whose old paths are none', (j) => ({ ...j, old: j.old.map(() => '/etc/passwd') })],
  [
    'with an empty segment',
    (j) => ({ ...j, segments: [{ ...j.segments[0], bytes: 0 }, ...j.segments.slice(1)] }),
  ],
  [
    'with a segment without a digest',
    (j) => ({
      ...j,
      segments: [{ ...j.segments[0], sha256: 'A'.repeat(64) }, ...j.segments.slice(1)],
    }),
  ],
  [
    'with a segment of a size that is none',
    (j) => ({ ...j, segments: [{ ...j.segments[0], bytes: 2 ** 53 }, ...j.segments.slice(1)] }),
  ],
  [
    'with a segment that no path names',
    (j) => ({ ...j, segments: [...j.segments, j.segments[0]] }),
  ],
  ['that names a segment that it has not', (j) => ({ ...j, segments: j.segments.slice(0, 2) })],
  [
    'that names segments out of order',
    (j) => ({
      ...j,
      paths: j.paths.map((p) =>
        p['segment'] === 0 ? { ...p, segment: 1 } : p['segment'] === 1 ? { ...p, segment: 0 } : p,
      ),
    }),
  ],
  [
    'with two patches in a segment',
    (j) => ({
      ...j,
      segments: j.segments.slice(1),
      paths: j.paths.map((p) =>
        typeof p['segment'] === 'number' ? { ...p, segment: Math.max(0, p['segment'] - 1) } : p,
      ),
    }),
  ],
  ['with a path twice', (j) => ({ ...j, paths: [...j.paths, j.paths[2]] })],
  [
    'with a path before what it refers to',
    (j) => ({ ...j, paths: [...j.paths.slice(0, 2), j.paths[4], j.paths[2], j.paths[3]] }),
  ],
  [
    'with a path that the closure has not',
    (j) => ({ ...j, paths: [{ ...j.paths[0], path: 5 }, ...j.paths.slice(1)] }),
  ],
  [
    'with a path from below',
    (j) => ({ ...j, paths: [{ ...j.paths[0], path: -1 }, ...j.paths.slice(1)] }),
  ],
  [
    'with a path without signatures',
    (j) => ({ ...j, paths: [{ ...j.paths[0], sigs: [] }, ...j.paths.slice(1)] }),
  ],
  [
    'with a signature that is none',
    (j) => ({ ...j, paths: [{ ...j.paths[0], sigs: ['x'] }, ...j.paths.slice(1)] }),
  ],
  [
    'with an old path that it has not',
    (j) => ({ ...j, paths: [{ ...j.paths[0], old: 3 }, ...j.paths.slice(1)] }),
  ],
  [
    'with renames in no order',
    (j) => ({
      ...j,
      paths: [
        j.paths[0],
        {
          ...j.paths[1],
          renames: [
            [1, 1],
            [0, 0],
          ],
        },
        ...j.paths.slice(2),
      ],
    }),
  ],
  [
    'with an old path renamed twice',
    (j) => ({
      ...j,
      paths: [
        {
          ...j.paths[0],
          renames: [
            [0, 0],
            [0, 1],
          ],
        },
        ...j.paths.slice(1),
      ],
    }),
  ],
  [
    'with a rename of three',
    (j) => ({ ...j, paths: [{ ...j.paths[0], renames: [[0, 0, 0]] }, ...j.paths.slice(1)] }),
  ],
];

describe('the index of a pack', () => {
  it('is read as it was written', () => {
    const bytes = formatPackIndex(INDEX, closure);
    assert.deepEqual(parsePackIndex(framed(bytes), expect), INDEX);
    assert.ok(bytes.equals(formatPackIndex(INDEX, closure)));
    const first = {
      ...INDEX,
      base: null,
      segments: [segment('1', 7)],
      paths: [{ kind: 'whole' as const, info: fresh, sigs, segment: 0 }],
    };
    assert.deepEqual(
      parsePackIndex(framed(formatPackIndex(first, closure)), { ...expect, base: null }),
      first,
    );
  });

  it('is JSON as RFC 8785 writes it', () => {
    const text = zstdDecompressSync(framed(formatPackIndex(INDEX, closure))).toString();
    const sorted = (value: unknown): unknown =>
      typeof value !== 'object' || value === null
        ? value
        : Array.isArray(value)
          ? value.map(sorted)
          : Object.fromEntries(
              Object.entries(value)
                .sort(([a], [b]) => (a < b ? -1 : 1))
                .map(([k, v]) => [k, sorted(v)]),
            );
    assert.equal(text, JSON.stringify(sorted(JSON.parse(text))));
  });

  for (const [what, change] of REFUSED) {
    it(`${what} is refused`, () => {
      assert.ok(parsed(json()));
      assert.throws(() => parsed(change(json())), { code: 'E_PACK_BAD' });
    });
  }

  it('that is no JSON, no zstd, longer than it may be or followed by more is refused', () => {
    for (const frame of [
      zstdCompressSync(Buffer.from('{')),
      Buffer.from('nonsense'),
      zstdCompressSync(Buffer.alloc(2 ** 24 + 1, 32)),
      Buffer.concat([zstdCompressSync(Buffer.from(JSON.stringify(json()))), Buffer.from('x')]),
    ]) {
      assert.throws(() => parsePackIndex(frame, expect), { code: 'E_PACK_BAD' });
    }
  });

  it('with old paths, for a host that has nothing, is refused', () => {
    const frame = framed(formatPackIndex({ ...INDEX, base: null }, closure));
    assert.throws(() => parsePackIndex(frame, { ...expect, base: null }), {
      code: 'E_PACK_BAD',
      message: /without a base/,
    });
  });

  it('of few bytes that would be gigabytes once it is parsed is refused before that', () => {
    const values = 2 ** 21;
    for (const text of ['['.repeat(values + 1), `[${'{},'.repeat(values / 2)}0]`]) {
      const frame = zstdCompressSync(Buffer.from(text));
      assert.throws(() => parsePackIndex(frame, expect), {
        message: /more than 2097152 values/,
      });
    }
    const many = Array.from({ length: values }, () => sigs[0] ?? '');
    const [, , whole] = INDEX.paths;
    assert.ok(whole !== undefined);
    assert.throws(() => formatPackIndex({ ...INDEX, paths: [{ ...whole, sigs: many }] }, closure), {
      code: 'E_PACK_BAD',
    });
  });

  it('in which any byte is damaged is refused or says what has a meaning', () => {
    const frame = Buffer.from(JSON.stringify(json()));
    fc.assert(
      fc.property(fc.nat({ max: frame.length - 1 }), fc.integer({ min: 1, max: 255 }), (at, by) => {
        const damaged = Buffer.from(frame);
        damaged[at] = (damaged[at] ?? 0) ^ by;
        try {
          parsePackIndex(zstdCompressSync(damaged), expect);
        } catch (error) {
          assert.ok(isFleetError(error, 'E_PACK_BAD'), String(error));
        }
      }),
      { numRuns: 500 },
    );
  });
});

describe('the first line of a pack', () => {
  const line = (text: string) => parsePackHead(Buffer.from(text, 'latin1'));
  it('tells where the index begins and how long it is, once it is there', () => {
    assert.deepEqual(line('fleet-pack/1 123\nrest'), { head: 17, index: 123 });
    for (const part of ['', 'f', 'fleet-pack/', 'fleet-pack/1 12']) assert.equal(line(part), null);
  });
  it('of a later version is told so', () => {
    assert.throws(() => line('fleet-pack/2 123\n'), { code: 'E_PACK_VERSION' });
  });
  it('of another form is refused', () => {
    for (const text of [
      'x',
      'fleet-pack/1 0\n',
      'fleet-pack/1  1\n',
      'fleet-pack/1 1x\n',
      'fleet-pack/01 1\n',
      'fleet-pack/1 123456789\n',
      `fleet-pack/1 ${'1'.repeat(64)}`,
      '<html>'.repeat(20),
    ]) {
      assert.throws(() => line(text), { code: 'E_PACK_BAD' }, text);
    }
  });
});
