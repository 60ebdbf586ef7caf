import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { test } from 'node:test';
import fc from 'fast-check';
import { canonicalBytes, canonicalize, MAX_DEPTH, parseCanonical } from '../../src/manifest/jcs.ts';
import { refuses } from '../helpers/trust.ts';

const VECTORS = new URL('../../../shared/vectors/jcs/', import.meta.url);
const skip = existsSync(VECTORS) ? false : 'no ../shared/vectors/jcs beside this checkout';
const parse = (text: string) => parseCanonical(Buffer.from(text));

test('the published RFC 8785 pairs come out byte for byte', { skip }, () => {
  const names = readdirSync(new URL('input/', VECTORS));
  assert.equal(names.length, 6);
  for (const name of names) {
    const input: unknown = JSON.parse(readFileSync(new URL(`input/${name}`, VECTORS), 'utf8'));
    const output = readFileSync(new URL(`output/${name}`, VECTORS));
    assert.deepEqual(Buffer.from(canonicalBytes(input)), output, name);
  }
});

test('numbers are written as RFC 8785 appendix B says', () => {
  const samples: [number, string][] = [
    [-0, '0'],
    [5e-324, '5e-324'],
    [-1.7976931348623157e308, '-1.7976931348623157e+308'],
    [9007199254740992, '9007199254740992'],
    [295147905179352830000, '295147905179352830000'],
    [9.999999999999997e22, '9.999999999999997e+22'],
    [1e23, '1e+23'],
    [0.000001, '0.000001'],
    [Number('333333333.33333329'), '333333333.3333333'],
  ];
  for (const [value, text] of samples) assert.equal(canonicalize(value), text);
});

test('any JSON value survives, and its canonical form is a fixed point', () => {
  fc.assert(
    fc.property(fc.jsonValue({ maxDepth: 5, noUnicodeString: false }), (value) => {
      const text = canonicalize(value);
      assert.deepEqual(JSON.parse(text), JSON.parse(JSON.stringify(value)));
      assert.equal(canonicalize(JSON.parse(text)), text);
    }),
    { numRuns: 300 },
  );
});

test('a canonical payload of strings, whole numbers, arrays, objects, booleans and null is read', () => {
  const text = '{"":null,"a":[true,false,"é€😀"],"n":-9007199254740991,"z":{"b":9007199254740991}}';
  assert.equal(canonicalize(parse(text)), text);
});

test('a payload with a duplicate key is refused, also when both members are equal', () => {
  refuses('E_PAYLOAD_FORM', () => parse('{"a":1,"a":1}'), /duplicate/);
  refuses('E_PAYLOAD_FORM', () => parse('{"a":1,"a":2}'));
  refuses('E_PAYLOAD_FORM', () => parse('{"x":{"a":1,"a":2}}'));
  refuses('E_PAYLOAD_FORM', () => parse('{"a":1,"\\u0061":2}'));
});

test('floats, -0 and integers of 2^53 or more are refused', () => {
  for (const number of ['0.5', '1.5', '1e-7', '1e+23', '9007199254740992', '-9007199254740992']) {
    refuses('E_PAYLOAD_FORM', () => parse(`[${number}]`), /whole number/);
  }
  for (const number of ['-0', '1.0', '1e3', '1E3', '10e0', '9007199254740993', '1e400']) {
    refuses('E_PAYLOAD_FORM', () => parse(`[${number}]`));
  }
});

test('lone surrogates are refused, in values and in keys', () => {
  refuses('E_PAYLOAD_FORM', () => parse('["\\ud800"]'), /surrogate/);
  refuses('E_PAYLOAD_FORM', () => parse('{"\\udead":1}'), /surrogate/);
  refuses('E_PAYLOAD_FORM', () => parseCanonical(Buffer.from('225beda0805d22', 'hex')));
  refuses('E_PAYLOAD_FORM', () => canonicalize('\ud800'), /surrogate/);
});

test('what is JSON but not canonical is refused', () => {
  for (const text of [
    ' {}',
    '{}\n',
    '{"a": 1}',
    '{"b":1,"a":2}',
    '["\\u0041"]',
    '["\\/"]',
    '\ufeff{}',
  ]) {
    refuses('E_PAYLOAD_FORM', () => parse(text));
  }
});

test('what is no JSON is refused, invalid UTF-8 and nothing at all included', () => {
  for (const bytes of [
    Buffer.from(''),
    Buffer.from('{"a":1'),
    Buffer.from('{"a":1}x'),
    Buffer.of(0x22, 0xff, 0x22),
    Buffer.of(0x22, 0xc0, 0x80, 0x22),
  ]) {
    refuses('E_PAYLOAD_FORM', () => parseCanonical(bytes), /not JSON/);
  }
});

test('nesting is capped, and a payload of nothing but brackets costs no stack', () => {
  const nested = (depth: number) => '['.repeat(depth) + ']'.repeat(depth);
  assert.ok(parse(nested(MAX_DEPTH)));
  refuses('E_PAYLOAD_FORM', () => parse(nested(MAX_DEPTH + 2)), /deeper/);
  refuses('E_PAYLOAD_FORM', () => parse(nested(30_000)), /deeper/);
  refuses('E_PAYLOAD_FORM', () => parse(`${'{"a":'.repeat(9000)}1${'}'.repeat(9000)}`), /deeper/);
});

test('__proto__ is a key like any other', () => {
  const value = parse('{"__proto__":{"admin":true},"constructor":1}');
  assert.equal(canonicalize(value), '{"__proto__":{"admin":true},"constructor":1}');
  assert.equal(Reflect.get(Object.prototype, 'admin'), undefined);
  assert.deepEqual(Object.keys(value as object), ['__proto__', 'constructor']);
});

test('what JSON cannot say is refused when it is written', () => {
  const holes = new Array<number>(1);
  for (const value of [undefined, { a: undefined }, [undefined], holes, Number.NaN, 1 / 0, 1n]) {
    refuses('E_PAYLOAD_FORM', () => canonicalize(value));
  }
  for (const value of [new Map(), new Date(0), Buffer.of(1), () => 1, Symbol('x')]) {
    refuses('E_PAYLOAD_FORM', () => canonicalize(value));
  }
});
