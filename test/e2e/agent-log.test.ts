// A server whose log lies, in every way that the agent must notice: each has its code, leaves the system as
// it was, and is told to the fleet once.
import assert from 'node:assert/strict';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { readMemory } from '../../src/agent/memory.ts';
import { generateSecretKey } from '../../src/ed25519.ts';
import type { ErrorCode } from '../../src/errors.ts';
import { publicKeyOfSecret } from '../../src/keyfile.ts';
import { type Offer, parseOffer } from '../../src/manifest/offer.ts';
import { parseSnapshot } from '../../src/manifest/snapshot.ts';
import { headOf } from '../../src/manifest/verify-offer.ts';
import { formatCheckpoint } from '../../src/tlog/checkpoint.ts';
import { hashLeaf, rootOf } from '../../src/tlog/merkle.ts';
import { cosignNote, formatNote, parseNote, signNote } from '../../src/tlog/note.ts';
import {
  formatVerifierKey,
  NOTE_COSIGNATURE,
  NOTE_ED25519,
  parseVerifierKey,
} from '../../src/tlog/vkey.ts';
import { type Setting, setting, systemsOf } from '../helpers/hosts.ts';
import { TestLog } from '../helpers/log.ts';
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

const checkpointOf = (world: World, log: TestLog = world.log, time: number | null = world.now) =>
  log.checkpoint(world.root, world.logKeys, time);

/** What a server says whose log is another, to a host that has seen `from` entries. */
function offerOf(world: World, log: TestLog, from: number): Partial<Offer> {
  return {
    checkpoint: checkpointOf(world, log),
    growth: log.consistency(from),
    snapshot: { text: String(log.leaves.at(-1)), proof: log.inclusion(log.size - 1) },
    entry: log.entry(HOST),
    logged: log.logged(world.manifest ?? ''),
  };
}

/** As `refuses`, with the checkpoint and all proofs of `log`. */
async function refusesLog(s: Setting, code: ErrorCode, log: TestLog): Promise<void> {
  const { trust } = await readMemory(s.host.state);
  const { size } = headOf(trust.checkpoint ?? '');
  await refuses(s, code, () => offerOf(s.world, log, size));
}

/** The first `size` entries. */
function cut(log: TestLog, size: number): TestLog {
  const other = log.fork();
  other.leaves.length = size;
  return other;
}

/** What a snapshot's text says of the root. */
function parsedRoot(text: string) {
  const { rootVersion, rootSha256 } = parseSnapshot(text);
  return { version: rootVersion, sha256: rootSha256 };
}

const rootOfWorld = (world: World) => parsedRoot(String(world.log.leaves.at(-1)));

test('the checkpoint: by the log’s key, of this log, a note at all', async () => {
  await using s = await lying();
  const { world } = s;
  const { log, root, logKeys } = world;
  await refuses(s, 'E_NOTE', () => ({ checkpoint: 'none' }));
  await refuses(s, 'E_NOTE_SIGNATURE', ({ checkpoint }) => ({
    checkpoint: checkpoint.replace(`\n${log.size}\n`, `\n${log.size + 1}\n`),
  }));
  const strangers = { log: generateSecretKey(), freshness: generateSecretKey() };
  const vkey = (text: string, type: 1 | 4, secret: Uint8Array): string =>
    formatVerifierKey({ ...parseVerifierKey(text, type), publicKey: publicKeyOfSecret(secret) });
  const foreign = {
    ...root,
    log: { ...root.log, vkey: vkey(root.log.vkey, NOTE_ED25519, strangers.log) },
    freshness: {
      keys: [vkey(root.freshness.keys[0] ?? '', NOTE_COSIGNATURE, strangers.freshness)],
    },
  };
  await refuses(s, 'E_CHECKPOINT_UNSIGNED', () => ({
    checkpoint: log.checkpoint(foreign, strangers, world.now),
  }));
  // A director's or freshness key's word is none of the log.
  await refuses(s, 'E_NOTE_SIGNATURE', () => ({
    checkpoint: log.checkpoint(root, { ...logKeys, log: logKeys.freshness }, world.now),
  }));
  const key = parseVerifierKey(root.log.vkey, NOTE_ED25519);
  const text = formatCheckpoint({ origin: 'world.test/log/2', size: 1, root: new Uint8Array(32) });
  await refuses(s, 'E_LOG_ORIGIN', () => ({
    checkpoint: formatNote({ text, signatures: [signNote(text, key, logKeys.log)] }),
  }));
  const extended = `${parseNote(checkpointOf(world)).text}extension\n`;
  await refuses(s, 'E_CHECKPOINT', () => ({
    checkpoint: formatNote({
      text: extended,
      signatures: [signNote(extended, key, logKeys.log)],
    }),
  }));
  await takesIt(s, two);
});

