// More of what a server's log may lie about: notes that are none, freshness at its edges, hosts that the snapshot
// leaves out, proofs of other things, and a bit that flipped anywhere in an offer.
import assert from 'node:assert/strict';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { encodeBase64 } from '../../src/base64.ts';
import { generateSecretKey } from '../../src/ed25519.ts';
import { publicKeyOfSecret } from '../../src/keyfile.ts';
import { parseOffer } from '../../src/manifest/offer.ts';
import type { Root } from '../../src/manifest/root.ts';
import { parseSnapshot } from '../../src/manifest/snapshot.ts';
import { hashLeaf, rootOf } from '../../src/tlog/merkle.ts';
import { cosignNote, parseNote, signNote } from '../../src/tlog/note.ts';
import {
  formatVerifierKey,
  NOTE_COSIGNATURE,
  NOTE_ED25519,
  parseVerifierKey,
} from '../../src/tlog/vkey.ts';
import { type Setting, setting, systemsOf } from '../helpers/hosts.ts';
import { refuses, takesIt } from '../helpers/refusals.ts';
import { buildSystem } from '../helpers/systems.ts';
import { temporaryDirectory } from '../helpers/temporary.ts';
import { HOST, type World } from '../helpers/world.ts';

const systems = await temporaryDirectory();
after(() => systems[Symbol.asyncDispose]());
const one = await buildSystem(systems.path, 'first');
const two = await buildSystem(systems.path, 'second');

/** A host that runs system one; the newest manifest says two, and the server lies about it. */
async function lying(): Promise<Setting> {
  const s = await setting(one);
  s.world.publish(two);
  return s;
}

const checkpointAt = (world: World, time: number) =>
  world.log.checkpoint(world.root, world.logKeys, time);

/** A line by a key that no root names. */
function strangersLine(text: string, name: string) {
  const secret = generateSecretKey();
  const key = { name, type: NOTE_ED25519, publicKey: publicKeyOfSecret(secret) } as const;
  return signNote(text, key, secret);
}

test('the note: a key with two lines, 33 lines; strangers’ lines are ignored up to 32', async () => {
  await using s = await lying();
  const { world } = s;
  const { text, signatures } = parseNote(checkpointAt(world, world.now));
  const [byLog] = signatures;
  assert.ok(byLog);
  const line = ({ name, keyId, signature }: typeof byLog): string =>
    `— ${name} ${encodeBase64(Buffer.concat([Buffer.from(keyId, 'hex'), signature]))}\n`;
  const noteOf = (lines: readonly (typeof byLog)[]) => `${text}\n${lines.map(line).join('')}`;
  const strangers = Array.from({ length: 31 }, (_, i) => strangersLine(text, `stranger-${i}`));
  await refuses(s, 'E_NOTE', () => ({ checkpoint: noteOf([...signatures, byLog]) }), 'log twice');
  const key = parseVerifierKey(world.root.freshness.keys[0] ?? '', NOTE_COSIGNATURE);
  const earlier = cosignNote(text, world.now - 5, key, world.logKeys.freshness);
  const twice = noteOf([...signatures, earlier]);
  await refuses(s, 'E_NOTE', () => ({ checkpoint: twice }), 'freshness twice');
  const many = noteOf([...signatures, ...strangers]);
  await refuses(s, 'E_NOTE', () => ({ checkpoint: many }), '33 lines');
  // Known by its name and key ID, and bad: however good the others are.
  const bad = { ...byLog, signature: strangersLine(text, byLog.name).signature };
  const withBad = noteOf([bad, ...signatures.slice(1)]);
  await refuses(s, 'E_NOTE_SIGNATURE', () => ({ checkpoint: withBad }));
  world.distort = (offer) =>
    JSON.stringify({
      ...parseOffer(offer),
      checkpoint: noteOf([...strangers.slice(1), ...signatures]),
    });
  await takesIt(s, two);
});

test('freshness: maxAge old and 300 s ahead are taken, a second more is not', async () => {
  for (const [edge, beyond, code] of [
    [300, 301, 'E_FRESHNESS_FUTURE'],
    [-604_800, -604_801, 'E_STALE'],
  ] as const) {
    await using s = await lying();
    const { world } = s;
    assert.equal(world.root.maxAge, 604_800);
    await refuses(s, code, () => ({ checkpoint: checkpointAt(world, world.now + beyond) }));
    world.freshAt = world.now + edge;
    await takesIt(s, two);
  }
});

test('a snapshot without this host, and one of other hosts alone', async () => {
  await using s = await lying();
  const { world } = s;
  const { log } = world;
  const { rootVersion: version, rootSha256: sha256 } = parseSnapshot(String(log.leaves.at(-1)));
  const mine = log.hosts.get(HOST);
  assert.ok(mine);
  log.hosts.delete(HOST);
  log.publish([], { version, sha256 });
  const { host: _, ...numbers } = mine;
  const claimed = () => ({ entry: { ...numbers, index: 0, proof: [] } });
  await refuses(s, 'E_SNAPSHOT_ENTRY', claimed, 'no host at all');
  log.hosts.set('beta', { ...mine, host: 'beta' });
  log.publish([], { version, sha256 });
  await refuses(s, 'E_SNAPSHOT_ENTRY', null, 'another host’s entry');
  log.hosts.set(HOST, mine);
  log.publish([], { version, sha256 });
  await takesIt(s, two);
});

