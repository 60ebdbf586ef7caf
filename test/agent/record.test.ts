import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  boolean,
  digest,
  formatRecord,
  integer,
  list,
  nullable,
  oneOf,
  parseRecord,
  record,
  string,
} from '../../src/agent/record.ts';

type Sample = {
  readonly name: string;
  readonly count: number;
  readonly kind: 'a' | 'b';
  readonly inner: { readonly flag: boolean } | null;
  readonly hashes: readonly string[];
};

const FIELDS = {
  name: string,
  count: integer(1, 9),
  kind: oneOf(['a', 'b']),
  inner: nullable(record<{ flag: boolean }>({ flag: boolean })),
  hashes: list(digest),
};

const parse = (text: string) => parseRecord<Sample>(text, 'FILE', FIELDS);
const good: Sample = {
  name: 'x',
  count: 3,
  kind: 'b',
  inner: { flag: true },
  hashes: ['0'.repeat(64)],
};

test('a record is read back as it was written', () => {
  assert.deepEqual(parse(formatRecord(good)), good);
  assert.deepEqual(parse(formatRecord({ ...good, inner: null })), { ...good, inner: null });
});

test('everything else is corrupt, and the file is named', () => {
  const text = formatRecord(good);
  const bad = [
    '',
    '{',
    text.slice(0, -5),
    '[]',
    'null',
    formatRecord({ ...good, name: 1 }),
    formatRecord({ ...good, count: 0 }),
    formatRecord({ ...good, count: 1.5 }),
    formatRecord({ ...good, count: 10 }),
    formatRecord({ ...good, kind: 'c' }),
    formatRecord({ ...good, inner: {} }),
    formatRecord({ ...good, inner: { flag: 1 } }),
    formatRecord({ ...good, hashes: ['0'] }),
    formatRecord({ ...good, hashes: {} }),
    formatRecord({ ...good, version: 0 }),
    JSON.stringify(good),
    JSON.stringify({ version: 1, name: 'x' }),
  ];
  for (const one of bad) {
    assert.throws(() => parse(one), { code: 'E_AGENT_STATE_CORRUPT', message: /FILE/ }, one);
  }
});

test('a later version is told apart from damage', () => {
  assert.throws(() => parse(formatRecord({ ...good, version: 2 })), { code: 'E_STATE_NEWER' });
});

test('what a newer agent wrote besides is passed over, but not where people write', () => {
  const newer = formatRecord({ ...good, extra: 1, inner: { flag: true, more: [] } });
  assert.deepEqual(parse(newer), good);
  const edited = () => parseRecord<Sample>(newer, 'FILE', FIELDS, true);
  assert.throws(edited, { code: 'E_AGENT_STATE_CORRUPT', message: /unknown key "extra"$/ });
  assert.throws(() => parse(newer.replace('"version": 1', '"version": 2')), {
    code: 'E_STATE_NEWER',
  });
});
