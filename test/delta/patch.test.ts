// Patches: what is made from two NARs gives the second from the first; what was damaged gives a refusal or other bytes, which their
// hash tells (nar-check.test.ts), and never more than was asked for.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { isFleetError } from '../../src/errors.ts';
import { applied, appliedSlowly, blocksOf, patchOf } from '../helpers/patches.ts';

/** Bytes that look random, and are always the same. */
function noise(length: number, seed: string): Buffer {
  const parts: Buffer[] = [];
  for (let i = 0; i * 32 < length; i++) {
    parts.push(createHash('sha256').update(`${seed} ${i}`).digest());
  }
  return Buffer.concat(parts).subarray(0, length);
}

type Edit = {
  readonly kind: 'insert' | 'delete' | 'change' | 'move' | 'add' | 'shift';
  at: number;
  length: number;
  to: number;
};

const edit = fc.record({
  kind: fc.constantFrom('insert', 'delete', 'change', 'move', 'add', 'shift'),
  at: fc.double({ min: 0, max: 1, noNaN: true }),
  length: fc.integer({ min: 1, max: 3000 }),
  to: fc.double({ min: 0, max: 1, noNaN: true }),
}) as fc.Arbitrary<Edit>;

function edited(old: Buffer, edits: readonly Edit[]): Buffer {
  let bytes = Buffer.from(old);
  for (const [i, { kind, at, length, to }] of edits.entries()) {
    const from = Math.floor(at * bytes.length);
    const end = Math.min(from + length, bytes.length);
    const [before, middle, after] = [
      bytes.subarray(0, from),
      bytes.subarray(from, end),
      bytes.subarray(end),
    ];
    if (kind === 'insert') bytes = Buffer.concat([before, noise(length, `${i}`), middle, after]);
    else if (kind === 'delete') bytes = Buffer.concat([before, after]);
    else if (kind === 'change')
      bytes = Buffer.concat([before, noise(middle.length, `${i}`), after]);
    else if (kind === 'move') {
      const rest = Buffer.concat([before, after]);
      const place = Math.floor(to * rest.length);
      bytes = Buffer.concat([rest.subarray(0, place), middle, rest.subarray(place)]);
    } else if (kind === 'add') {
      // Addresses that moved: a number is added to every eighth word.
      for (let word = from; word + 4 <= end; word += 32) {
        bytes.writeUInt32LE(
          (bytes.readUInt32LE(word) + Math.floor(to * 70_000) - 35_000) >>> 0,
          word,
        );
      }
    } else {
      const bits = 1 + Math.floor(to * 6.99);
      const shifted = Buffer.from(middle);
      for (let j = 0; j < middle.length; j++) {
        shifted[j] = ((middle[j] ?? 0) >> bits) | ((middle[j + 1] ?? 0) << (8 - bits));
      }
      bytes = Buffer.concat([before, shifted, after]);
    }
  }
  return bytes;
}

const old = fc.tuple(fc.integer({ min: 0, max: 30_000 }), fc.string()).map(([n, s]) => noise(n, s));
const SMALL = { block: 4096, window: 16_384 };