test('proofs of other things: of another leaf, of another tree, none', async () => {
  await using s = await lying();
  const { world } = s;
  const { log } = world;
  const other = log.fork();
  other.leaves[5] = Buffer.from('{}');
  for (const growth of [
    other.consistency(4),
    log.consistency(3),
    log.consistency(4).slice(1),
    [],
  ]) {
    await refuses(s, 'E_CONSISTENCY', () => ({ growth }));
  }
  const { index } = log.logged(world.manifest ?? '');
  for (const logged of [
    { index: index - 1, proof: log.inclusion(index) },
    { index, proof: log.inclusion(index + 1) },
    { index: log.size, proof: log.inclusion(index) },
    { index, proof: other.inclusion(index) },
  ]) {
    await refuses(s, 'E_NOT_LOGGED', () => ({ logged }));
  }
  await takesIt(s, two);
});

test('a log under another name, as no root says, or other than the newest root says', async () => {
  await using s = await setting(one);
  const { world } = s;
  const key = parseVerifierKey(world.root.log.vkey, NOTE_ED25519);
  const origin = 'world.test/log/2';
  const renamed = { origin, vkey: formatVerifierKey({ ...key, name: origin }) };
  const checkpointAs = (root: Root) => world.log.checkpoint(root, world.logKeys, world.now);
  world.show(world.manifestOf(two));
  const moved = { ...world.root, log: { ...world.root.log, ...renamed } };
  await refuses(s, 'E_LOG_ORIGIN', () => ({ checkpoint: checkpointAs(moved) }));
  world.rotate({ log: { ...world.root.log, ...renamed } });
  const asBefore = {
    ...world.root,
    log: { ...world.root.log, origin: key.name, vkey: formatVerifierKey(key) },
  };
  await refuses(s, 'E_LOG_ORIGIN', () => ({ checkpoint: checkpointAs(asBefore) }));
  world.publish(two);
  await takesIt(s, two);
});

test('the anchor of the newest root: a log that is shorter, of that size and other, or does not go on from it', async () => {
  await using s = await setting(one);
  const { world } = s;
  const anchored = (size: number, sha256: string) =>
    world.rotate({ log: { ...world.root.log, anchor: { size, sha256 } } });
  const hashOf = (size: number) =>
    Buffer.from(rootOf(world.log.leaves.slice(0, size).map(hashLeaf))).toString('hex');
  anchored(world.log.size + 100, '1'.repeat(64));
  world.show(world.manifestOf(two));
  await refuses(s, 'E_CHECKPOINT_OLDER');
  anchored(3, '1'.repeat(64));
  world.show(world.manifestOf(two));
  await refuses(s, 'E_CONSISTENCY');
  // Both the root and a publication are two entries.
  anchored(world.log.size + 4, '1'.repeat(64));
  world.show(world.manifestOf(two));
  await refuses(s, 'E_FORK');
  anchored(3, hashOf(3));
  world.publish(two);
  await takesIt(s, two);
});

/** What of an offer is not covered by any signature or proof. */
const unsigned = { closure: null, minAgent: 1 };

test('one flipped bit, wherever it is in an offer', async () => {
  await using s = await lying();
  const { world, host } = s;
  const trust = await readFile(join(host.state, 'trust.json'));
  // Each time as if it were the first: what is not refused would be accepted for good.
  world.misbehave = (_path, _response, request) => {
    delete request.headers['if-none-match'];
    return false;
  };
  let at = 0;
  let sent = '';
  world.distort = (text) => {
    const bytes = Buffer.from(text);
    bytes.writeUInt8(bytes.readUInt8(at) ^ (1 << (at % 6)), at);
    sent = bytes.toString('utf8');
    return sent;
  };
  world.nars.clear();
  const good = world.offer(1, 4);
  const { length } = JSON.stringify(good);
  let refused = 0;
  for (; at < length; at += Math.ceil(length / 120)) {
    const { error, outcome } = await host.once();
    if (outcome?.phase === 'refused') {
      assert.equal(error?.exitCode, 3);
      refused += 1;
    } else {
      // Nothing that counts was changed.
      assert.deepEqual({ ...parseOffer(sent), ...unsigned }, { ...good, ...unsigned }, `at ${at}`);
      assert.equal(error?.code, 'E_FETCH', `at ${at}: ${error}`);
    }
    await writeFile(join(host.state, 'trust.json'), trust);
  }
  assert.ok(refused > 100, `${refused} refused`);
  assert.equal((await systemsOf(host)).current, one.toplevel);
});
