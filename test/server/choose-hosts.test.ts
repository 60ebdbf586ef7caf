// Which hosts of a flake are built: those that were removed are not, and nobody may name them.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { chooseHosts } from '../../src/server/choose-hosts.ts';
import { refused } from '../helpers/nix-scratch.ts';
import { manifest } from '../helpers/rows.ts';

const ended = (host: string) => ({
  ...manifest(host, 1, 2),
  ...{ toplevel: null, closure: null, closureBytes: null },
});
const state = {
  currentManifests: async () => [manifest('a', 1, 1), manifest('b', 1, 1), ended('c')],
  pendingManifests: async () => [manifest('a', 1, 2), ended('b')],
  heldHosts: async () => ['e'],
};
const all = ['a', 'b', 'c', 'd', 'e'];

test('hosts that were removed, or are about to be, or are held, are skipped with the reason', async () => {
  assert.deepEqual(await chooseHosts(state, all, []), {
    hosts: ['a', 'd'],
    skipped: [
      { host: 'b', why: 'removal waits' },
      { host: 'c', why: 'removed' },
      { host: 'e', why: 'held' },
    ],
  });
});

test('one whose removal waits may be named, one that was removed or is held may not', async () => {
  const named = await chooseHosts(state, all, ['b', 'a', 'b']);
  assert.deepEqual(named, { hosts: ['b', 'a'], skipped: [] });
  await assert.rejects(chooseHosts(state, all, ['a', 'c']), refused('E_DECOMMISSIONED', /^c was/));
  await assert.rejects(chooseHosts(state, all, ['a', 'e']), refused('E_HOST_HELD', /^e: held/));
  await assert.rejects(chooseHosts(state, all, ['x']), refused('E_HOST_NOT_IN_FLAKE', /no host x/));
});
