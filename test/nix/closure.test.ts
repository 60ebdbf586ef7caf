// closure.fp: each sentence of SPEC §4.5 is a refusal here.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { isFleetError } from '../../src/errors.ts';
import { formatClosure, type PathInfo, parseClosure } from '../../src/nix/closure.ts';
import { fingerprintOf } from '../../src/nix/signature.ts';
import type { StorePath } from '../../src/nix/storepath.ts';
import {
  byteArbitrary,
  mutated,
  pathInfo,
  pathInfoArbitrary,
  storePath,
} from '../helpers/paths.ts';

const [a, b, c, d] = ['1', '2', '3', '4'].map((seed) => storePath(seed)).sort() as [
  StorePath,
  StorePath,
  StorePath,
  StorePath,
];
// A cycle, a self-reference, a leaf: b → {a, b, c}, c → b.
const infos = [pathInfo(a), pathInfo(b, [a, b, c]), pathInfo(c, [b])];
const text = formatClosure(infos).toString('latin1');
const lines = text.split('\n').slice(0, -1);
const [lineA = '', lineB = '', lineC = ''] = lines;
const joined = (...all: string[]) => all.map((line) => `${line}\n`).join('');
const parse = (file: string, toplevel = b) => parseClosure(Buffer.from(file, 'latin1'), toplevel);

