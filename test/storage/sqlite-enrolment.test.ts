// Invitations, keys, tokens and receipts in the state.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { State } from '../../src/storage/state.ts';
import { refused } from '../helpers/nix-scratch.ts';
import {
  commitManifests,
  emptyState,
  hex,
  manifest,
  publishRows,
  report,
} from '../helpers/rows.ts';

let tokens = 0;
const enrol = (state: State, secret: string, publicKey: string, now = 50) =>
  state.enrol({ secretHash: hex(secret), publicKey, tokenHash: hex(`token ${++tokens}`), now });
const invite = (state: State, secret: string, host = 'a', expiresAt = 100) =>
  state.invite({ secretHash: hex(secret), host, expiresAt });

for (const writer of ['inline', 'thread'] as const) {
  describe(`enrolment, writer ${writer}`, () => {
    test('an invitation gives the host its key and a token', async () => {
      await using made = await emptyState(writer);
      const { state } = made;
      await invite(state, 's');
      assert.deepEqual(await state.invitation(hex('s')), {
        secretHash: hex('s'),
        host: 'a',
        expiresAt: 100,
      });
      assert.deepEqual(await state.host('a'), {
        host: 'a',
        publicKey: null,
        enrolledAt: null,
        lastSeen: null,
        heldAt: null,
        heldReason: null,
        progress: null,
        progressAt: null,
      });
      assert.equal(await enrol(state, 's', 'KEY'), 'enrolled');
      assert.equal((await state.host('a'))?.publicKey, 'KEY');
      assert.deepEqual(await state.credentials(), [
        {
          tokenHash: hex(`token ${tokens}`),
          name: 'host:a',
          scope: 'host',
          host: 'a',
          createdAt: 50,
          expiresAt: null,
        },
      ]);
      assert.equal((await state.credential(hex(`token ${tokens}`)))?.host, 'a');
    });

    test('the same request again gives a further token, until the invitation expires', async () => {
      await using made = await emptyState(writer);
      const { state } = made;
      await invite(state, 's');
      await enrol(state, 's', 'KEY');
      assert.equal(await enrol(state, 's', 'KEY'), 'replay');
      assert.equal((await state.credentials()).length, 2);
      assert.equal(await enrol(state, 's', 'KEY', 100), 'expired');
      assert.equal((await state.credentials()).length, 2);
    });

    test('unknown, expired and used invitations change nothing', async () => {
      await using made = await emptyState(writer);
      const { state } = made;
      await invite(state, 'old', 'a', 40);
      assert.equal(await enrol(state, 'old', 'KEY', 40), 'expired');
      assert.equal(await enrol(state, 'other', 'KEY'), 'unknown');
      await invite(state, 's', 'b');
      await enrol(state, 's', 'KEY');
      assert.equal(await enrol(state, 's', 'ANOTHER'), 'used');
      assert.equal((await state.host('a'))?.publicKey, null);
      assert.equal((await state.host('b'))?.publicKey, 'KEY');
      assert.equal((await state.credentials()).length, 1);
    });

    test('a newer invitation ends unused ones of its host only', async () => {
      await using made = await emptyState(writer);
      const { state } = made;
      await invite(state, 'first');
      await invite(state, 'of b', 'b');
      await invite(state, 'second');
      assert.equal(await enrol(state, 'first', 'KEY'), 'unknown');
      assert.equal(await enrol(state, 'second', 'KEY'), 'enrolled');
      assert.equal(await enrol(state, 'of b', 'KEY B'), 'enrolled');
    });

    test('a replaced key loses its tokens and cannot come back by its old invitation', async () => {
      await using made = await emptyState(writer);
      const { state } = made;
      await invite(state, 'first');
      await enrol(state, 'first', 'OLD');
      await invite(state, 'second');
      assert.equal(await enrol(state, 'second', 'NEW'), 'enrolled');
      assert.equal(await enrol(state, 'first', 'OLD'), 'used');
      assert.equal((await state.host('a'))?.publicKey, 'NEW');
      const hashes = (await state.credentials()).map((credential) => credential.tokenHash);
      assert.deepEqual(hashes, [hex(`token ${tokens - 1}`)]);
    });

    test('tokens are stored, listed by name and revoked by name', async () => {
      await using made = await emptyState(writer);
      const { state } = made;
      const token = {
        tokenHash: hex('t'),
        name: 'ci',
        scope: 'read',
        host: null,
        createdAt: 1,
        expiresAt: 9,
      } as const;
      await state.addCredential(token);
      assert.deepEqual(await state.credential(hex('t')), token);
      assert.equal(await state.credential(hex('u')), null);
      assert.equal(await state.revokeCredentials('nobody'), 0);
      assert.equal(await state.revokeCredentials('ci'), 1);
      assert.deepEqual(await state.credentials(), []);
    });
  });

  describe(`receipts, writer ${writer}`, () => {
    test('continue their chain, once each', async () => {
      await using made = await enrolled(writer);
      const { state } = made;
      const first = report('a', 1, null);
      const second = report('a', 2, first.digest);
      assert.equal(await state.addReport(first), 'stored');
      assert.equal(await state.addReport(first), 'duplicate');
      assert.equal(await state.addReport(second), 'stored');
      assert.equal(await state.addReport(first), 'duplicate');
      assert.deepEqual(await state.lastReport('a'), second);
      assert.deepEqual((await state.status())[0]?.report, second);
      assert.equal((await state.host('a'))?.lastSeen, second.receivedAt);
      await state.touchHost('a', 9999);
      await state.noteProgress('a', 'one', 8);
      await state.noteProgress('a', 'two', 9);
      const { lastSeen, progress, progressAt } = (await state.host('a')) ?? {};
      assert.deepEqual([lastSeen, progress, progressAt], [9999, 'two', 9]);
    });

    test('with a hole before them are a gap', async () => {
      await using made = await enrolled(writer);
      const { state } = made;
      assert.equal(await state.addReport(report('a', 2, hex('unseen'))), 'gap');
      assert.equal(await state.addReport(report('a', 1, hex('unseen'))), 'gap');
      await state.addReport(report('a', 1, null));
      assert.equal(await state.addReport(report('a', 3, hex('unseen'))), 'gap');
      assert.equal(await state.lastReport('b'), null);
    });

    test('with a rival are a fork', async () => {
      await using made = await enrolled(writer);
      const { state } = made;
      const first = report('a', 1, null);
      const second = report('a', 2, first.digest);
      await state.addReport(first);
      await state.addReport(second);
      const forks = [
        { ...report('a', 1, null), digest: hex('another first') },
        { ...report('a', 2, first.digest), digest: hex('another second') },
        report('a', 3, first.digest),
        report('a', 3, hex('another second')),
        report('a', 3, null),
      ];
      for (const fork of forks) assert.equal(await state.addReport(fork), 'fork');
      assert.deepEqual(await state.lastReport('a'), second);
    });

    test('start again with a new host key', async () => {
      await using made = await enrolled(writer);
      const { state } = made;
      await state.addReport(report('a', 1, null));
      await invite(state, 'again');
      await enrol(state, 'again', 'NEW');
      const first = { ...report('a', 1, null), digest: hex('first of the new key') };
      assert.equal(await state.addReport(first), 'stored');
      assert.deepEqual(await state.lastReport('a'), first);
    });

    test('of a host that is not enrolled are refused', async () => {
      await using made = await emptyState(writer);
      await invite(made.state, 's', 'b');
      for (const host of ['a', 'b']) {
        await assert.rejects(
          made.state.addReport(report(host, 1, null)),
          refused('E_HOST_UNKNOWN', new RegExp(`host ${host}`)),
        );
      }
    });
  });
}

