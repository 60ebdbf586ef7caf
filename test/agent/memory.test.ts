import assert from 'node:assert/strict';
import { readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import {
  EMPTY_JOURNAL,
  journalStep,
  readJournal,
  type Transaction,
  writeJournal,
} from '../../src/agent/journal.ts';
import {
  FETCH_DEFAULTS,
  type Memory,
  memoryFiles,
  readMemory,
  readOffer,
  writeConfig,
  writeOffer,
  writeTrust,
} from '../../src/agent/memory.ts';
import type { Outcome } from '../../src/agent/outcome.ts';
import { type Chain, EMPTY_CHAIN, readChain, tell, writeChain } from '../../src/agent/receipts.ts';
import { generateSecretKey } from '../../src/ed25519.ts';
import { formatSecretKey, publicKeyOfSecret } from '../../src/keyfile.ts';
import { DEFAULT_ACTIVATION } from '../../src/manifest/activation.ts';
import { parseEnvelope } from '../../src/manifest/dsse.ts';
import { verifyReceipt } from '../../src/manifest/receipt.ts';
import { parseStorePath } from '../../src/nix/storepath.ts';
import { temporaryDirectory } from '../helpers/temporary.ts';

const TARGET = parseStorePath(`/nix/store/${'a'.repeat(32)}-system`);

const TRANSACTION: Transaction = {
  id: '0a1b',
  step: 'activating',
  manifest: { epoch: 1, sequence: 2, sha256: 'a'.repeat(64) },
  target: TARGET,
  rules: DEFAULT_ACTIVATION,
  needsServer: true,
  previous: null,
  previousProfile: TARGET,
  bootId: 'boot',
  again: false,
  touched: { system: true, boot: false },
  failedBefore: ['old.service'],
  failedUnits: { added: [], removed: ['old.service'] },
  foretold: 'would start new.service',
  rebootFor: null,
  exitCode: 4,
  handedOver: false,
  done: null,
  why: null,
};

/** As much of a checkpoint as is looked at before the root is. */
const NOTE = `fleet.test/log/1\n0\n${'A'.repeat(43)}=\n\n— fleet.test/log/1 AAAAAAA=\n`;

async function enrolled(dir: string): Promise<Memory> {
  const files = memoryFiles(dir);
  await writeFile(files.hostKey, formatSecretKey(generateSecretKey()));
  await writeFile(files.token, 'fleet_token\n');
  await writeTrust(dir, {
    root: '{}',
    floor: null,
    decommissioned: false,
    checkpoint: null,
    earlier: [],
    time: null,
  });
  await writeJournal(dir, EMPTY_JOURNAL);
  await writeChain(dir, EMPTY_CHAIN);
  await writeConfig(dir, {
    server: 'https://fleet.test',
    fleet: 'fleet.test',
    host: 'alpha',
    system: 'x86_64-linux',
    root: null,
    repair: false,
    leastBytesPerSecond: 200,
    patienceSeconds: 60,
    switchSeconds: 1800,
    upstreams: [],
    clock: 'auto',
    pollSeconds: 900,
    privacy: false,
    localGroup: null,
    ...FETCH_DEFAULTS,
  });
  return await readMemory(dir);
}

test('what is written is read back', async () => {
  await using dir = await temporaryDirectory();
  const memory = await enrolled(dir.path);
  assert.equal(memory.token, 'fleet_token');
  assert.equal(memory.config.host, 'alpha');
  const trust = {
    root: '{"x":1}',
    floor: { epoch: 1, sequence: 2, digest: 'b'.repeat(64) },
    decommissioned: true,
    checkpoint: NOTE,
    earlier: ['an older one'],
    time: 1_800_000_000,
  };
  await writeTrust(dir.path, trust);
  const rejected = {
    manifest: TRANSACTION.manifest,
    phase: 'rolled-back',
    reason: { code: 'E_SWITCH_FAILED', text: 'no' },
  } as const;
  const lost = {
    sha256: 'd'.repeat(64),
    count: 2,
    at: 1_800_000_000,
    reason: { code: 'E_SERVER_LOST', text: 'silence' },
  };
  const ours = [TARGET];
  const ready = { sha256: 'e'.repeat(64), at: 7 };
  const good = { toplevel: TRANSACTION.target, manifest: TRANSACTION.manifest };
  const least = { epoch: 1, sequence: 3 };
  const lastGood = { ...good, manifest: null };
  const rest = { rejected, lost, ours, ready, running: good, lastGood, least };
  await writeJournal(dir.path, { transaction: null, ...rest });
  const reason = { code: 'units-failed', text: 'one of them' };
  const done = { phase: 'in-sync-degraded', reason, exitCode: 4 } as const;
  for (const transaction of [
    TRANSACTION,
    { ...TRANSACTION, step: 'verifying' } as const,
    { ...TRANSACTION, step: 'committing', done } as const,
  ]) {
    await journalStep(dir.path, transaction);
    assert.deepEqual(await readJournal(dir.path), { transaction, ...rest });
  }
  assert.deepEqual((await readMemory(dir.path)).trust, trust);
  await journalStep(dir.path, null);
  assert.deepEqual(await readJournal(dir.path), { transaction: null, ...rest });
});

test('not enrolled, incomplete and damaged are three things', async () => {
  await using dir = await temporaryDirectory();
  await assert.rejects(readMemory(dir.path), { code: 'E_AGENT_NOT_ENROLLED' });
  await assert.rejects(readMemory(join(dir.path, 'none')), { code: 'E_AGENT_NOT_ENROLLED' });
  const { rm } = await import('node:fs/promises');
  for (const name of ['trust.json', 'token', 'host-key.pem']) {
    await enrolled(dir.path);
    await rm(join(dir.path, name));
    const missing = { code: 'E_AGENT_STATE_CORRUPT', message: new RegExp(`${name}.*missing`) };
    await assert.rejects(readMemory(dir.path), missing);
  }
  await enrolled(dir.path);
  for (const [name, read] of [
    ['receipts.json', readChain],
    ['journal.json', readJournal],
  ] as const) {
    await rm(join(dir.path, name));
    const missing = { code: 'E_AGENT_STATE_CORRUPT', message: new RegExp(`${name}.*missing`) };
    await assert.rejects(read(dir.path), missing);
  }
});

test('a server that is no URL, or hides a password, is refused', async () => {
  await using dir = await temporaryDirectory();
  const { config } = await enrolled(dir.path);
  for (const server of ['fleet', 'ftp://x', 'https://u:p@x', 'https://x/?q', '']) {
    await writeConfig(dir.path, { ...config, server });
    await assert.rejects(readMemory(dir.path), { code: 'E_AGENT_STATE_CORRUPT' }, server);
  }
});

test('a damaged offer is no offer', async () => {
  await using dir = await temporaryDirectory();
  assert.equal(await readOffer(dir.path), null);
  const offer = { etag: '"x"', root: 3, text: '{}' };
  await writeOffer(dir.path, offer);
  assert.deepEqual(await readOffer(dir.path), offer);
  await writeFile(memoryFiles(dir.path).offer, '{"version":1');
  assert.equal(await readOffer(dir.path), null);
  await writeOffer(dir.path, null);
  assert.equal(await readOffer(dir.path), null);
});

const OUTCOME: Outcome = {
  phase: 'in-sync',
  reason: null,
  manifest: TRANSACTION.manifest,
  systems: { booted: null, current: TARGET, profile: TARGET },
  exitCode: 0,
};

const CONTEXT = { bootId: 'boot', started: 1_800_000_000, finished: 1_800_000_010, conflict: null };

test('receipts are signed, chained, durable, and tell news only', async () => {
  await using dir = await temporaryDirectory();
  const memory = await enrolled(dir.path);
  const one = await tell(memory, EMPTY_CHAIN, OUTCOME, CONTEXT);
  assert.equal(await tell(memory, one, OUTCOME, { ...CONTEXT, finished: 1_800_000_099 }), one);
  const reason = { code: 'E_SWITCH_FAILED', text: 'first' };
  const two = await tell(memory, one, { ...OUTCOME, phase: 'failed', reason }, CONTEXT);
  // Another text for the same thing is no news.
  const same = { ...OUTCOME, phase: 'failed', reason: { ...reason, text: 'second' } } as const;
  assert.equal(await tell(memory, two, same, CONTEXT), two);
  assert.deepEqual(await readChain(dir.path), two);
  assert.equal(two.queue.length, 2);
  const publicKey = publicKeyOfSecret(memory.hostKey);
  const expect = { publicKey, fleet: 'fleet.test', host: 'alpha' };
  const [a, b] = two.queue.map((text) => verifyReceipt(parseEnvelope(text), expect));
  assert.deepEqual([a?.receipt.counter, a?.receipt.previous], [1, null]);
  assert.deepEqual([b?.receipt.counter, b?.receipt.previous], [2, a?.digest]);
  assert.equal((await stat(memoryFiles(dir.path).receipts)).mode & 0o777, 0o600);
});

test('a queue that is full takes nothing, so that the chain has no gap', async () => {
  await using dir = await temporaryDirectory();
  const memory = await enrolled(dir.path);
  const full: Chain = {
    ...EMPTY_CHAIN,
    counter: 256,
    head: 'c'.repeat(64),
    queue: Array(256).fill('{}'),
  };
  assert.equal(await tell(memory, full, OUTCOME, CONTEXT), full);
  const room = { ...full, queue: full.queue.slice(1) };
  const next = await tell(memory, room, OUTCOME, CONTEXT);
  assert.deepEqual([next.counter, next.queue.length], [257, 256]);
});

test('agent.json of an older fleet, without upstreams, is read', async () => {
  await using dir = await temporaryDirectory();
  await enrolled(dir.path);
  const file = memoryFiles(dir.path).config;
  const { upstreams: _, ...older } = JSON.parse(await readFile(file, 'utf8'));
  await writeFile(file, JSON.stringify(older));
  assert.deepEqual((await readMemory(dir.path)).config.upstreams, ['https://cache.nixos.org']);
});

test('a journal of an older fleet, without what failed before and what was lost, is read', async () => {
  await using dir = await temporaryDirectory();
  const { failedBefore: _, failedUnits: __, ...older } = TRANSACTION;
  const journal = { version: 1, transaction: older, rejected: null };
  await writeFile(memoryFiles(dir.path).journal, JSON.stringify(journal));
  const { transaction, lost, ready } = await readJournal(dir.path);
  assert.deepEqual(transaction?.failedBefore, []);
  assert.deepEqual(transaction.failedUnits, { added: [], removed: [] });
  assert.deepEqual([lost, ready], [null, null]);
});
