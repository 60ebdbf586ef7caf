// A host whose group wants two of three release keys, and a server that comes without, with too few, or with
// other people's approvals: each refusal has its code and leaves the system as it was.
import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { generateSecretKey } from '../../src/ed25519.ts';
import type { ErrorCode } from '../../src/errors.ts';
import { type Offer, parseOffer } from '../../src/manifest/offer.ts';
import { all, type Setting, setting, systemsOf } from '../helpers/hosts.ts';
import { buildSystem } from '../helpers/systems.ts';
import { temporaryDirectory } from '../helpers/temporary.ts';

const systems = await temporaryDirectory();
after(() => systems[Symbol.asyncDispose]());
const one = await buildSystem(systems.path, 'first');
const two = await buildSystem(systems.path, 'second');

/** A host that runs system one; the newest manifest says two, and wants two approvals. */
async function careful(): Promise<Setting> {
  const s = await setting(one);
  s.world.rotate({ groups: [{ name: 'careful', hosts: ['*'], approvals: 2 }] });
  s.world.publish(two);
  return s;
}

async function refuses(
  { world, host }: Setting,
  code: ErrorCode,
  change: (offer: Offer) => Partial<Offer> = () => ({}),
): Promise<void> {
  world.distort = (text) => {
    const offer = parseOffer(text);
    return JSON.stringify({ ...offer, ...change(offer) });
  };
  const { error, outcome } = await host.once();
  assert.deepEqual([error?.code, outcome?.phase], [code, 'refused'], error?.message);
  assert.equal(world.reports.at(-1)?.reason?.code, code);
  assert.equal((await systemsOf(host)).current, one.toplevel);
  world.distort = (text) => text;
}

async function takesIt({ host }: Setting): Promise<void> {
  const { outcome, error } = await host.once();
  assert.equal(outcome?.phase, 'in-sync', `${error}`);
  assert.deepEqual(await systemsOf(host), all(two));
}

const changed = (offer: Offer, changes: Partial<NonNullable<Offer['approval']>>) => {
  if (offer.approval === null) throw new Error('no approval is offered');
  return { approval: { ...offer.approval, ...changes } };
};

test('none; by one key, by one key twice, by the director, by keys that nobody knows', async () => {
  await using s = await careful();
  const { world } = s;
  const [a, b] = world.releaseKeys as [Uint8Array, Uint8Array];
  await refuses(s, 'E_APPROVAL_MISSING');
  for (const keys of [[a], [a, a], [a, world.directorKey]]) {
    world.approve(keys);
    await refuses(s, 'E_APPROVAL_THRESHOLD');
  }
  for (const keys of [[world.directorKey], [generateSecretKey(), generateSecretKey()], []]) {
    world.approve(keys);
    await refuses(s, 'E_APPROVAL_SIGNATURE');
  }
  world.approve([a, b]);
  await takesIt(s);
});

test('of another manifest, at another place, with a proof of another', async () => {
  await using s = await careful();
  const { world } = s;
  const keys = world.releaseKeys.slice(1);
  const other = ['00', 'ff'].map((byte) => byte.repeat(32));
  world.approve(keys, { digests: other });
  await refuses(s, 'E_APPROVAL_PROOF');
  world.approve(keys, { digests: [...other, world.digest()] });
  await refuses(s, 'E_APPROVAL_PROOF', (offer) => changed(offer, { index: 0 }));
  await refuses(s, 'E_APPROVAL_PROOF', (offer) => changed(offer, { index: 3 }));
  await refuses(s, 'E_APPROVAL_PROOF', (offer) => changed(offer, { proof: [] }));
  await takesIt(s);
});

test('not in the log; over; of another epoch or fleet; no approval at all', async () => {
  await using s = await careful();
  const { world } = s;
  const keys = world.releaseKeys.slice(0, 2);
  world.approve(keys);
  await refuses(s, 'E_NOT_LOGGED', (offer) => changed(offer, { logged: { index: 0, proof: [] } }));
  world.approve(keys, { expiresAt: world.now + 1 });
  world.now += 1;
  await refuses(s, 'E_APPROVAL_EXPIRED');
  world.approve(keys, { root: { ...world.root, epoch: world.root.epoch + 1 } });
  await refuses(s, 'E_EPOCH');
  world.approve(keys, { root: { ...world.root, fleet: 'other.test' } });
  await refuses(s, 'E_FLEET_MISMATCH');
  // A release key's signature on the manifest itself, shown as its own approval.
  world.show(world.manifestOf(two), [world.directorKey, ...keys]);
  const approval = {
    envelope: world.manifest ?? '',
    index: 0,
    proof: [],
    logged: world.log.logged(world.manifest ?? ''),
  };
  await refuses(s, 'E_APPROVAL_FORM', () => ({ approval }));
  world.approve(keys);
  await takesIt(s);
});
