// What waits to be published, as status tells it.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { waitingOf } from '../../src/server/waiting.ts';
import { makeState, publishHosts } from '../helpers/state.ts';
import { temporaryDir } from '../helpers/temporary.ts';

const NOW = 1_800_000_000;

test('what waits: how many approvals it needs, and why it will never be published', async (t) => {
  await using dir = await makeState(await temporaryDir(t), NOW);
  assert.equal((await waitingOf(dir, NOW)).size, 0);
  const { toplevel } = await publishHosts(dir, ['lantern'], 'one', NOW, true);
  const [pending] = await dir.state.pendingManifests();
  assert.ok(pending);
  const { epoch, sequence, digest, issuedAt, expiresAt } = pending;
  const about = { epoch, sequence, toplevel, digest, issuedAt, expiresAt, emergency: false };
  const waits = async (now: number, groups = dir.root.groups) => {
    const root = { ...dir.root, groups };
    return [...(await waitingOf({ state: dir.state, root }, now))];
  };
  assert.deepEqual(await waits(NOW), [['lantern', { ...about, approvals: 0, stale: null }]]);
  const group = { name: 'all', hosts: ['lan*'], approvals: 3 };
  assert.deepEqual(await waits(NOW, [group]), [
    ['lantern', { ...about, approvals: 3, stale: null }],
  ]);
  const [[, none] = []] = await waits(NOW, [{ ...group, hosts: ['other'] }]);
  assert.equal(none?.stale, 'is of a host in no group');
  const [[, late] = []] = await waits(expiresAt);
  assert.match(late?.stale ?? '', /^expired at 20/);
});
