// Approvals kept for offers: made once, also for many who ask together; no more of them than is allowed; and
// nothing kept of a failure.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { test } from 'node:test';
import { KeptApprovals } from '../../src/server/kept-approvals.ts';
import type { LoggedApproval } from '../../src/storage/log.ts';
import { hashLeaf, rootOf, verifyInclusion } from '../../src/tlog/merkle.ts';
import { refused } from '../helpers/nix-scratch.ts';

const digestOf = (text: string): string => createHash('sha256').update(text).digest('hex');

/** `count` approvals of `size` manifests each, and which of them were read. */
function approvals(count: number, size: number) {
  const read: number[] = [];
  const all: LoggedApproval[] = Array.from({ length: count }, (_, logIndex) => ({
    envelope: `envelope ${logIndex}`,
    batch: Array.from({ length: size }, (_, i) => digestOf(`${logIndex} ${i}`)).sort(),
    logIndex,
  }));
  const state = {
    approvals: async (_log: number, from: number, to: number) => {
      read.push(from);
      return all.slice(from, to);
    },
  };
  return { all, read, kept: new KeptApprovals(state, { digests: 1000, approvals: 100 }) };
}

test('an approval is read once for all that ask, together or later, and its proofs hold', async () => {
  const { all, read, kept } = approvals(2, 300);
  const batch = all[1]?.batch ?? [];
  const proofs = await Promise.all(batch.map((digest) => kept.prove(1, 1, digest)));
  proofs.push(await kept.prove(1, 1, batch[0] ?? ''));
  assert.deepEqual(read, [1]);
  const leaves = batch.map((digest) => hashLeaf(Buffer.from(digest, 'hex')));
  const tree = { size: batch.length, root: rootOf(leaves) };
  for (const { envelope, index, proof } of proofs) {
    assert.equal(envelope, 'envelope 1');
    const leafHash = leaves[index] ?? Buffer.of();
    assert.ok(verifyInclusion({ index, leafHash, ...tree, proof }));
  }
  // The same number in another log is another entry.
  await kept.prove(2, 1, batch[0] ?? '');
  assert.deepEqual(read, [1, 1]);
});

test('those used longest ago are forgotten: more than a hundred, or too many digests together', async () => {
  for (const [count, size, left] of [
    [103, 1, 100],
    [4, 400, 2],
  ] as const) {
    const { all, read, kept } = approvals(count, size);
    const ask = (index: number) => kept.prove(1, index, all[index]?.batch[0] ?? '');
    for (let index = 0; index < count; index++) {
      await ask(index);
      // In use all the time, so never forgotten.
      await ask(0);
    }
    assert.equal(read.length, count);
    await ask(0);
    for (let index = count - 1; index > count - left; index--) await ask(index);
    assert.equal(read.length, count, `${left} are kept`);
    await ask(1);
    assert.equal(read.length, count + 1);
  }
});

test('one that alone has more than is kept is kept alone', async () => {
  const { all, read, kept } = approvals(2, 1001);
  const ask = (index: number) => kept.prove(1, index, all[index]?.batch[0] ?? '');
  for (const index of [0, 0, 1, 1, 0]) await ask(index);
  assert.deepEqual(read, [0, 1, 0]);
});

test('what is no approval, or one of others, is damage; a failure is not kept', async () => {
  const { all, read, kept } = approvals(1, 2);
  await assert.rejects(
    kept.prove(1, 0, digestOf('another')),
    refused('E_LOG_DAMAGED', /of others/),
  );
  await assert.rejects(
    kept.prove(1, 7, digestOf('another')),
    refused('E_LOG_DAMAGED', /no approval/),
  );
  await assert.rejects(
    kept.prove(1, 7, digestOf('another')),
    refused('E_LOG_DAMAGED', /no approval/),
  );
  assert.deepEqual(read, [0, 7, 7]);
  assert.equal((await kept.prove(1, 0, all[0]?.batch[1] ?? '')).index, 1);
  assert.deepEqual(read, [0, 7, 7]);
});
