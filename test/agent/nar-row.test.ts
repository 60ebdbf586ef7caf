import assert from 'node:assert/strict';
import { test } from 'node:test';
import { NarRow } from '../../src/agent/nar-row.ts';
import { bytesOf, inChunks } from '../helpers/nar.ts';

const BYTES = Buffer.from('aaaabbbccccccdd');

test('each by itself, whatever the chunks are', async () => {
  for (let chunk = 1; chunk <= BYTES.length; chunk++) {
    const row = new NarRow(inChunks(BYTES, chunk) as AsyncGenerator<Uint8Array, void, undefined>);
    const got: string[] = [];
    for (const size of [4, 3, 6, 2]) got.push(String(await bytesOf(row.next(size))));
    assert.deepEqual(got, ['aaaa', 'bbb', 'cccccc', 'dd']);
  }
});

test('what was not read of one is passed over', async () => {
  for (let chunk = 1; chunk <= BYTES.length; chunk++) {
    const row = new NarRow(inChunks(BYTES, chunk) as AsyncGenerator<Uint8Array, void, undefined>);
    await row.next(4).next();
    await row.next(3).next();
    assert.equal(String(await bytesOf(row.next(6))), 'cccccc');
  }
});

test('where the stream ends early, the NAR is short', async () => {
  const row = new NarRow(inChunks(BYTES, 4) as AsyncGenerator<Uint8Array, void, undefined>);
  assert.equal((await bytesOf(row.next(100))).length, BYTES.length);
  assert.equal((await bytesOf(row.next(1))).length, 0);
});