async function enrolled(writer: 'inline' | 'thread') {
  const made = await emptyState(writer);
  await invite(made.state, 'secret');
  await enrol(made.state, 'secret', 'KEY');
  return made;
}

describe('a host’s life', () => {
  const of = { host: 'a', publicKey: 'KEY', now: 60, expiresAt: 160, envelope: 'signed' };
  const ask = (state: State, replaces: string, next: string, more: object = {}) =>
    state.renewToken({
      ...{ ...of, replaces: hex(replaces), tokenHash: hex(next), digest: hex(next) },
      ...more,
    });

  test('a token has one successor; who asks for another is kept', async () => {
    await using made = await emptyState();
    const { state } = made;
    await invite(state, 's');
    const first = { secretHash: hex('s'), publicKey: 'KEY', tokenHash: hex('one'), now: 50 };
    await state.enrol({ ...first, expiresAt: 150 });
    const renewed = { outcome: 'renewed', expiresAt: 160 };
    assert.deepEqual(await ask(state, 'one', 'two'), renewed);
    assert.deepEqual(await ask(state, 'one', 'two', { expiresAt: 999 }), renewed);
    assert.equal((await state.credential(hex('one')))?.expiresAt, 150);
    assert.equal((await state.credential(hex('two')))?.expiresAt, 160);
    assert.deepEqual(await ask(state, 'one', 'other'), { outcome: 'successor' });
    assert.deepEqual(await state.conflicts('a'), [
      { kind: 'token', digest: hex('other'), seenAt: 60, envelope: 'signed' },
    ]);
    for (const [more, replaces] of [
      [{}, 'unknown'],
      [{ host: 'b' }, 'two'],
      [{ publicKey: 'OTHER' }, 'two'],
      [{ tokenHash: hex('one') }, 'two'],
    ] as const) {
      assert.deepEqual(await ask(state, replaces, 'three', more), { outcome: 'unknown' });
    }
    // Predecessors do not pile up.
    let last = 'two';
    for (let i = 0; i < 20; i++, last = `token ${i}`) await ask(state, last, `token ${i + 1}`);
    assert.ok((await state.credentials()).length < 12);
  });

  test('receipts that contradict others are kept, so many of a key, and told until there is another key', async () => {
    await using made = await enrolled('inline');
    const { state } = made;
    const conflicts = async () => (await state.status())[0]?.conflicts ?? [];
    const first = report('a', 1, null);
    await state.addReport(first);
    assert.deepEqual(await conflicts(), []);
    assert.equal((await state.status())[0]?.report?.digest, first.digest);
    for (let i = 0; i < 20; i++) {
      await state.addReport({ ...report('a', 1, null), digest: hex(`rival ${i}`) });
      await state.addReport({ ...report('a', 1, null), digest: hex(`rival ${i}`) });
    }
    assert.equal((await conflicts()).length, 16);
    assert.deepEqual((await conflicts())[0], { kind: 'fork', seenAt: 5001 });
    assert.equal((await state.conflicts('a'))[0]?.digest, hex('rival 0'));
    await invite(state, 'again');
    await enrol(state, 'again', 'NEW');
    assert.deepEqual(await conflicts(), []);
    assert.equal((await state.conflicts('a')).length, 16);
    // What the machine before it said is not what this one runs.
    assert.equal((await state.status())[0]?.report, null);
  });

  test('a host that was removed: its tokens end, and no invitation lets it in again', async () => {
    await using made = await enrolled('inline');
    const { state } = made;
    await invite(state, 'open');
    const { fence } = await state.recordLease(1, 1);
    await publishRows(state, [manifest('a', 1, 1)], fence);
    const ended = { ...manifest('a', 1, 2), toplevel: null, closure: null, closureBytes: null };
    await commitManifests(state, [ended], fence, 1000);
    assert.deepEqual(await state.currentManifest('a'), ended);
    const tokens = async () =>
      (await state.credentials()).map(({ scope, expiresAt }) => [scope, expiresAt]);
    assert.deepEqual(await tokens(), [['leaving', 1000 + 30 * 86_400]]);
    await state.endLeaving('a', 2000);
    await state.endLeaving('a', 3000);
    assert.deepEqual(await tokens(), [['leaving', 2000]]);
    assert.equal(await enrol(state, 'open', 'NEW'), 'unknown');
    await assert.rejects(invite(state, 'more'), refused('E_DECOMMISSIONED', /a was removed/));
    const { tokenHash = '' } = (await state.credentials())[0] ?? {};
    const outcome = await state.renewToken({
      ...{ ...of, replaces: tokenHash, tokenHash: hex('next'), digest: hex('d') },
    });
    assert.deepEqual(outcome, { outcome: 'leaving' });
  });
});

