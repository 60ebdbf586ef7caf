// Manifests that an agent must refuse for how they are signed, for what they are made of, and for their numbers. Each
// is logged, fresh, and named by the snapshot: the server, or whoever has its keys, means it.
import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { readMemory } from '../../src/agent/memory.ts';
import { generateSecretKey } from '../../src/ed25519.ts';
import { publicKeyOfSecret } from '../../src/keyfile.ts';
import { parseEnvelope, signEnvelope } from '../../src/manifest/dsse.ts';
import { signEnrolment } from '../../src/manifest/enrolment.ts';
import { formatManifest } from '../../src/manifest/manifest.ts';
import { STATEMENT_PAYLOAD_TYPE } from '../../src/manifest/statement.ts';
import { type Setting, setting } from '../helpers/hosts.ts';
import { refuses, showEnvelope, takesIt } from '../helpers/refusals.ts';
import { buildSystem } from '../helpers/systems.ts';
import { temporaryDirectory } from '../helpers/temporary.ts';
import { FLEET, HOST, type World } from '../helpers/world.ts';

const systems = await temporaryDirectory();
after(() => systems[Symbol.asyncDispose]());
const one = await buildSystem(systems.path, 'first');
const two = await buildSystem(systems.path, 'second');

/** A host that runs system one; two can be fetched, and is not published. */
async function begin(): Promise<Setting> {
  const s = await setting(one);
  s.world.serve(two);
  return s;
}

type Signature = { keyid: string; sig: string };
type Text = {
  payload: string;
  payloadType: string;
  signatures: Signature[];
  [other: string]: unknown;
};

const urlSafe = (text: string): string =>
  text.replaceAll('+', '-').replaceAll('/', '_').replaceAll('=', '');

/** The payload of a manifest of system two, as text. */
const payloadOf = (world: World, sequence?: number): string =>
  Buffer.from(
    formatManifest(world.manifestOf(two, sequence === undefined ? {} : { sequence })),
  ).toString();

/** Shows what the director signed, whatever it is. */
function showPayload(world: World, payload: string, type = STATEMENT_PAYLOAD_TYPE): void {
  showEnvelope(world, signEnvelope(type, Buffer.from(payload), [world.directorKey]));
}

/** Shows a manifest of system two whose envelope `change` has altered. */
function showChanged(
  world: World,
  keys: readonly Uint8Array[],
  change: (envelope: Text) => unknown,
): void {
  const manifest = world.manifestOf(two);
  const text = signEnvelope(STATEMENT_PAYLOAD_TYPE, formatManifest(manifest), keys);
  showEnvelope(world, JSON.stringify(change(JSON.parse(text) as Text)), manifest.sequence);
}

test('two directors must sign: one, one twice, under two key ids, in the other base64, or with a stranger', async () => {
  await using s = await begin();
  const { world } = s;
  const [a, b] = [world.directorKey, generateSecretKey()];
  const keys = [a, b].map(publicKeyOfSecret);
  world.rotate({ roles: { ...world.root.roles, director: { keys, threshold: 2 } } });
  for (const signers of [[a], [a, a], [a, generateSecretKey()]]) {
    world.show(world.manifestOf(two), signers);
    await refuses(s, 'E_SIGNATURE_THRESHOLD');
  }
  const twice = (other: (signature: Signature) => Signature) => (envelope: Text) => {
    const [first] = envelope.signatures as [Signature];
    return { ...envelope, signatures: [first, other(first)] };
  };
  const [, idOfB] = parseEnvelope(signEnvelope('x', Buffer.from('x'), [a, b])).signatures;
  for (const other of [
    ({ sig }: Signature) => ({ keyid: idOfB?.keyid ?? '', sig }),
    ({ sig }: Signature) => ({ keyid: 'another', sig: urlSafe(sig) }),
  ]) {
    showChanged(world, [a], twice(other));
    await refuses(s, 'E_SIGNATURE_THRESHOLD');
  }
  // A key id is a hint, both alphabets are read, unknown fields of an envelope are ignored.
  showChanged(world, [a, b], ({ payload, payloadType, signatures }) => ({
    ...{ payload: urlSafe(payload), payloadType, other: 1 },
    signatures: signatures.map(({ sig }) => ({ keyid: 'none', sig: urlSafe(sig), other: [] })),
  }));
  await takesIt(s, two);
});

