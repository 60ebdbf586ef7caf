// What somebody else did to a machine: told, and left alone until policy says otherwise. And old generations, which go.
import assert from 'node:assert/strict';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { placeAt } from '../../src/agent/place.ts';
import { DEFAULT_ACTIVATION } from '../../src/manifest/activation.ts';
import { invalidPaths } from '../../src/nix/query.ts';
import { setProfile } from '../../src/nix/realise.ts';
import {
  all,
  logOf,
  plan,
  reboot,
  type Setting,
  setting,
  systemsOf,
  type TestHost,
} from '../helpers/hosts.ts';
import { buildSystem } from '../helpers/systems.ts';
import { temporaryDirectory } from '../helpers/temporary.ts';

const systems = await temporaryDirectory();
after(() => systems[Symbol.asyncDispose]());
const one = await buildSystem(systems.path, 'one');
const two = await buildSystem(systems.path, 'two');
const three = await buildSystem(systems.path, 'three');

/** A host that the agent brought from three to one, and somebody else back to three. */
async function drifted(): Promise<Setting> {
  const s = await setting(three);
  s.world.publish(one);
  assert.equal((await s.host.once()).outcome?.phase, 'in-sync');
  await nixosRebuild(s.host);
  return s;
}

async function nixosRebuild(host: TestHost): Promise<void> {
  const place = placeAt(host.root);
  await setProfile(place.profile, three.toplevel, place.nix);
  await reboot(host, three);
}

test('a local switch is told, and stays, whatever is published', async () => {
  await using s = await drifted();
  const { world, host } = s;
  const before = await logOf(host);
  for (const next of [one, two]) {
    world.publish(next);
    const { outcome, error } = await host.once();
    assert.deepEqual([outcome?.phase, outcome?.reason?.code], ['drifted', 'local-switch']);
    assert.equal(error, null);
    const { phase, reason, current } = world.reports.at(-1) ?? {};
    assert.deepEqual([phase, current], ['drifted', three.toplevel]);
    assert.match(reason?.text ?? '', /somebody else switched to .*system-three/);
  }
  const { current, profile } = await systemsOf(host);
  assert.deepEqual([current, profile], [three.toplevel, three.toplevel]);
  assert.deepEqual(await logOf(host), before);
});

test('it is replaced where the manifest says so, is an emergency, or root at the machine forces it', async () => {
  for (const how of ['replace', 'emergency', 'force']) {
    await using s = await drifted();
    const { world, host } = s;
    const activation = { ...DEFAULT_ACTIVATION, ...(how === 'replace' ? { drift: how } : {}) };
    world.publish(two, { activation, emergency: how === 'emergency' } as never);
    assert.equal((await host.once({ retry: how === 'force' })).outcome?.phase, 'in-sync', how);
    assert.deepEqual(await systemsOf(host), all(two));
  }
});

test('what is only set for the next boot has drifted, too; the manifest’s own system has not', async () => {
  await using s = await drifted();
  const { world, host } = s;
  await reboot(host, one);
  world.publish(two);
  const { outcome } = await host.once();
  assert.match(outcome?.reason?.text ?? '', /somebody else set to boot .*system-three/);
  await reboot(host, three);
  world.publish(three);
  assert.equal((await host.once()).outcome?.phase, 'in-sync');
  // From then on it is the agent's.
  world.publish(two);
  assert.equal((await host.once()).outcome?.phase, 'in-sync');
  assert.deepEqual(await systemsOf(host), all(two));
});

test('a system that failed and is kept is no drift: what comes next is taken', async () => {
  await using s = await setting(one);
  const { world, host } = s;
  const activation = { ...DEFAULT_ACTIVATION, onFailure: 'keep' } as const;
  world.publish(two, { activation });
  await plan(host, 'exit-test-system-two', 2);
  assert.equal((await host.once()).outcome?.phase, 'failed');
  world.publish(three);
  assert.equal((await host.once()).outcome?.phase, 'in-sync');
});

test('old generations go with an update, and what only they kept; the last good system stays', async () => {
  await using s = await setting(one);
  const { world, host } = s;
  const keepGenerations = { count: 1, days: 0 };
  const activation = { ...DEFAULT_ACTIVATION, keepGenerations };
  const left = async (): Promise<string[]> =>
    (await readdir(join(host.root, 'nix/var/nix/profiles')))
      .filter((name) => /^system-\d+-link$/.test(name))
      .sort();
  world.now += 10;
  world.publish(two, { activation });
  assert.equal((await host.once()).outcome?.phase, 'in-sync');
  assert.deepEqual(await left(), ['system-1-link', 'system-2-link']);
  world.publish(three, { activation });
  assert.equal((await host.once()).outcome?.phase, 'in-sync');
  assert.deepEqual(await left(), ['system-2-link', 'system-3-link']);
  const { nix } = placeAt(host.root);
  const gone = await invalidPaths(
    [one, two, three].map(({ toplevel }) => toplevel),
    { ...nix, isolated: true },
  );
  assert.deepEqual(gone, [one.toplevel]);
});
