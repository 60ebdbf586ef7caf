// fleet host hold and release, with the real server and the real agent: what is told of them, and what a host that gave
// its newest manifest up is given instead. And what people at hosts ask for, as the admin sees it.
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import { changeLocal } from '../../src/agent/local.ts';
import { hold, plead } from '../../src/agent/wishes.ts';
import { importRoot } from '../../src/server/import-root.ts';
import { fleet, fleetOk } from '../helpers/cli.ts';
import { type Live, type LiveAgent, live } from '../helpers/live.ts';
import { signNext } from '../helpers/rotation.ts';
import { publishHost } from '../helpers/state.ts';

/** A host that somebody took back from its newest manifest, and that said so. */
async function takenBack(w: Live): Promise<LiveAgent> {
  const agent = await w.agent('a');
  await publishHost(w.dir, 'a', 'one', w.now);
  const sha256 = (await w.dir.state.currentManifest('a'))?.digest ?? '';
  const held = { sha256, reason: 'no sound', who: 'local group', at: w.now } as const;
  await changeLocal(agent.state, (local) => hold(local, held));
  assert.equal((await agent.once()).outcome?.phase, 'held');
  return agent;
}

test('a hold is told in the status, and ends with a release', async (t) => {
  const w = await live(t);
  const state = ['--state', join(w.top, 'state')];
  await publishHost(w.dir, 'a', 'one', w.now);
  const unknown = await fleet(['host', 'hold', 'nobody', ...state]);
  assert.match(unknown.stderr, /E_HOST_UNKNOWN/);
  await fleetOk(['host', 'hold', 'a', '--reason', 'the show is on', ...state]);
  // Again: it is held since then, for that.
  await fleetOk(['host', 'hold', 'a', '--reason', 'another', ...state]);
  const text = await fleetOk(['status', ...state]);
  assert.match(text, /held by the admin since \S+Z: the show is on/);
  assert.match(await fleetOk(['host', 'show', 'a', ...state]), /held +held by the admin/);
  const { hosts } = JSON.parse(await fleetOk(['status', '--json', ...state]));
  assert.equal(hosts[0].held.reason, 'the show is on');
  const released = JSON.parse(await fleetOk(['host', 'release', 'a', '--json', ...state]));
  assert.deepEqual([released.wasHeld, released.again, released.published], [true, null, false]);
  assert.doesNotMatch(await fleetOk(['status', ...state]), /held/);
});

test('a host that somebody took back is told in the status, and tries again after a release', async (t) => {
  const w = await live(t);
  const agent = await takenBack(w);
  const state = ['--state', join(w.top, 'state')];
  assert.match(await fleetOk(['status', ...state]), / held .*no sound/);
  assert.equal((await agent.once()).outcome?.phase, 'held');
  const { again, wasHeld, published } = JSON.parse(
    await fleetOk(['host', 'release', 'a', '--json', ...state]),
  );
  assert.deepEqual([wasHeld, again.sequence, published], [false, 2, true]);
  // Not once more: the host has not said anything of that one yet.
  const twice = JSON.parse(await fleetOk(['host', 'release', 'a', '--json', ...state]));
  assert.equal(twice.again, null);
  const { outcome } = await agent.once();
  // These systems cannot be switched to; it was tried all the same.
  assert.deepEqual([outcome?.manifest?.sequence, outcome?.phase], [2, 'failed']);
  assert.match(outcome?.reason?.text ?? '', /switch-to-configuration/);
});

test('where approvals are wanted, a release leaves the same system waiting for them', async (t) => {
  const w = await live(t);
  await takenBack(w);
  const groups = [{ name: 'all', hosts: ['*'], approvals: 1 }];
  const root = await signNext(w.dir, w.now, {}, (draft) => ({ ...draft, groups }));
  await importRoot(w.dir, root, w.now);
  const release = async () =>
    JSON.parse(await fleetOk(['host', 'release', 'a', '--json', ...state]));
  const state = ['--state', join(w.top, 'state')];
  // Under the new root it waits already, issued again.
  assert.equal((await release()).again, null);
  const { fence = 0 } = (await w.dir.state.leaseHolder()) ?? {};
  await w.dir.state.changePending([], ['a'], fence);
  const { again, published } = await release();
  assert.deepEqual([again.sequence, published], [2, false]);
  assert.equal((await w.dir.state.currentManifest('a'))?.sequence, 1);
  assert.match(await fleetOk(['status', ...state]), /#2 .* waits for 1 approval/);
  assert.equal((await release()).again, null);
});

test('what people at a host ask for is in the status and with the host, in order', async (t) => {
  const w = await live(t);
  const agent = await w.agent('a');
  await publishHost(w.dir, 'a', 'one', w.now);
  for (const [n, text] of ['please install gimp', 'and \u{1f600} thanks'].entries()) {
    const id = `${n}`.repeat(16);
    const plea = { id, text, who: 'local group' } as const;
    await changeLocal(agent.state, (local) => plead(local, plea, w.now));
  }
  await agent.once();
  // News of the host itself hide none of it.
  await publishHost(w.dir, 'a', 'two', w.now);
  await agent.once();
  const state = ['--state', join(w.top, 'state')];
  const text = await fleetOk(['status', ...state]);
  assert.match(text, /\? a, \d+ s ago, local group \(1\): please install gimp\n\? a.*\(2\): and/);
  const { requests } = JSON.parse(await fleetOk(['status', '--json', ...state]));
  assert.deepEqual(
    requests.map(({ host, number, who }: Record<string, unknown>) => [host, number, who]),
    [
      ['a', 1, 'local group'],
      ['a', 2, 'local group'],
    ],
  );
  const shown = await fleetOk(['host', 'show', 'a', ...state]);
  assert.match(shown, /asks +please install gimp \(local group, number 1, /);
  assert.equal(
    JSON.parse(await fleetOk(['host', 'show', 'a', '--json', ...state])).requests.length,
    2,
  );
});
