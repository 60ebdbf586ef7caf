// The reader by its properties; that it refuses every hostile NAR is shown in nar-hostile.test.ts.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { isFleetError } from '../../src/errors.ts';
import { readNar } from '../../src/nix/nar-read.ts';
import { writeNar } from '../../src/nix/nar-write.ts';
import {
  bytesOf,
  eventsOf,
  eventsOfTree,
  file,
  inChunks,
  nar,
  rewritten,
  treeArbitrary,
} from '../helpers/nar.ts';

describe('readNar', () => {
  it('any tree comes back as the same events and bytes, in chunks of any size', async () => {
    await fc.assert(
      fc.asyncProperty(treeArbitrary, fc.integer({ min: 1, max: 40 }), async (tree, chunk) => {
        const bytes = await bytesOf(writeNar(eventsOfTree(tree)));
        const joined = [...eventsOfTree(tree, null, 1 << 20)].map((event) =>
          event.type === 'contents'
            ? { type: 'contents', hex: Buffer.from(event.data).toString('hex') }
            : event,
        );
        assert.deepEqual(await eventsOf(bytes, chunk), joined);
        assert.ok((await rewritten(bytes, chunk)).equals(bytes));
      }),
      { numRuns: 200 },
    );
  });
  it('a NAR with one byte changed is refused, or comes back as the bytes that it is', async () => {
    await fc.assert(
      fc.asyncProperty(
        treeArbitrary,
        fc.nat(),
        fc.integer({ min: 1, max: 255 }),
        async (tree, at, flip) => {
          const bytes = await bytesOf(writeNar(eventsOfTree(tree)));
          const index = at % bytes.length;
          bytes[index] = (bytes[index] ?? 0) ^ flip;
          try {
            assert.ok((await rewritten(bytes)).equals(bytes));
          } catch (error) {
            assert.ok(isFleetError(error, 'E_NAR_BAD', 'E_NAR_TRUNCATED'));
          }
        },
      ),
      { numRuns: 1000 },
    );
  });
  it('contents are views of the chunk, not copies', async () => {
    const bytes = nar(file('abcdefgh'));
    for await (const event of readNar(inChunks(bytes))) {
      if (event.type === 'contents') assert.equal(event.data.buffer, bytes.buffer);
    }
  });
});