test('the keys of all other roles sign no manifest', async () => {
  await using s = await begin();
  const { world } = s;
  const { rootKey, releaseKeys, logKeys } = world;
  world.show(world.manifestOf(two), [rootKey, ...releaseKeys, logKeys.log, logKeys.freshness]);
  await refuses(s, 'E_SIGNATURE_UNKNOWN_KEY');
  // A signature over the bare payload, and one over another type, are by the right key and do not hold.
  const payload = formatManifest(world.manifestOf(two));
  const other = signEnvelope('application/json', payload, [world.directorKey]);
  showEnvelope(
    world,
    JSON.stringify({ ...JSON.parse(other), payloadType: STATEMENT_PAYLOAD_TYPE }),
  );
  await refuses(s, 'E_SIGNATURE');
});

test('33 signatures are too many; of 32 the one that holds counts', async () => {
  await using s = await begin();
  const { world } = s;
  const bad = { keyid: '', sig: 'AAAA' };
  const after = (count: number) => (envelope: Text) => ({
    ...envelope,
    signatures: [...Array.from({ length: count }, () => bad), ...envelope.signatures],
  });
  const manifest = world.manifestOf(two);
  const text = signEnvelope(STATEMENT_PAYLOAD_TYPE, formatManifest(manifest), [world.directorKey]);
  world.manifest = JSON.stringify(after(32)(JSON.parse(text) as Text));
  await refuses(s, 'E_ENVELOPE');
  showChanged(world, [world.directorKey], after(31));
  await takesIt(s, two);
});

test('an envelope of more than 60 KiB', async () => {
  await using s = await begin();
  const { world } = s;
  const padding = 'x'.repeat(60 * 1024);
  world.publish(two);
  await refuses(s, 'E_OFFER_FORM', ({ manifest }) => ({
    manifest: JSON.stringify({ ...JSON.parse(manifest), padding }),
  }));
  await takesIt(s, two);
});

test('signed payloads that are not canonical JSON of the allowed kind', async () => {
  await using s = await begin();
  const { world } = s;
  const changes: Record<string, (payload: string) => string> = {
    'a key twice': (text) =>
      text.replace('"emergency":false', '"emergency":false,"emergency":true'),
    'a key twice, alike': (text) => text.replace(/"epoch":1/, '"epoch":1,"epoch":1'),
    'a float': (text) => text.replace('"confirmSeconds":120', '"confirmSeconds":120.5'),
    'a float that is whole': (text) =>
      text.replace('"confirmSeconds":120', '"confirmSeconds":120.0'),
    '2^53': (text) => text.replace('"minSequence":0', '"minSequence":9007199254740992'),
    'minus zero': (text) => text.replace('"minSequence":0', '"minSequence":-0'),
    'a lone surrogate': (text) => text.replace('path:/world', 'path:/\\ud800'),
    'another order': (text) => text.replace(/^\{(.*),("subject":.*)\}$/s, '{$2,$1}'),
    spaces: (text) => text.replace('{', '{ '),
    'an escape': (text) => text.replace('path:/world', 'path:\\/world'),
    'a newline at the end': (text) => `${text}\n`,
    'a byte order mark': (text) => `\ufeff${text}`,
    'no JSON': (text) => text.slice(1),
    'deep nesting': () => `${'['.repeat(5000)}${']'.repeat(5000)}`,
  };
  for (const [what, change] of Object.entries(changes)) {
    const payload = payloadOf(world);
    assert.notEqual(change(payload), payload, what);
    showPayload(world, change(payload));
    await refuses(s, 'E_PAYLOAD_FORM', null, what);
  }
  world.publish(two, { sequence: 2000 });
  await takesIt(s, two);
});

