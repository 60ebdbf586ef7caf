// Several blobs read as one, at any place, with one of them open at a time.
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import fc from 'fast-check';
import { joinBlobs } from '../../src/cache/joined-blobs.ts';
import type { Blobs } from '../../src/storage/blobs.ts';
import { createFileBlobs, openFileBlobs } from '../../src/storage/file-blobs.ts';
import { temporaryDir } from '../helpers/temporary.ts';

test('any part is what it would be of the blobs put together', async (t) => {
  const dir = join(await temporaryDir(t), 'blobs');
  await createFileBlobs(dir);
  const blobs = await openFileBlobs(dir);
  let open = 0;
  let most = 0;
  const counting: Pick<Blobs, 'open'> = {
    open: async (id) => {
      const reader = await blobs.open(id);
      if (reader === null) return null;
      open += 1;
      most = Math.max(most, open);
      return {
        size: reader.size,
        read: (target, position) => reader.read(target, position),
        async [Symbol.asyncDispose]() {
          open -= 1;
          await reader[Symbol.asyncDispose]();
        },
      };
    },
  };
  const parts = fc.array(fc.uint8Array({ minLength: 1, maxLength: 40 }), {
    minLength: 1,
    maxLength: 6,
  });
  await fc.assert(
    fc.asyncProperty(parts, fc.nat(300), fc.nat(300), async (all, from, length) => {
      const refs = [];
      for (const part of all) refs.push(await blobs.put([part]));
      const whole = Buffer.concat(all);
      await using joined = joinBlobs(refs, counting);
      assert.equal(joined.size, whole.length);
      const target = Buffer.alloc(length);
      const got = await joined.read(target, from);
      assert.deepEqual(target.subarray(0, got), whole.subarray(from, from + length));
      assert.ok(got === length || from + got >= whole.length);
    }),
    { numRuns: 60 },
  );
  assert.equal(open, 0);
  assert.equal(most, 1);
});

test('a blob that went, or has another size, is not read past', async (t) => {
  const dir = join(await temporaryDir(t), 'blobs');
  await createFileBlobs(dir);
  const blobs = await openFileBlobs(dir);
  const [first, second] = [
    await blobs.put([Buffer.from('first')]),
    await blobs.put([Buffer.from('second')]),
  ];
  await using wrong = joinBlobs([first, { ...second, size: 5 }], blobs);
  await assert.rejects(wrong.read(Buffer.alloc(8), 0), { code: 'E_CACHE_INCOMPLETE' });
  await blobs.delete(second.id);
  await using gone = joinBlobs([first, second], blobs);
  assert.equal(await gone.read(Buffer.alloc(5), 0), 5);
  await assert.rejects(gone.read(Buffer.alloc(1), 5), { code: 'E_CACHE_INCOMPLETE' });
});
