// One zstd frame per NAR, small or large, with its size and checksum; failures and early ends.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { test } from 'node:test';
import { zstdDecompressSync } from 'node:zlib';
import { compressed, SMALL_NAR } from '../../src/cache/compress.ts';
import { bytesOf } from '../helpers/nar.ts';

/** `bytes` in chunks of one buffer that is overwritten each time, as dumpNar's may be. */
async function* reusing(bytes: Uint8Array, size = 256 * 1024): AsyncGenerator<Uint8Array> {
  const chunk = Buffer.alloc(size);
  for (let at = 0; at < bytes.length; at += size) {
    chunk.fill(0xee);
    const piece = bytes.subarray(at, at + size);
    chunk.set(piece);
    yield chunk.subarray(0, piece.length);
  }
  chunk.fill(0xee);
}

const MAGIC = '28b52ffd';
const CHECKSUM_FLAG = 0b100;

for (const size of [1, 1000, SMALL_NAR - 1, SMALL_NAR, SMALL_NAR + 1, 3 * SMALL_NAR + 77]) {
  test(`${size} bytes are one frame that says their number`, async () => {
    const bytes = Buffer.concat([
      randomBytes(size / 2),
      Buffer.alloc(Math.ceil(size / 2), 'text '),
    ]);
    const frame = await bytesOf(compressed(reusing(bytes), bytes.length, 3));
    assert.equal(frame.subarray(0, 4).toString('hex'), MAGIC);
    assert.notEqual((frame[4] ?? 0) & CHECKSUM_FLAG, 0);
    assert.equal(contentSize(frame), bytes.length);
    // The whole input at once: what follows a first frame would be lost.
    assert.deepEqual(zstdDecompressSync(frame, { maxOutputLength: size + 10 }), bytes);
  });
}

test('several at once keep apart', async () => {
  const inputs = Array.from({ length: 12 }, (_, i) => Buffer.alloc(100_000 * (i + 1), `n${i}`));
  const frames = await Promise.all(
    inputs.map((input) => bytesOf(compressed(reusing(input, 1000), input.length, 3))),
  );
  for (const [i, frame] of frames.entries()) assert.deepEqual(zstdDecompressSync(frame), inputs[i]);
});

test('the level counts', async () => {
  const input = Buffer.from(execFileSync(process.execPath, ['--help']));
  const size = async (level: number) =>
    (await bytesOf(compressed(reusing(input), input.length, level))).length;
  assert.ok((await size(19)) < (await size(1)));
});

for (const size of [1000, 4 * SMALL_NAR]) {
  test(`what fails in the midst of ${size} bytes fails with its own error`, async () => {
    const failing = (async function* () {
      yield* reusing(randomBytes(size / 2));
      throw new Error('the source failed');
    })();
    await assert.rejects(bytesOf(compressed(failing, size, 3)), /the source failed/);
  });

  test(`a consumer that stops early ends the source, ${size} bytes`, async () => {
    let ended = false;
    const source = (async function* () {
      try {
        yield* reusing(randomBytes(size));
      } finally {
        ended = true;
      }
    })();
    for await (const _chunk of compressed(source, size, 3)) break;
    assert.equal(ended, true);
  });
}

/** Frame_Content_Size (RFC 8878 §3.1.1.1). */
function contentSize(frame: Buffer): number {
  const descriptor = frame[4] ?? 0;
  const single = (descriptor >> 5) & 1;
  const at = 5 + (single ? 0 : 1);
  switch (descriptor >> 6) {
    case 0:
      return single ? (frame[at] ?? Number.NaN) : Number.NaN;
    case 1:
      return frame.readUInt16LE(at) + 256;
    case 2:
      return frame.readUInt32LE(at);
    default:
      return Number(frame.readBigUInt64LE(at));
  }
}