test('dates that are none: never "not expired"', async () => {
  await using s = await begin();
  const { world } = s;
  for (const date of [
    '',
    'never',
    '2030-02-30T00:00:00Z',
    '2030-01-01T24:00:00Z',
    '2030-01-01T00:00:60Z',
    '2030-01-01T00:00:00+00:00',
    '2030-01-01t00:00:00z',
    '2030-01-01T00:00:00.5Z',
    '10000-01-01T00:00:00Z',
  ]) {
    for (const field of ['expiresAt', 'notBefore']) {
      const payload = payloadOf(world).replace(
        new RegExp(`"${field}":"[^"]*"`),
        `"${field}":"${date}"`,
      );
      showPayload(world, payload);
      await refuses(s, 'E_MANIFEST_FORM', null, `${field} ${date}`);
    }
  }
});

test('what the director signed and is no manifest of a form that is known', async () => {
  await using s = await begin();
  const { world } = s;
  const changes: Record<string, (payload: string) => string> = {
    'an unknown field': (text) => text.replace('"toplevel":', '"topLevel":1,"toplevel":'),
    'an unknown field further in': (text) => text.replace('"mode":', '"mod":1,"mode":'),
    'a missing field': (text) => text.replace('"emergency":false,', ''),
    'another predicate': (text) => text.replace('urn:fleet:manifest:v1', 'urn:fleet:manifest:v2'),
    'another Statement': (text) => text.replace('/Statement/v1', '/Statement/v2'),
    'another subject': (text) => text.replace('"name":"closure.fp"', '"name":"closure.fq"'),
    'a subject too many': (text) =>
      text.replace(
        '"subject":[',
        `"subject":[{"digest":{"sha256":"${'0'.repeat(64)}"},"name":"x"},`,
      ),
    'sequence 0': (text) => text.replace(/"sequence":\d+/, '"sequence":0'),
    'a floor above itself': (text) => text.replace('"minSequence":0', '"minSequence":5000'),
    'an end before its beginning': (text) =>
      text.replace(/"expiresAt":"\d{4}/, '"expiresAt":"1999'),
    'a store path with another below it': (text) =>
      text.replaceAll(two.toplevel, `${two.toplevel}/x`),
  };
  for (const [what, change] of Object.entries(changes)) {
    const payload = payloadOf(world);
    assert.notEqual(change(payload), payload, what);
    showPayload(world, change(payload));
    await refuses(s, 'E_MANIFEST_FORM', null, what);
  }
  showPayload(world, payloadOf(world), 'application/json');
  await refuses(s, 'E_MANIFEST_FORM', null, 'another payload type');
  // Its own word on something else.
  const key = publicKeyOfSecret(generateSecretKey());
  const enrolment = { fleet: FLEET, host: HOST, publicKey: key, replaces: null };
  showEnvelope(world, signEnrolment(enrolment, world.directorKey));
  await refuses(s, 'E_MANIFEST_FORM', null, 'an enrolment');
  // Unknown fields of the Statement are in-toto’s to add.
  const payload = `{"_other":[],${payloadOf(world, 3000).slice(1)}`;
  const text = signEnvelope(STATEMENT_PAYLOAD_TYPE, Buffer.from(payload), [world.directorKey]);
  showEnvelope(world, text, 3000);
  await takesIt(s, two);
});

test('sequence 2^53-1 is the last one; the next epoch starts anew, and none comes back', async () => {
  await using s = await begin();
  const { world, host } = s;
  const last = Number.MAX_SAFE_INTEGER;
  world.publish(two, { sequence: last });
  await takesIt(s, two);
  const payload = payloadOf(world, last);
  showPayload(world, payload.replace(`"sequence":${last}`, '"sequence":9007199254740992'));
  await refuses(s, 'E_PAYLOAD_FORM');
  world.show(world.manifestOf(one, { sequence: last - 1 }));
  await refuses(s, 'E_SEQUENCE_OLDER');
  world.show(world.manifestOf(one, { sequence: last }));
  await refuses(s, 'E_SEQUENCE_CONFLICT');
  // A manifest alone starts no epoch.
  world.show(world.manifestOf(one, { epoch: 2, sequence: 1 }));
  await refuses(s, 'E_EPOCH');
  world.rotate({ epoch: 2 });
  world.publish(one, { sequence: 1 });
  await takesIt(s, one);
  assert.deepEqual((await readMemory(host.state)).trust.floor?.epoch, 2);
  world.show(world.manifestOf(two, { epoch: 1, sequence: last }));
  await refuses(s, 'E_EPOCH');
});