describe('patch', () => {
  it('gives the new NAR from the old one, whatever was edited', async () => {
    await fc.assert(
      fc.asyncProperty(
        old,
        fc.array(edit, { maxLength: 12 }),
        fc.boolean(),
        async (a, edits, small) => {
          const b = edited(a, edits);
          const { patch } = await patchOf(a, b, small ? SMALL : undefined);
          assert.ok((await applied(a, patch)).equals(b));
          assert.ok(appliedSlowly(a, patch).equals(b));
        },
      ),
      { numRuns: 150 },
    );
  });

  it('is the same for the same two, and costs little for little', async () => {
    const a = noise(3_000_000, 'a');
    const b = edited(a, [
      { kind: 'insert', at: 0.3, length: 100, to: 0 },
      { kind: 'add', at: 0.5, length: 3000, to: 0.7 },
      { kind: 'move', at: 0.6, length: 3000, to: 0.1 },
      { kind: 'shift', at: 0.8, length: 3000, to: 0.4 },
    ]);
    const { patch, memory } = await patchOf(a, b);
    assert.ok(patch.equals((await patchOf(a, b)).patch));
    assert.ok((await applied(a, patch)).equals(b));
    assert.ok(patch.length < 700, `${patch.length}`);
    assert.ok(memory < 2 ** 21, `${memory}`);
  });

  it('follows a window through NARs that are larger than it', async () => {
    const a = noise(400_000, 'large');
    const b = edited(a, [
      { kind: 'insert', at: 0.1, length: 3000, to: 0 },
      { kind: 'delete', at: 0.5, length: 3000, to: 0 },
      { kind: 'change', at: 0.9, length: 50, to: 0 },
    ]);
    const { patch } = await patchOf(a, b, { block: 16_384, window: 65_536 });
    assert.ok((await applied(a, patch)).equals(b));
    assert.ok(patch.length < 6000, `${patch.length}`);
  });

  it('finds what is packed in bits and moved by some of them', async () => {
    const a = noise(20_000, 'bits');
    const b = edited(a, [{ kind: 'shift', at: 0, length: 20_000, to: 0.5 }]);
    const { patch } = await patchOf(a, b);
    assert.ok(patch.length < 100, `${patch.length}`);
    assert.ok((await applied(a, patch)).equals(b));
  });

  it('holds what has nothing in common, and what is empty', async () => {
    const [a, b] = [noise(50_000, 'one'), noise(60_000, 'two')];
    const { patch } = await patchOf(a, b);
    assert.ok(patch.length < 61_000);
    assert.ok((await applied(a, patch)).equals(b));
    assert.equal((await patchOf(a, Buffer.alloc(0))).patch.length, 0);
    assert.equal((await applied(a, Buffer.alloc(0))).length, 0);
    const fromNothing = await patchOf(Buffer.alloc(0), b);
    assert.ok((await applied(Buffer.alloc(0), fromNothing.patch)).equals(b));
  });

  it('comes out the same in chunks of any size', async () => {
    const a = noise(9000, 'chunks');
    const b = edited(a, [{ kind: 'insert', at: 0.5, length: 10, to: 0 }]);
    const { patch } = await patchOf(a, b);
    for (const chunk of [1, 7, patch.length]) {
      assert.ok((await applied(a, patch, { chunk })).equals(b));
    }
  });

  it('is refused or gives other bytes when it or the old NAR is damaged', async () => {
    const flips = fc.array(fc.tuple(fc.nat(), fc.integer({ min: 1, max: 255 })), {
      minLength: 1,
      maxLength: 4,
    });
    const seen = { refused: 0, other: 0, same: 0 };
    await fc.assert(
      fc.asyncProperty(
        old,
        fc.array(edit, { minLength: 1, maxLength: 5 }),
        flips,
        fc.integer({ min: 0, max: 3 }),
        async (a, edits, flip, how) => {
          const b = edited(a, edits);
          let { patch } = await patchOf(a, b, SMALL);
          let source = Buffer.from(a);
          const bytes = how === 0 ? source : patch;
          if (how < 2) {
            for (const [at, by] of bytes.length === 0 ? [] : flip) {
              bytes[at % bytes.length] = (bytes[at % bytes.length] ?? 0) ^ by;
            }
          } else if (how === 2) patch = patch.subarray(0, (flip[0]?.[0] ?? 0) % (patch.length + 1));
          else source = source.subarray(0, (flip[0]?.[0] ?? 0) % (source.length + 1));
          try {
            const result = await applied(source, patch, { most: b.length });
            // One piece more at most: whoever counts stops there.
            assert.ok(result.length <= b.length + 128 * 1024);
            seen[result.equals(b) ? 'same' : 'other'] += 1;
          } catch (error) {
            assert.ok(isFleetError(error, 'E_PATCH_BAD'), String(error));
            seen.refused += 1;
          }
        },
      ),
      { numRuns: 300 },
    );
    assert.ok(seen.refused > 30 && seen.other > 10, JSON.stringify(seen));
  });

  it('says of each block what its streams have, and never more than the block and 16', async () => {
    const a = noise(40_000, 'streams');
    // Every third byte differs: nothing that is worth copying.
    const b = Buffer.from(a.map((byte, i) => (i % 3 === 0 ? byte ^ 0x55 : byte)));
    for (const { length, streams } of blocksOf((await patchOf(a, b, SMALL)).patch)) {
      for (const stream of streams) assert.ok(stream.length <= length + 16);
    }
  });
});
