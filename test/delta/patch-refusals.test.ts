// What a patch must not say (SPEC §12.5), each by hand and each refused by name; and one that says it right, so that only that is wrong.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { constants, createZstdCompress, zstdCompressSync } from 'node:zlib';
import { applyPatch } from '../../src/delta/apply-patch.ts';
import { bytesOf, inChunks } from '../helpers/nar.ts';
import { applied, appliedSlowly } from '../helpers/patches.ts';

const old = Buffer.from('0123456789abcdef');

function number(value: number): number[] {
  const bytes: number[] = [];
  let rest = value;
  for (; rest >= 128; rest = Math.floor(rest / 128)) bytes.push((rest % 128) + 128);
  return [...bytes, rest];
}

type Streams = readonly [copies: number[], gaps?: number[], values?: number[], literals?: number[]];

function block(
  length: number,
  streams: Streams,
  change: { readonly unpacked?: number; readonly packed?: Buffer } = {},
): Buffer {
  const head = number(length);
  const frames: Buffer[] = [];
  for (let i = 0; i < 4; i++) {
    const stream = Buffer.from((streams[i] ?? []).flatMap(i < 2 ? number : (byte) => byte));
    const frame =
      (i === 0 ? change.packed : undefined) ??
      (stream.length === 0 ? Buffer.alloc(0) : zstdCompressSync(stream));
    head.push(...number((i === 0 ? change.unpacked : undefined) ?? stream.length));
    head.push(...number(frame.length));
    frames.push(frame);
  }
  return Buffer.concat([Buffer.from(head), ...frames]);
}

/** Two literals, `2345` with a difference at `4`, shifted bits of `89`. */
const GOOD: Streams = [[2, 4, 2 * (2 * 2), 0, 1, 2 * (2 * 2) + 1, 3], [2], [255], [120, 121]];

const REFUSED: readonly (readonly [what: string, patch: Buffer])[] = [
  ['a block of nothing', block(0, [[]])],
  ['a block that is too large', block(2 ** 23 + 1, [[2 ** 23 + 1, 0]])],
  ['more literals than there are', block(2, [[2, 0], [], [], [120]])],
  ['literals that are left over', block(1, [[1, 0], [], [], [120, 121]])],
  ['more bytes than the block has', block(3, [[0, 4, 0]])],
  ['less bytes than the block has', block(5, [[0, 4, 0]])],
  ['a copy from before the beginning', block(4, [[0, 4, 2 * 17]])],
  ['a copy from beyond the end', block(4, [[0, 4, 2 * 2 * 13]])],
  ['a copy from far beyond the end', block(4, [[0, 4, 2 ** 52]])],
  ['a shifted copy of the last byte', block(1, [[0, 1, 2 * (2 * 15) + 1, 3]])],
  ['a shift of no bits', block(1, [[0, 1, 1, 0]])],
  ['a shift of eight bits', block(1, [[0, 1, 1, 8]])],
  ['a copy without its place', block(4, [[0, 4]])],
  ['a difference without its value', block(4, [[0, 4, 0], [1]])],
  ['a value without its difference', block(4, [[0, 4, 0], [], [1]])],
  ['a difference after the last copy', block(4, [[0, 4, 0], [4], [1]])],
  [
    'a number that is cut off',
    block(4, [[0, 4, 0]], {
      packed: zstdCompressSync(Buffer.from([0, 4, 128])),
    }),
  ],
  [
    'a number beyond 2^53',
    block(4, [[]], {
      unpacked: 10,
      packed: zstdCompressSync(Buffer.from([0, 4, 255, 255, 255, 255, 255, 255, 255, 31])),
    }),
  ],
  ['a stream that is no zstd', block(4, [[0, 4, 0]], { packed: Buffer.from('nonsense') })],
  ['a stream that is shorter than it said', block(4, [[0, 4, 0]], { unpacked: 4 })],
  ['a stream that is longer than it said', block(4, [[0, 4, 0]], { unpacked: 2 })],
  [
    'a stream of two frames',
    block(4, [[0, 4, 0]], {
      packed: Buffer.concat([
        zstdCompressSync(Buffer.from([0, 4, 0])),
        zstdCompressSync(Buffer.from([1])),
      ]),
    }),
  ],
  [
    'a stream with something after it',
    block(4, [[0, 4, 0]], {
      packed: Buffer.concat([zstdCompressSync(Buffer.from([0, 4, 0])), Buffer.from('x')]),
    }),
  ],
  ['a stream longer than its block', block(4, [[0, 4, 0]], { unpacked: 21 })],
  [
    'a bomb',
    block(4, [[0, 4, 0]], { unpacked: 20, packed: zstdCompressSync(Buffer.alloc(2 ** 26)) }),
  ],
  ['a stream that is there and has nothing', block(4, [[0, 4, 0]], { unpacked: 0 })],
  [
    'a stream that packed much more than it has',
    block(4, [[0, 4, 0]], { packed: Buffer.alloc(2000) }),
  ],
  ['an end in the head', block(4, [[0, 4, 0]]).subarray(0, 5)],
  ['an end in a stream', block(4, [[0, 4, 0]]).subarray(0, -1)],
  ['a head of endless numbers', Buffer.alloc(100, 255)],
];