describe('closure.fp', () => {
  it('is the sorted fingerprints, whatever order they come in', () => {
    assert.equal(text, joined(...infos.map(fingerprintOf)));
    assert.equal(formatClosure([...infos].reverse()).toString(), text);
    assert.match(lineA, /;$/);
  });
  it('comes back as it went in', () => {
    const closure = parse(text);
    assert.equal(closure.toplevel, b);
    assert.equal(closure.narBytes, 360);
    assert.deepEqual([...closure.paths.values()], infos);
    assert.deepEqual([...closure.paths.keys()], [a, b, c]);
    assert.equal(formatClosure(closure.paths.values()).toString(), text);
  });
  it('reads a view in the middle of a larger buffer', () => {
    const bytes = Buffer.from(`junk${text}junk`);
    const closure = parseClosure(bytes.subarray(4, 4 + text.length), b);
    assert.equal(closure.paths.size, 3);
  });

  const malformed: [string, string][] = [
    ['nothing', ''],
    ['a lone newline', '\n'],
    ['no newline at the end', text.slice(0, -1)],
    ['an empty line', `${text}\n`],
    ['an empty line in front', `\n${text}`],
    ['CRLF', text.replaceAll('\n', '\r\n')],
    ['a NUL', text.replace(';', '\0;')],
    ['a byte order mark', `\xef\xbb\xbf${text}`],
    ['lines that are not sorted', joined(lineB, lineA, lineC)],
    ['a line twice', joined(lineA, lineA, lineB, lineC)],
    ['a path twice with other contents', joined(lineA, lineA.replace('120', '121'), lineB, lineC)],
    ['another version', text.replace('1;', '2;')],
    ['a version with a zero', text.replace('1;', '01;')],
    ['a field too few', text.replace(/;\n/, '\n')],
    ['a field too many', text.replace(/;\n/, ';;\n')],
    ['a space', text.replace(';', '; ')],
    ['a hash in hex', text.replace(/sha256:\w+/, `sha256:${'0'.repeat(64)}`)],
    [
      'a hash as SRI',
      text.replace(/sha256:\w+/, 'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='),
    ],
    ['a hash of another kind', text.replace('sha256', 'sha512')],
    ['a hash with excess bits', text.replace(/sha256:\w/, 'sha256:3')],
    ['a NAR size of 0', text.replace(';120;', ';0;')],
    ['an empty NAR size', text.replace(';120;', ';;')],
    ['a NAR size with a leading zero', text.replace(';120;', ';0120;')],
    ['a NAR size with a sign', text.replace(';120;', ';+120;')],
    ['a negative NAR size', text.replace(';120;', ';-120;')],
    ['a NAR size in exponents', text.replace(';120;', ';1e3;')],
    ['a NAR size in hex', text.replace(';120;', ';0x78;')],
    ['a NAR size of 2^53', text.replace(';120;', ';9007199254740992;')],
    ['a NAR size of 2^64', text.replace(';120;', ';18446744073709551616;')],
    ['NAR sizes that add up to 2^53', text.replace(';120;', ';9007199254740991;')],
    ['references that are not sorted', text.replace(`${a},${b}`, `${b},${a}`)],
    ['a reference twice', text.replace(`${a},`, `${a},${a},`)],
    ['a comma at the end', text.replace(`,${c}\n`, `,${c},\n`)],
    ['a comma in front', text.replace(`;${a},`, `;,${a},`)],
    ['a reference that is a base name', text.replace(`;${a},`, `;${a.slice(11)},`)],
    ['a reference below a path', text.replace(`,${c}\n`, `,${c}/bin\n`)],
    ['a path in another store', text.replace('1;/nix/store', '1;/gnu/store')],
    ['a path with a foreign digit', text.replace(/1;\/nix\/store\/./, '1;/nix/store/e')],
  ];
  for (const [what, file] of malformed) {
    it(`refuses ${what}`, () => {
      assert.notEqual(file, text);
      assert.throws(() => parse(file), { code: 'E_CLOSURE_FORM' });
    });
  }
  it('accepts the largest size there is', () => {
    const largest = formatClosure([pathInfo(a, [], Number.MAX_SAFE_INTEGER)]);
    assert.equal(parseClosure(largest, a).narBytes, Number.MAX_SAFE_INTEGER);
  });

  it('refuses a reference without a line', () => {
    const message = new RegExp(`refers to ${a}`);
    assert.throws(() => parse(joined(lineB, lineC)), { code: 'E_CLOSURE_MISSING', message });
    assert.throws(() => parse(joined(lineA, lineB)), { code: 'E_CLOSURE_MISSING' });
  });
  it('refuses a toplevel without a line', () => {
    assert.throws(() => parse(text, d), { code: 'E_CLOSURE_MISSING', message: new RegExp(d) });
  });
  it('refuses a path that the toplevel does not need', () => {
    const extra = fingerprintOf(pathInfo(d, [a]));
    const error = { code: 'E_CLOSURE_UNREACHABLE', message: new RegExp(d), exitCode: 3 };
    assert.throws(() => parse(joined(...lines, extra)), error);
  });
  it('refuses a cycle that the toplevel does not need', () => {
    assert.throws(() => parse(text, a), { code: 'E_CLOSURE_UNREACHABLE' });
  });

  it('is written only of what can be read', () => {
    assert.throws(() => formatClosure([pathInfo(a), pathInfo(a)]), { code: 'E_CLOSURE_FORM' });
    const unsorted = { ...pathInfo(b), references: [c, a] };
    assert.throws(() => formatClosure([unsorted]), { code: 'E_CLOSURE_FORM' });
  });

  const closureArbitrary = fc
    .uniqueArray(pathInfoArbitrary, { minLength: 1, maxLength: 8, selector: (info) => info.path })
    .map((infos) => {
      // The first refers to all, so that every line is needed; the others to their elders.
      const paths = infos.map((info) => info.path);
      const resolved = infos.map((info, i): PathInfo => {
        const references = i === 0 ? paths : paths.slice(0, i).filter((_, j) => (i + j) % 2 === 0);
        return { ...info, narSize: info.narSize % 1e12 || 1, references: [...references].sort() };
      });
      return { toplevel: paths[0] as StorePath, bytes: formatClosure(resolved), resolved };
    });
  it('any closure comes back', () => {
    fc.assert(
      fc.property(closureArbitrary, ({ toplevel, bytes, resolved }) => {
        const closure = parseClosure(bytes, toplevel);
        assert.deepEqual(formatClosure(closure.paths.values()), bytes);
        for (const info of resolved) assert.deepEqual(closure.paths.get(info.path), info);
      }),
    );
  });
  it('one byte changed is refused, or is another closure', () => {
    fc.assert(
      fc.property(closureArbitrary, fc.nat(), byteArbitrary, ({ toplevel, bytes }, at, byte) => {
        const changed = Buffer.from(mutated(bytes.toString('latin1'), at, byte), 'latin1');
        try {
          const closure = parseClosure(changed, toplevel);
          assert.deepEqual(formatClosure(closure.paths.values()), changed);
        } catch (error) {
          assert.ok(
            isFleetError(error, 'E_CLOSURE_FORM', 'E_CLOSURE_MISSING', 'E_CLOSURE_UNREACHABLE'),
            `${error}`,
          );
        }
      }),
      { numRuns: 2000 },
    );
  });

  it('a chain of ten thousand does not exhaust the stack', () => {
    const chain = Array.from({ length: 10_000 }, (_, i) => storePath(`chain${i}`));
    const all = chain.map((path, i) => pathInfo(path, chain.slice(i + 1, i + 2)));
    const closure = parseClosure(formatClosure(all), chain[0] as StorePath);
    assert.equal(closure.paths.size, 10_000);
  });
  it('a hundred thousand lines with ten references each are read in linear time', () => {
    const paths = Array.from({ length: 100_000 }, (_, i) => storePath(`many${i}`)).sort();
    const hashed = pathInfo(a).narHash;
    const all = paths.map((path, i) => ({
      path,
      narHash: hashed,
      narSize: 1000,
      references: paths.slice(i + 1, i + 11),
    }));
    const bytes = formatClosure(all);
    const start = performance.now();
    const closure = parseClosure(bytes, paths[0] as StorePath);
    const spent = performance.now() - start;
    assert.equal(closure.narBytes, 100_000_000);
    assert.ok(spent < 5000, `${spent} ms`);
  });
});
