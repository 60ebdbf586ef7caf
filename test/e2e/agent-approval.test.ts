// A host whose group wants two of three release keys, and a server that comes without, with too few, or with
// other people's approvals: each refusal has its code and leaves the system as it was.
import { after, test } from 'node:test';
import { generateSecretKey } from '../../src/ed25519.ts';
import type { ErrorCode } from '../../src/errors.ts';
import { publicKeyOfSecret } from '../../src/keyfile.ts';
import { parseEnvelope, signEnvelope } from '../../src/manifest/dsse.ts';
import type { Offer } from '../../src/manifest/offer.ts';
import { STATEMENT_PAYLOAD_TYPE } from '../../src/manifest/statement.ts';
import { type Setting, setting } from '../helpers/hosts.ts';
import { refuses, takesIt } from '../helpers/refusals.ts';
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
  await takesIt(s, two);
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
  await takesIt(s, two);
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
  await takesIt(s, two);
});

test('a host in several groups takes the highest number; one in none is refused', async () => {
  await using s = await careful();
  const { world } = s;
  const [a, b] = world.releaseKeys as [Uint8Array, Uint8Array];
  world.rotate({
    groups: [
      { name: 'all', hosts: ['*'], approvals: 0 },
      { name: 'some', hosts: ['al*'], approvals: 1 },
      { name: 'this', hosts: ['alpha'], approvals: 2 },
    ],
  });
  world.publish(two);
  await refuses(s, 'E_APPROVAL_MISSING');
  world.approve([a]);
  await refuses(s, 'E_APPROVAL_THRESHOLD');
  world.rotate({ groups: [{ name: 'others', hosts: ['alpha-*', 'beta'], approvals: 0 }] });
  world.publish(two);
  world.approve([a, b]);
  await refuses(s, 'E_HOST_UNGROUPED');
  world.rotate({ groups: [{ name: 'this', hosts: ['alpha'], approvals: 2 }] });
  world.publish(two);
  world.approve([a, b]);
  await takesIt(s, two);
});

test('an approval that is changed, not canonical, or signed by a key that lost its role', async () => {
  await using s = await careful();
  const { world } = s;
  const [a, b, c] = world.releaseKeys as [Uint8Array, Uint8Array, Uint8Array];
  world.approve([a, b]);
  const good = world.approval?.envelope ?? '';
  const approved = parseEnvelope(good);
  // As logged as it is: the director, who appends what it likes, has changed it.
  const logged = async (code: ErrorCode, envelope: string): Promise<void> => {
    world.append([envelope]);
    await refuses(s, code, (offer) =>
      changed(offer, { envelope, logged: world.log.logged(envelope) }),
    );
  };
  const flipped = { ...JSON.parse(good), payload: JSON.parse(good).payload.replace(/^ey/, 'ez') };
  await logged('E_APPROVAL_SIGNATURE', JSON.stringify(flipped));
  const text = Buffer.from(approved.payload).toString();
  const signed = (payload: string) =>
    signEnvelope(STATEMENT_PAYLOAD_TYPE, Buffer.from(payload), [a, b]);
  await logged('E_PAYLOAD_FORM', signed(text.replace('"count":1', '"count":1,"count":1')));
  await logged('E_APPROVAL_FORM', signed(text.replace('"count":1', '"aside":1,"count":1')));
  await logged('E_APPROVAL_FORM', signed(text.replace(/"expiresAt":"[^"]*"/, '"expiresAt":""')));
  await logged('E_APPROVAL_FORM', signed(text.replace('approval:v1', 'approval:v2')));
  const keys = [b, c].map(publicKeyOfSecret);
  world.rotate({ roles: { ...world.root.roles, release: { keys, threshold: 1 } } });
  world.publish(two);
  world.approve([a, b]);
  await refuses(s, 'E_APPROVAL_THRESHOLD');
  world.approve([b, c]);
  await takesIt(s, two);
});