test('a hold stays as it was until it is ended; requests are found by when they came', async () => {
  await using made = await emptyState('inline');
  const { state } = made;
  assert.equal(await state.holdHost('a', { at: 1, reason: null }), false);
  await invite(state, 'secret');
  assert.equal(await state.holdHost('a', { at: 5, reason: 'one' }), true);
  assert.equal(await state.holdHost('a', { at: 9, reason: 'two' }), true);
  const { heldAt, heldReason } = (await state.host('a')) ?? {};
  assert.deepEqual([heldAt, heldReason], [5, 'one']);
  assert.deepEqual(await state.heldHosts(), ['a']);
  assert.equal(await state.holdHost('a', null), true);
  assert.deepEqual(await state.heldHosts(), []);

  await enrol(state, 'secret', 'KEY');
  const first = { ...report('a', 1, null), receivedAt: 100, request: 1 };
  const second = { ...report('a', 2, first.digest), receivedAt: 200 };
  const third = { ...report('a', 3, second.digest), receivedAt: 300, request: 2 };
  for (const one of [first, second, third]) await state.addReport(one);
  const at = async (since: number) =>
    (await state.requests(since)).map(({ receivedAt }) => receivedAt);
  assert.deepEqual(await at(0), [100, 300]);
  assert.deepEqual(await at(101), [300]);
});
