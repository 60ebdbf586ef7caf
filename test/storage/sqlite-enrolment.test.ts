// Invitations, keys, tokens and receipts in the state.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { State } from '../../src/storage/state.ts';
import { refused } from '../helpers/nix-scratch.ts';
import { emptyState, hex, report } from '../helpers/rows.ts';

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
      assert.equal((await state.host('a'))?.lastSeen, 9999);
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
