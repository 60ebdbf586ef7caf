// What an agent must refuse of offers: manifests that are not for it, or not now, answers that are none, and state of
// its own that is damaged. The other refusals are in refused-*.test.ts, agent-log.test.ts and agent-approval.test.ts.
import assert from 'node:assert/strict';
import { readFile, readlink, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { readMemory } from '../../src/agent/memory.ts';
import { generateSecretKey } from '../../src/ed25519.ts';
import type { ErrorCode } from '../../src/errors.ts';
import { parseEnvelope } from '../../src/manifest/dsse.ts';
import { type Deployment, manifestDigest } from '../../src/manifest/manifest.ts';
import { type Setting, setting } from '../helpers/hosts.ts';
import { dribble, on, pour, refuses } from '../helpers/refusals.ts';
import { buildSystem } from '../helpers/systems.ts';
import { temporaryDirectory } from '../helpers/temporary.ts';
import type { World } from '../helpers/world.ts';

const systems = await temporaryDirectory();
after(() => systems[Symbol.asyncDispose]());
const one = await buildSystem(systems.path, 'first');
const two = await buildSystem(systems.path, 'second');

/** A host that runs system one; two can be fetched, but is not published. */
async function begin(): Promise<Setting> {
  const s = await setting(one);
  s.world.serve(two);
  return s;
}

// One world for all that is refused before anything is fetched.
const shared = await begin();
after(() => shared[Symbol.asyncDispose]());

const manifests: [
  string,
  ErrorCode,
  (manifest: Deployment, world: World) => Partial<Deployment>,
][] = [
  ['another host', 'E_HOST_MISMATCH', (m) => ({ host: { ...m.host, id: 'beta' } })],
  [
    'another system',
    'E_SYSTEM_MISMATCH',
    (m) => ({ host: { ...m.host, system: 'riscv64-linux' } }),
  ],
  ['another fleet', 'E_FLEET_MISMATCH', (m) => ({ fleet: { ...m.fleet, name: 'other.test' } })],
  ['another root', 'E_ROOT_VERSION', (m) => ({ fleet: { ...m.fleet, rootVersion: 2 } })],
  ['another epoch', 'E_EPOCH', () => ({ epoch: 2 })],
  ['the same sequence', 'E_SEQUENCE_CONFLICT', () => ({ sequence: 1 })],
  ['expired', 'E_MANIFEST_EXPIRED', (m, { now }) => ({ ...m, expiresAt: now })],
  ['not yet valid', 'E_MANIFEST_NOT_YET', (m, { now }) => ({ ...m, notBefore: now + 1 })],
  [
    'more than the root allows',
    'E_CLOSURE_SIZE',
    (m) => ({ closure: { ...m.closure, narBytes: 2 ** 41 } }),
  ],
];

for (const [name, code, change] of manifests) {
  test(`a manifest of ${name}`, async () => {
    const { world } = shared;
    const manifest = world.manifestOf(two);
    world.show({ ...manifest, ...change(manifest, world) });
    await refuses(shared, code);
  });
}

test('a manifest by an unknown key, and by too few', async () => {
  const { world } = shared;
  world.show(world.manifestOf(two), [generateSecretKey()]);
  await refuses(shared, 'E_SIGNATURE_UNKNOWN_KEY');
  world.show(world.manifestOf(two), []);
  await refuses(shared, 'E_SIGNATURE_THRESHOLD');
});

test('one flipped bit, wherever it is', async () => {
  const { world, host } = shared;
  world.show(world.manifestOf(two));
  const good = Buffer.from(world.manifest ?? '');
  for (let at = 0; at < good.length; at += Math.ceil(good.length / 60)) {
    const bad = Buffer.from(good);
    bad.writeUInt8(bad.readUInt8(at) ^ (1 << (at % 6)), at);
    world.manifest = bad.toString('latin1');
    const { error, outcome } = await host.once();
    // What is not signed may change: a keyid, which is a hint.
    if (sameSignedBytes(world.manifest, good.toString())) continue;
    assert.equal(outcome?.phase, 'refused', `bit at ${at}: ${error}`);
    assert.equal(error?.exitCode, 3);
  }
  assert.equal(await readlink(join(host.root, 'run/current-system')), one.toplevel);
});

function sameSignedBytes(a: string, b: string): boolean {
  try {
    const [x, y] = [parseEnvelope(a), parseEnvelope(b)];
    const signed = ({ payload, signatures }: typeof x) =>
      `${Buffer.from(payload).toString('hex')} ${signatures.map(({ sig }) => Buffer.from(sig).toString('hex'))}`;
    return x.payloadType === y.payloadType && signed(x) === signed(y);
  } catch {
    return false;
  }
}

test('an older manifest, also after a failed fetch of the newer one', async () => {
  await using s = await begin();
  const { world, host } = s;
  const old = world.manifestOf(two);
  world.publish(two, { sequence: 9 });
  world.nars.clear();
  const { error } = await host.once();
  assert.equal(error?.code, 'E_FETCH');
  // Persisted before the fetch.
  assert.equal((await readMemory(host.state)).trust.floor?.sequence, 9);
  world.show(old);
  await refuses(s, 'E_SEQUENCE_OLDER');
});

test('a 304 proves nothing: the stored offer grows old', async () => {
  await using s = await begin();
  const { world, host } = s;
  world.requests.length = 0;
  assert.equal((await host.once()).error, null);
  world.now += 86_400;
  await refuses(s, 'E_MANIFEST_EXPIRED');
  assert.equal(world.requests.filter((line) => line.includes('offer')).length, 3);
});

test('an offer that is refused is not stored: the honest one, under the same ETag, is heard', async () => {
  await using s = await begin();
  const { world, host } = s;
  world.publish(two);
  world.distort = (offer) => {
    const { manifest, ...rest } = JSON.parse(offer);
    const envelope = JSON.parse(manifest);
    envelope.signatures[0].sig = `${'A'.repeat(86)}==`;
    return JSON.stringify({ ...rest, manifest: JSON.stringify(envelope) });
  };
  assert.equal((await host.once()).error?.exitCode, 3);
  world.distort = (offer) => offer;
  assert.equal((await host.once()).outcome?.phase, 'in-sync');
  assert.equal(await readlink(join(host.root, 'run/current-system')), two.toplevel);
});

test('a damaged stored offer is asked for again', async () => {
  await using s = await begin();
  await truncate(join(s.host.state, 'offer.json'), 20);
  assert.equal((await s.host.once()).outcome?.phase, 'in-sync');
});

test('a manifest that expires while it is fetched is not activated', async () => {
  await using s = await begin();
  const { world, host } = s;
  world.publish(two);
  let later = 0;
  world.misbehave = (path) => {
    if (path.startsWith('/nar/')) later = 90_000;
    return false;
  };
  const { error } = await host.once({ clock: () => world.now + later });
  assert.equal(error?.code, 'E_MANIFEST_EXPIRED');
  assert.equal(await readlink(join(host.root, 'run/current-system')), one.toplevel);
});

test('offers that are none', async () => {
  const { world } = shared;
  const answers: [string, ErrorCode][] = [
    // Never the same code twice in a row: that is told once.
    ['{}', 'E_OFFER_FORM'],
    ['{"offerVersion":3}', 'E_OFFER_VERSION'],
    ['', 'E_OFFER_FORM'],
    ['{"offerVersion":2,"minAgent":99}', 'E_OFFER_VERSION'],
    ['<html>', 'E_OFFER_FORM'],
  ];
  for (const [text, code] of answers) {
    world.misbehave = on(/\/offer$/, (_, response) => Boolean(response.end(text)));
    await refuses(shared, code);
  }
  world.misbehave = () => false;
});

test('an endless offer', async () => {
  const { world } = shared;
  world.misbehave = on(/\/offer$/, pour);
  await refuses(shared, 'E_BODY_LIMIT');
  world.misbehave = () => false;
});

test('a server that sends a byte now and then', async () => {
  const { world, host } = shared;
  world.misbehave = on(/\/offer$/, dribble);
  const reports = world.reports.length;
  const { error, outcome } = await host.once();
  assert.deepEqual([error?.code, error?.exitCode, outcome], ['E_SERVER_SLOW', 1, null]);
  assert.equal(world.reports.length, reports);
  world.misbehave = () => false;
});

test('a host that had a manifest does not believe that there is none', async () => {
  const { world, host } = shared;
  const { manifest } = world;
  world.manifest = null;
  assert.equal((await host.once()).error?.code, 'E_SERVER_ANSWER');
  world.manifest = manifest;
});

test('damaged state is refused by name, and never taken for lost', async () => {
  await using s = await begin();
  const { host, world } = s;
  world.publish(two);
  for (const name of [
    'trust.json',
    'journal.json',
    'receipts.json',
    'host-key.pem',
    'token',
    'agent.json',
  ]) {
    const file = join(host.state, name);
    const kept = await readFile(file);
    const damages =
      name === 'token' ? [''] : ['', kept.subarray(0, kept.length / 2), '{"version":1}'];
    for (const damage of damages) {
      await writeFile(file, damage);
      await assert.rejects(host.once(), {
        code: 'E_AGENT_STATE_CORRUPT',
        message: new RegExp(name),
      });
    }
    await writeFile(file, kept);
  }
  assert.equal(await readlink(join(host.root, 'run/current-system')), one.toplevel);
  assert.equal((await host.once()).outcome?.phase, 'in-sync');
});

test('the digest that is told is that of the payload', async () => {
  const { world, host } = shared;
  world.publish(two, { sequence: 5000 });
  await host.once();
  const payload = parseEnvelope(world.manifest ?? '').payload;
  assert.equal(world.reports.at(-1)?.manifest?.sha256, manifestDigest(payload));
});