describe('a patch', () => {
  it('of the good form is applied', async () => {
    const patch = block(7, GOOD);
    const byte = ((old[8] ?? 0) >> 3) | (((old[9] ?? 0) << 5) & 255);
    const expected = Buffer.concat([Buffer.from('xy2335'), Buffer.from([byte])]);
    const result = await applied(old, patch);
    assert.ok(result.equals(appliedSlowly(old, patch)));
    assert.deepEqual(result, expected);
  });

  for (const [what, patch] of REFUSED) {
    it(`with ${what} is refused`, async () => {
      await assert.rejects(applied(old, patch), { code: 'E_PATCH_BAD' });
      // Also after a block that was right.
      await assert.rejects(applied(old, Buffer.concat([block(4, [[0, 4, 0]]), patch])), {
        code: 'E_PATCH_BAD',
      });
    });
  }

  it('whose streams take more memory than its segment says is refused', async () => {
    // 11 bytes, packed 47.
    const patch = block(7, GOOD);
    assert.equal((await applied(old, patch, { memory: 58 })).length, 7);
    await assert.rejects(applied(old, patch, { memory: 57 }), { code: 'E_PATCH_BAD' });
  });

  it('of copies that take a disk very long leaves others their turn, and is given up', async (t) => {
    let [clock, turns, reads] = [0, 0, 0];
    t.mock.method(performance, 'now', () => clock);
    const count = (): void => {
      turns += 1;
      next = setImmediate(count);
    };
    let next = setImmediate(count);
    t.after(() => clearImmediate(next));
    const slow = {
      size: old.length,
      read: () => {
        reads += 1;
        clock += 100;
      },
    };
    const copies = Array.from({ length: 1000 }, (_, i) => [0, 1, i === 0 ? 0 : 2]).flat();
    const patch = block(5000, [[...copies, 4000, 0], [], [], new Array(4000).fill(120)]);
    const chunks = inChunks(patch, 1000);
    await assert.rejects(bytesOf(applyPatch(slow, chunks, 10_000)), { message: /too long/ });
    assert.ok(reads >= 300 && reads < 330, `${reads}`);
    assert.ok(turns >= 15, `${turns}`);
  });

  it('with a window beyond what is allowed is refused before memory is taken', async () => {
    const encoder = createZstdCompress({ params: { [constants.ZSTD_c_windowLog]: 27 } });
    const chunks: Buffer[] = [];
    encoder.on('data', (chunk: Buffer) => chunks.push(chunk));
    encoder.end(Buffer.from([0, 4, 0]));
    await new Promise((resolve) => encoder.once('end', resolve));
    const patch = block(4, [[0, 4, 0]], { packed: Buffer.concat(chunks) });
    await assert.rejects(applied(old, patch), { code: 'E_PATCH_BAD' });
  });
});
