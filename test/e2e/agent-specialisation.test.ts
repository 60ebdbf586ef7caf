// A machine on which somebody chose a specialisation of its system in the boot menu: it has not drifted, is left as they
// chose it, and gets its updates with the next boot.
import assert from 'node:assert/strict';
import { chmod, cp, mkdir, symlink } from 'node:fs/promises';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { prune } from '../../src/agent/generations.ts';
import { readJournal } from '../../src/agent/journal.ts';
import { placeAt } from '../../src/agent/place.ts';
import { setProfile } from '../../src/nix/realise.ts';
import {
  logOf,
  reboot,
  type Setting,
  setting,
  systemsOf,
  type TestHost,
} from '../helpers/hosts.ts';
import { type BuiltSystem, buildSystem } from '../helpers/systems.ts';
import { temporaryDirectory } from '../helpers/temporary.ts';

const systems = await temporaryDirectory();
after(() => systems[Symbol.asyncDispose]());
const one = await buildSystem(systems.path, 'one');
const two = await buildSystem(systems.path, 'two');
const special = await buildSystem(systems.path, 'special');

/** Gives `system`, in the host's store, `special` as a specialisation. */
async function specialise({ root }: TestHost, system: BuiltSystem): Promise<void> {
  const dir = join(root, system.toplevel);
  await chmod(dir, 0o755);
  await mkdir(join(dir, 'specialisation'));
  await symlink(special.toplevel, join(dir, 'specialisation/quiet'));
}

/** A host that its agent brought to one, and on which somebody booted its specialisation. */
async function chosen(): Promise<Setting> {
  const s = await setting(special);
  s.world.publish(one);
  assert.equal((await s.host.once({ bootId: 'first' })).outcome?.phase, 'in-sync');
  await specialise(s.host, one);
  await reboot(s.host, special);
  return s;
}

test('who booted a specialisation is in sync, and stays in it', async () => {
  await using s = await chosen();
  const before = await logOf(s.host);
  assert.equal((await s.host.once({ bootId: 'second' })).outcome?.phase, 'in-sync');
  assert.deepEqual(await logOf(s.host), before);
});

test('an update comes with the next boot, also as its own specialisation; the way back is the system itself', async () => {
  await using s = await chosen();
  const { world, host } = s;
  world.publish(two);
  for (let run = 0; run < 2; run++) {
    const { outcome } = await host.once({ bootId: 'second' });
    assert.deepEqual(
      [outcome?.phase, outcome?.reason?.code],
      ['reboot-pending', 'reboot-required'],
    );
    const { current, profile } = await systemsOf(host);
    assert.deepEqual([current, profile], [special.toplevel, two.toplevel]);
  }
  await specialise(host, two);
  await reboot(host, special);
  assert.equal((await host.once({ bootId: 'third' })).outcome?.phase, 'in-sync');
  const { transaction, rejected, ours, lastGood } = await readJournal(host.state);
  assert.deepEqual([transaction, rejected], [null, null]);
  assert.deepEqual([ours, lastGood?.toplevel], [[two.toplevel], one.toplevel]);
});

test('the generation of a specialisation that was booted stays', async () => {
  await using s = await setting(two);
  const { world, host } = s;
  world.publish(one);
  assert.equal((await host.once()).outcome?.phase, 'in-sync');
  await specialise(host, one);
  // It has no generation of its own.
  await cp(special.toplevel, join(host.root, special.toplevel), { recursive: true });
  await reboot(host, special);
  const place = placeAt(host.root);
  await setProfile(place.profile, two.toplevel, place.nix);
  assert.equal(await prune(place, { count: 1, days: 0 }, [], world.now), false);
  await reboot(host, two);
  assert.equal(await prune(place, { count: 1, days: 0 }, [], world.now), true);
});