test('freshness: there, not too old, not from the future', async () => {
  await using s = await lying();
  const { world } = s;
  await refuses(s, 'E_FRESHNESS_MISSING', () => ({
    checkpoint: checkpointOf(world, world.log, null),
  }));
  await refuses(s, 'E_FRESHNESS_FUTURE', () => ({
    checkpoint: checkpointOf(world, world.log, world.now + 301),
  }));
  // Days old, from a fresh server.
  world.now += 1000;
  const { maxAge } = world.root;
  await refuses(s, 'E_STALE', () => ({
    checkpoint: checkpointOf(world, world.log, world.now - maxAge - 1),
  }));
  world.freshAt = world.now - maxAge;
  await takesIt(s, two);
});

test('a log that shrank, two of one size, one that does not go on: refused, with the evidence', async () => {
  await using s = await lying();
  const { world, host } = s;
  const honest = world.log;
  const seen = (await readMemory(host.state)).trust.checkpoint ?? '';
  assert.equal(headOf(seen).size, 4);
  await refusesLog(s, 'E_CHECKPOINT_OLDER', cut(honest, 2));
  assert.equal(world.reports.at(-1)?.conflict, checkpointOf(world, cut(honest, 2)));

  // The same server, with another history: as long as what was seen, and then longer.
  const other = cut(honest, 2);
  other.publish(['{}'], rootOfWorld(world));
  await refusesLog(s, 'E_FORK', other);
  const receipt = world.reports.at(-1);
  assert.equal(receipt?.checkpoint, seen);
  assert.equal(receipt?.conflict, checkpointOf(world, other));
  other.publish([world.manifest ?? ''], rootOfWorld(world));
  await refusesLog(s, 'E_CONSISTENCY', other);
  assert.equal(world.reports.at(-1)?.conflict, checkpointOf(world, other));
  // It was told already; no proof at all is no other news.
  world.distort = (text) => JSON.stringify({ ...parseOffer(text), growth: [] });
  assert.equal((await host.once()).error?.code, 'E_CONSISTENCY');
  world.distort = (text) => text;
  assert.equal((await readMemory(host.state)).trust.checkpoint, seen);
  await takesIt(s, two);
});

test('the snapshot: the last entry, and what it says of this host', async () => {
  await using s = await lying();
  const { world } = s;
  const { log } = world;
  // Of the publication before: two states mixed.
  await refuses(s, 'E_SNAPSHOT_PROOF', () => ({
    snapshot: { text: String(log.leaves.at(-3)), proof: log.inclusion(log.size - 3) },
  }));
  await refuses(s, 'E_SNAPSHOT_ENTRY', ({ entry }) => ({
    entry: { ...entry, sequence: entry.sequence + 1 },
  }));
  await refuses(s, 'E_SNAPSHOT_PROOF', ({ snapshot }) => ({
    snapshot: { ...snapshot, proof: [] },
  }));
  await refuses(s, 'E_SNAPSHOT_ENTRY', ({ entry }) => ({ entry: { ...entry, index: 1 } }));
  // A log that ends in something else, and goes on from what the host has seen.
  log.leaves.push(Buffer.from('{}'));
  await refusesLog(s, 'E_SNAPSHOT_FORM', log);
  log.publish([], parsedRoot(String(log.leaves.at(-2))));
  await takesIt(s, two);
});

test('roots: one that is withheld, an older one, another of that version', async () => {
  await using s = await lying();
  const { world } = s;
  const { log } = world;
  const first = rootOfWorld(world);
  log.publish([], { ...first, version: 2 });
  await refusesLog(s, 'E_ROOT_WITHHELD', log);
  log.publish([], { ...first, sha256: '0'.repeat(64) });
  await refusesLog(s, 'E_ROOT_CONFLICT', log);
  world.rotate({});
  await refuses(s, 'E_ROOT_WITHHELD', () => ({ roots: [] }));
  const second = rootOfWorld(world);
  log.publish([], first);
  await refusesLog(s, 'E_ROOT_VERSION', log);
  log.publish([], second);
  world.publish(two);
  await takesIt(s, two);
});

test('the manifest: the newest one, and in the log', async () => {
  await using s = await setting(one);
  const { world } = s;
  const { log } = world;
  const first = world.manifest ?? '';
  world.publish(two);
  // The old one, with proof that it was logged.
  await refuses(s, 'E_MANIFEST_WITHHELD', () => ({ manifest: first, logged: log.logged(first) }));
  await refuses(s, 'E_NOT_LOGGED', () => ({ logged: log.logged(first) }));
  // Signed, and named by the snapshot, and never logged itself.
  await using other = await setting(null);
  other.world.publish(two);
  const hidden = cut(other.world.log, 2);
  hidden.publish([], rootOfWorld(other.world));
  other.world.distort = (text) =>
    JSON.stringify({ ...parseOffer(text), ...offerOf(other.world, hidden, 0) });
  assert.equal((await other.host.once()).error?.code, 'E_NOT_LOGGED');
});

