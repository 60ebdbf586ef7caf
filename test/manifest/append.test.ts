// Appending to the log: every checkpoint that ever was is a beginning of the next, each ends in a snapshot,
// and a publisher that dies anywhere leaves nothing that keeps the next one from going on.
import assert from 'node:assert/strict';
import { readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import fc from 'fast-check';
import {
  appendEntries,
  finishLog,
  type LogWriter,
  renewCheckpoint,
} from '../../src/manifest/append.ts';
import { parseEnvelope, requireSignatures } from '../../src/manifest/dsse.ts';
import { parseEnrolment } from '../../src/manifest/enrolment.ts';
import { requireFresh, verifyCheckpoint } from '../../src/manifest/log-view.ts';
import { hashEntry, isSnapshotLeaf, parseSnapshot } from '../../src/manifest/snapshot.ts';
import { openFileLog } from '../../src/storage/file-log.ts';
import type { LogStore } from '../../src/storage/log.ts';
import { createState, openState } from '../../src/storage/sqlite.ts';
import type { PublishedManifest, State } from '../../src/storage/state.ts';
import { parseCheckpoint } from '../../src/tlog/checkpoint.ts';
import { hashLeaf, rootOf, verifyConsistency, verifyInclusion } from '../../src/tlog/merkle.ts';
import { parseNote } from '../../src/tlog/note.ts';
import { proveConsistency, proveInclusion } from '../../src/tlog/prove.ts';
import { parseBundle, TILE_WIDTH, widthOfTile } from '../../src/tlog/tile.ts';
import { NOTE_COSIGNATURE, NOTE_ED25519, parseVerifierKey } from '../../src/tlog/vkey.ts';
import { refused } from '../helpers/nix-scratch.ts';
import { cachedPath, hex, manifest } from '../helpers/rows.ts';
import { temporaryDirectory } from '../helpers/temporary.ts';
import { makeRoot, NOW, publicKey, refuses, SECRETS, signRoot } from '../helpers/trust.ts';

const ROOT = makeRoot();

type Setting = AsyncDisposable & { dir: string; state: State; writer: LogWriter; fence: number };

async function setting(): Promise<Setting> {
  const dir = await temporaryDirectory();
  const file = join(dir.path, 'fleet.db');
  await createState(file);
  const state = await openState(file, { writer: 'inline' });
  const { fence } = await state.recordLease(process.pid, NOW);
  const freshness = ROOT.freshness.keys[0] ?? '';
  const writer: LogWriter = {
    state,
    store: openFileLog(join(dir.path, 'log')),
    root: ROOT,
    roots: [signRoot(ROOT)],
    log: { key: parseVerifierKey(ROOT.log.vkey, NOTE_ED25519), secret: SECRETS.log },
    freshness: { key: parseVerifierKey(freshness, NOTE_COSIGNATURE), secret: SECRETS.freshness },
    director: SECRETS.director,
  };
  return {
    ...{ dir: dir.path, state, writer, fence },
    async [Symbol.asyncDispose]() {
      await state[Symbol.asyncDispose]();
      await dir[Symbol.asyncDispose]();
    },
  };
}

async function publish(s: Setting, writer: LogWriter, manifests: readonly PublishedManifest[]) {
  const rows = manifests.map(({ host, epoch, sequence }) =>
    cachedPath(`${host} ${epoch} ${sequence}`),
  );
  await s.state.addCachedPaths(rows, NOW);
  const entries = manifests.map((one) => ({ manifest: one }));
  return await appendEntries(writer, entries, { fence: s.fence, now: NOW });
}

/** All entries, as anybody reads them from the files; each tile and the checkpoint are checked. */
async function readLog({ store }: LogWriter): Promise<{ leaves: Uint8Array[]; text: string }> {
  const text = (await store.checkpoint()) ?? '';
  const { checkpoint, freshAt } = verifyCheckpoint(text, ROOT);
  assert.equal(freshAt, NOW);
  const leaves: Uint8Array[] = [];
  for (let index = 0; index * TILE_WIDTH < checkpoint.size; index++) {
    const width = widthOfTile('entries', index, checkpoint.size);
    const bytes = await store.tile({ level: 'entries', index, width });
    assert.ok(bytes);
    leaves.push(...parseBundle(bytes, width));
  }
  const hashes = leaves.map(hashLeaf);
  assert.deepEqual(Buffer.from(rootOf(hashes)), Buffer.from(checkpoint.root));
  for (const index of new Set([0, Math.floor(leaves.length / 2), leaves.length - 1])) {
    const proof = await proveInclusion(store.tile, index, leaves.length);
    const leafHash = hashes[index] ?? Buffer.of();
    assert.ok(verifyInclusion({ ...checkpoint, index, leafHash, proof }));
  }
  return { leaves, text };
}

/** What must hold of any log at rest. */
function checkLeaves(leaves: readonly Uint8Array[]): void {
  const newest = new Map<string, ReturnType<typeof entryOf>>();
  let snapshots = 0;
  for (const [i, leaf] of leaves.entries()) {
    const text = Buffer.from(leaf).toString();
    if (isSnapshotLeaf(leaf)) {
      snapshots += 1;
      const entries = [...newest.values()].sort((a, b) => (a.host < b.host ? -1 : 1));
      const snapshot = parseSnapshot(text);
      assert.equal(snapshot.sequence, snapshots);
      assert.equal(snapshot.hosts, entries.length);
      const root = rootOf(entries.map(hashEntry));
      assert.deepEqual(Buffer.from(snapshot.root), Buffer.from(root), `snapshot ${snapshots}`);
    } else if (text.startsWith('envelope of ')) {
      const [host = '', epoch, sequence] = text.slice('envelope of '.length).split(' ');
      const entry = entryOf(manifest(host, Number(epoch), Number(sequence)));
      const last = newest.get(host);
      assert.ok(last === undefined || last.sequence < entry.sequence, `${host} grows`);
      newest.set(host, entry);
    } else {
      assert.equal(i, 0, 'only the root is left');
    }
  }
  assert.ok(isSnapshotLeaf(leaves.at(-1) ?? Buffer.of()));
}

function entryOf({ host, epoch, sequence, digest }: PublishedManifest) {
  return { host, epoch, sequence, sha256: digest };
}

test('a new log begins with the root and a snapshot of no hosts', async () => {
  await using s = await setting();
  assert.equal(await finishLog(s.writer, NOW), null);
  assert.equal(await renewCheckpoint(s.writer, NOW), null);
  await publish(s, s.writer, []);
  const { leaves } = await readLog(s.writer);
  assert.equal(leaves.length, 2);
  assert.equal(Buffer.from(leaves[0] ?? '').toString(), s.writer.roots[0]);
  assert.equal(parseSnapshot(Buffer.from(leaves[1] ?? '').toString()).hosts, 0);
});

test('any history of publications: each checkpoint is a beginning of the next', async () => {
  const batches = fc.array(fc.integer({ min: 0, max: 300 }), { minLength: 1, maxLength: 6 });
  await fc.assert(
    fc.asyncProperty(batches, async (sizes) => {
      await using s = await setting();
      const sequences = new Map<string, number>();
      let before: string | null = null;
      for (const [round, size] of sizes.entries()) {
        const manifests = Array.from({ length: size }, (_, i) => {
          const host = `h${(i * 7 + round) % 311}`;
          const sequence = (sequences.get(host) ?? 0) + 1;
          sequences.set(host, sequence);
          return manifest(host, 1, sequence);
        });
        const text = await publish(s, s.writer, manifests);
        const { leaves, text: stored } = await readLog(s.writer);
        assert.equal(stored, text);
        checkLeaves(leaves);
        if (before !== null) await assertGrows(s.writer.store, before, text);
        before = text;
      }
      const listed = await s.state.hostEntries(1, Number.MAX_SAFE_INTEGER);
      assert.equal(listed.length, sequences.size);
    }),
    { numRuns: 12 },
  );
});

async function assertGrows(store: LogStore, before: string, after: string): Promise<void> {
  const [older, newer] = [before, after].map((text) => parseCheckpoint(parseNote(text).text));
  assert.ok(older && newer && newer.size > older.size);
  const proof = await proveConsistency(store.tile, older.size, newer.size);
  assert.ok(verifyConsistency({ older, newer, proof }));
}

test('renewing changes the time and nothing else', async () => {
  await using s = await setting();
  const text = await publish(s, s.writer, [manifest('a', 1, 1)]);
  assert.equal(await renewCheckpoint(s.writer, NOW), text);
  const renewed = (await renewCheckpoint(s.writer, NOW + 100)) ?? '';
  assert.equal(await s.writer.store.checkpoint(), renewed);
  assert.equal(parseNote(renewed).text, parseNote(text).text);
  const verified = verifyCheckpoint(renewed, ROOT);
  assert.equal(requireFresh(verified, ROOT, NOW + 100), NOW + 100);
  assert.equal(requireFresh(verified, ROOT, NOW + 100 + ROOT.maxAge), NOW + 100);
  refuses('E_STALE', () => requireFresh(verified, ROOT, NOW + 101 + ROOT.maxAge));
});

/** A writer that dies at its nth step: before the step, or after it was done. */
function dying(writer: LogWriter, at: number): { writer: LogWriter; steps: () => number } {
  let steps = 0;
  const wrap = <T extends object>(target: T): T =>
    new Proxy(target, {
      get(object, name) {
        const value = Reflect.get(object, name) as unknown;
        if (typeof value !== 'function') return value;
        return async (...args: unknown[]) => {
          steps += 1;
          if (steps === at) throw new Error('died');
          const result = await Reflect.apply(value, object, args);
          steps += 1;
          if (steps === at) throw new Error('died');
          return result;
        };
      },
    });
  const wrapped = { ...writer, state: wrap(writer.state), store: wrap(writer.store) };
  return { writer: wrapped, steps: () => steps };
}

test('a publisher that dies at any step: the next one goes on, and history stays', async () => {
  for (let at = 1, died = true; died; at++) {
    await using s = await setting();
    // Across the border of a tile, so that full ones are written too.
    const many = Array.from({ length: 253 }, (_, i) => manifest(`m${i}`, 1, 1));
    const before = await publish(s, s.writer, many);
    const next = [manifest('a', 1, 1), manifest('b', 1, 1), manifest('m7', 1, 2)];
    const { writer, steps } = dying(s.writer, at);
    died = await publish(s, writer, next).then(
      () => false,
      (error: Error) => {
        assert.equal(error.message, 'died');
        return true;
      },
    );
    if (!died) assert.ok(at > 20 && steps() < at, `${steps()} steps`);
    const left = await readLog(s.writer);
    checkLeaves(left.leaves);
    if (left.text !== before) await assertGrows(s.writer.store, before, left.text);
    // What was committed comes out; what was not is gone, and may be published anew.
    const isThere = (await s.state.currentManifest('m7'))?.sequence === 2;
    const finished = (await finishLog(s.writer, NOW)) ?? '';
    const after = await readLog(s.writer);
    assert.equal(after.text, finished);
    checkLeaves(after.leaves);
    assert.equal(after.leaves.length, isThere ? 259 : 255);
    const again = isThere ? [manifest('a', 1, 2)] : next;
    const text = await publish(s, s.writer, again);
    checkLeaves((await readLog(s.writer)).leaves);
    await assertGrows(s.writer.store, finished, text);
  }
});

test('what is staged is seen by nobody', async () => {
  await using s = await setting();
  await publish(s, s.writer, [manifest('a', 1, 1)]);
  await s.state.stageEntries(1, [{ index: 9, manifest: manifest('a', 1, 2) }], s.fence);
  await s.state.stageEntries(1, [{ index: 10, manifest: manifest('z', 1, 1) }], s.fence);
  assert.equal((await s.state.currentManifest('a'))?.sequence, 1);
  assert.equal(await s.state.currentManifest('z'), null);
  assert.deepEqual((await s.state.currentManifests()).length, 1);
  assert.deepEqual((await s.state.manifestHistory('a')).length, 1);
  assert.deepEqual((await s.state.hostEntries(1, 4)).length, 1);
  assert.equal(await s.state.closureSize(manifest('z', 1, 1).closure), null);
  await s.state.dropStaged(1, s.fence);
  await publish(s, s.writer, [manifest('a', 1, 2), manifest('z', 1, 1)]);
  assert.equal((await s.state.currentManifest('a'))?.sequence, 2);
});

test('files that are not what was signed stop the log, and are left as they are', async () => {
  await using s = await setting();
  await publish(s, s.writer, [manifest('a', 1, 1)]);
  const log = join(s.dir, 'log');
  const next = () => publish(s, s.writer, [manifest('b', 1, 1)]);
  const tile = join(log, 'tile/0/000.p/3');
  const bytes = await readFile(tile);
  await writeFile(tile, bytes.subarray(1));
  await assert.rejects(next(), refused('E_LOG_DAMAGED', /lost/));
  await rm(tile);
  await assert.rejects(next(), refused('E_LOG_DAMAGED', /lost/));
  const flipped = Buffer.from(bytes);
  flipped[40] = (flipped[40] ?? 0) ^ 1;
  await writeFile(tile, flipped);
  await assert.rejects(next(), refused('E_LOG_DAMAGED', /tiles/));
  await writeFile(tile, bytes);

  const checkpoint = join(log, 'checkpoint');
  const text = await readFile(checkpoint, 'utf8');
  for (const [from, to] of [
    ['\n3\n', '\n4\n'],
    ['log/1\n', 'log/2\n'],
    [text, ''],
    [text, '\0'],
  ] as const) {
    await writeFile(checkpoint, text.replace(from, to));
    await assert.rejects(next(), refused('E_LOG_DAMAGED', /checkpoint/));
    assert.equal(await readFile(checkpoint, 'utf8'), text.replace(from, to));
  }
  await writeFile(checkpoint, text);
  await next();
  const later = await readFile(checkpoint, 'utf8');
  // A database from a backup, with the files of today.
  await using old = await setting();
  await publish(old, old.writer, [manifest('a', 1, 1)]);
  await rm(join(old.dir, 'log'), { recursive: true });
  const mixed = { ...old.writer, store: s.writer.store };
  await assert.rejects(
    appendEntries(mixed, [], { fence: old.fence, now: NOW }),
    refused('E_LOG_DAMAGED', /database/),
  );
  await using empty = await setting();
  await assert.rejects(
    appendEntries({ ...empty.writer, store: s.writer.store }, [], { fence: empty.fence, now: NOW }),
    refused('E_LOG_DAMAGED', /knows nothing/),
  );
  assert.equal(await readFile(checkpoint, 'utf8'), later);
});

test('a lost checkpoint is not made up, but for the first one of a log', async () => {
  await using s = await setting();
  const text = await publish(s, s.writer, [manifest('a', 1, 1)]);
  await rm(join(s.dir, 'log', 'checkpoint'));
  assert.equal(await finishLog(s.writer, NOW), text);
  await readLog(s.writer);
  await publish(s, s.writer, []);
  await rm(join(s.dir, 'log', 'checkpoint'));
  await assert.rejects(finishLog(s.writer, NOW), refused('E_LOG_DAMAGED', /missing/));
  await assert.rejects(publish(s, s.writer, []), refused('E_LOG_DAMAGED', /missing/));
});

test('who knows fewer roots than the log has appends and signs nothing', async () => {
  await using s = await setting();
  const text = await publish(s, s.writer, []);
  const root = { ...ROOT, version: 2 };
  const later = { ...s.writer, root, roots: [...s.writer.roots, signRoot(root)] };
  const newest = await publish(s, later, []);
  assert.notEqual(newest, text);
  const stale = refused('E_LOG_DAMAGED', /2 roots, and this process knows 1/);
  await assert.rejects(publish(s, s.writer, [manifest('a', 1, 1)]), stale);
  await assert.rejects(renewCheckpoint(s.writer, NOW + 100), stale);
  assert.equal(await s.writer.store.checkpoint(), newest);
});

test('who lost the lease appends nothing', async () => {
  await using s = await setting();
  await publish(s, s.writer, []);
  await s.state.recordLease(process.pid, NOW);
  await assert.rejects(
    publish(s, s.writer, [manifest('a', 1, 1)]),
    refused('E_LEASE_LOST', /lost/),
  );
  assert.equal(await s.state.currentManifest('a'), null);
});

test('a system that the cache lacks is not published', async () => {
  await using s = await setting();
  const before = await publish(s, s.writer, []);
  const entries = [{ manifest: manifest('a', 1, 1) }];
  await assert.rejects(
    appendEntries(s.writer, entries, { fence: s.fence, now: NOW }),
    refused('E_CACHE_INCOMPLETE', /for a/),
  );
  assert.equal(await s.state.currentManifest('a'), null);
  assert.equal(await s.writer.store.checkpoint(), before);
  await publish(s, s.writer, [manifest('a', 1, 1)]);
});

test('two publishers that do not share a lock: the second finds out', async () => {
  await using s = await setting();
  await publish(s, s.writer, []);
  const store = openFileLog(join(s.dir, 'log'));
  await assert.rejects(
    store.putCheckpoint('x', 'other'),
    refused('E_LOG_DAMAGED', /somebody else/),
  );
  const names = await readdir(join(s.dir, 'log'));
  assert.deepEqual(names.sort(), ['checkpoint', 'tile']);
});

test('the keys of hosts are told by the next entries, each once, and again in another log', async () => {
  await using s = await setting();
  const enrol = async (host: string, key: number) => {
    const secretHash = hex(`${host} ${key}`);
    await s.state.invite({ secretHash, host, expiresAt: NOW + 10 });
    const tokenHash = hex(`token of ${host} ${key}`);
    const request = { secretHash, publicKey: publicKey(key), tokenHash, now: NOW };
    assert.equal(await s.state.enrol(request), 'enrolled');
  };
  const told = async (writer: LogWriter, log: number) => {
    const entries = await s.state.logEntries(log, 0, 1000);
    const size = (await s.state.logHead(log))?.size ?? 0;
    return entries
      .filter(({ index }) => index < size)
      .map(({ data }) => Buffer.from(data).toString())
      .filter((text) => text.includes('payloadType'))
      .map((text) => parseEnvelope(text))
      .filter(({ payload }) => Buffer.from(payload).includes('urn:fleet:enrolment:v1'))
      .map((envelope) => {
        requireSignatures(envelope, writer.root.roles.director.keys, 1, 'director');
        const { host, publicKey: key, replaces } = parseEnrolment(envelope.payload);
        return [host, key, replaces];
      });
  };
  await publish(s, s.writer, []);
  await enrol('beta', 31);
  await enrol('alpha', 32);
  assert.equal((await s.state.unloggedKeys(1)).length, 2);
  await publish(s, s.writer, [manifest('gamma', 1, 1)]);
  const both = [
    ['alpha', publicKey(32), null],
    ['beta', publicKey(31), null],
  ];
  assert.deepEqual(await told(s.writer, 1), both);
  await publish(s, s.writer, []);
  assert.deepEqual(await told(s.writer, 1), both);
  await enrol('beta', 33);
  await publish(s, s.writer, []);
  const after = [...both, ['beta', publicKey(33), publicKey(31)]];
  assert.deepEqual(await told(s.writer, 1), after);
  await readLog(s.writer);
  assert.deepEqual(await s.state.unloggedKeys(1), []);
  assert.deepEqual(
    (await s.state.unloggedKeys(2)).map(({ host, replaces }) => [host, replaces]),
    [
      ['alpha', null],
      ['beta', null],
    ],
  );
});
