import assert from 'node:assert/strict';
import { test } from 'node:test';
import { constants, zstdCompressSync } from 'node:zlib';
import { unpackFrame } from '../../src/agent/unpack-frame.ts';
import { noise } from '../helpers/drafted-packs.ts';
import { bytesOf } from '../helpers/nar.ts';

const BYTES = noise('frame', 1_000_003);
const FRAME = zstdCompressSync(BYTES);

/** In one buffer, which is used again for each chunk. */
async function* reused(bytes: Buffer, size: number): AsyncGenerator<Uint8Array> {
  const buffer = Buffer.alloc(size);
  for (let at = 0; at < bytes.length; at += size) {
    const length = bytes.copy(buffer, 0, at, at + size);
    yield buffer.subarray(0, length);
  }
}

test('unpacks what comes in a buffer that is used again', async () => {
  for (const size of [7777, 128 * 1024, 2_000_000]) {
    assert.ok((await bytesOf(unpackFrame(reused(FRAME, size), 25))).equals(BYTES), `${size}`);
  }
});

test('refuses what is no frame, and a larger window than is taken', async () => {
  const bad = { code: 'E_PACK_BAD' };
  await assert.rejects(bytesOf(unpackFrame(reused(Buffer.from('no frame'), 8), 25)), bad);
  const wide = zstdCompressSync(Buffer.alloc(2 ** 22), {
    params: { [constants.ZSTD_c_windowLog]: 22 },
  });
  await assert.rejects(bytesOf(unpackFrame(reused(wide, 100), 20)), bad);
  assert.equal((await bytesOf(unpackFrame(reused(wide, 100), 22))).length, 2 ** 22);
});