test('a snapshot that calls the manifest by another number', async () => {
  await using s = await setting(one);
  const { world } = s;
  world.publish(two);
  const { log } = world;
  const entry = log.hosts.get(HOST);
  assert.ok(entry);
  log.hosts.set(HOST, { ...entry, sequence: entry.sequence + 1 });
  log.publish([], rootOfWorld(world));
  await refusesLog(s, 'E_SNAPSHOT_ENTRY', log);
});

test('lost trust is got again from the root; damaged trust is not lost trust', async () => {
  await using s = await lying();
  const file = join(s.host.state, 'trust.json');
  const trust = JSON.parse(await readFile(file, 'utf8'));
  await writeFile(file, JSON.stringify({ ...trust, checkpoint: null, time: null }));
  await takesIt(s, two);
});

test('the anchor holds at first contact too', async () => {
  await using s = await setting(null);
  const { world } = s;
  world.publish(one);
  const hash = Buffer.from(rootOf(world.log.leaves.slice(0, 3).map(hashLeaf))).toString('hex');
  world.rotate({ log: { ...world.root.log, anchor: { size: 3, sha256: '1'.repeat(64) } } });
  world.publish(two);
  const { error, outcome } = await s.host.once();
  assert.deepEqual([error?.code, outcome?.phase], ['E_CONSISTENCY', 'refused']);
  world.rotate({ log: { ...world.root.log, anchor: { size: 3, sha256: hash } } });
  world.publish(two);
  await takesIt(s, two);
});

test('a new log, as the newest root names it: the old one’s word is kept, and so is the floor', async () => {
  await using s = await setting(one);
  const { world, host } = s;
  const before = (await readMemory(host.state)).trust;
  const key = parseVerifierKey(world.root.log.vkey, NOTE_ED25519);
  const origin = 'world.test/log/2';
  world.log = new TestLog();
  const anchor = { size: 0, sha256: Buffer.from(rootOf([])).toString('hex') };
  world.rotate({ log: { origin, vkey: formatVerifierKey({ ...key, name: origin }), anchor } });
  // An older manifest is not let in by the new log.
  world.show({ ...world.manifestOf(two), sequence: 1 });
  assert.equal((await host.once()).error?.code, 'E_SEQUENCE_CONFLICT');
  world.publish(two, { sequence: 7 });
  await takesIt(s, two);
  const { trust } = await readMemory(host.state);
  assert.deepEqual(trust.earlier, [before.checkpoint]);
  assert.match(trust.checkpoint ?? '', /^world\.test\/log\/2\n/);
});

test('a clock that went back does not make old news new', async () => {
  await using s = await setting(one);
  const { world, host } = s;
  const then = world.now;
  world.now += 86_000;
  world.publish(two);
  await takesIt(s, two);
  const { time } = (await readMemory(host.state)).trust;
  assert.equal(time, world.now);
  // The machine believes that it is yesterday; the manifest of today is valid all the same.
  const { outcome } = await host.once({ clock: () => then - 100_000 });
  assert.equal(outcome?.phase, 'in-sync');
  assert.equal((await readMemory(host.state)).trust.time, time);
});

test('once the stored checkpoint is half as old as allowed, the server is asked unconditionally', async () => {
  await using s = await setting(one);
  const { world, host } = s;
  const { maxAge } = world.root;
  const conditional: boolean[] = [];
  world.misbehave = (path, _response, request) => {
    if (path.endsWith('/offer')) conditional.push(request.headers['if-none-match'] !== undefined);
    return false;
  };
  const from = world.now;
  for (const age of [0, 100, maxAge / 2, maxAge / 2 + 1]) {
    world.freshAt = from;
    world.now = from + age;
    await host.once();
  }
  assert.deepEqual(conditional, [true, true, true, false]);
  // A server that only ever says 304 keeps nobody switching for longer than that.
  world.misbehave = (path, response) => {
    if (!path.endsWith('/offer')) return false;
    response.writeHead(304).end();
    return true;
  };
  world.now = from + maxAge + 1;
  const { error, outcome } = await host.once();
  assert.deepEqual([error?.code, outcome?.phase], ['E_STALE', 'refused'], `${error}`);
  assert.equal((await systemsOf(host)).current, one.toplevel);
});

test('cosignatures by the log’s own key are no freshness', async () => {
  await using s = await lying();
  const { world } = s;
  const key = parseVerifierKey(world.root.log.vkey, NOTE_ED25519);
  const { text } = parseNote(checkpointOf(world));
  const asWitness = { ...key, type: NOTE_COSIGNATURE } as const;
  await refuses(s, 'E_FRESHNESS_MISSING', () => ({
    checkpoint: formatNote({
      text,
      signatures: [
        signNote(text, key, world.logKeys.log),
        cosignNote(text, world.now, asWitness, world.logKeys.log),
      ],
    }),
  }));
});
