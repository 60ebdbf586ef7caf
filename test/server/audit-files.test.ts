// The files of a bundle, from a state, are what an audit wants of it: also what a cloned machine left behind.
import assert from 'node:assert/strict';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { test } from 'node:test';
import { exportRecords } from '../../cli/host-export.ts';
import { auditLog } from '../../src/audit/audit.ts';
import { judgeFiles } from '../../src/audit/files.ts';
import { openBundleSource } from '../../src/audit/source.ts';
import type { BundleFile } from '../../src/bundle/tar.ts';
import { generateSecretKey } from '../../src/ed25519.ts';
import { publicKeyOfSecret } from '../../src/keyfile.ts';
import { appendEntries } from '../../src/manifest/append.ts';
import { type Receipt, signReceipt } from '../../src/manifest/receipt.ts';
import { signTokenRequest } from '../../src/manifest/token-request.ts';
import { auditFiles } from '../../src/server/audit-files.ts';
import { importRoot } from '../../src/server/import-root.ts';
import { logStoreOf, openLogWriter } from '../../src/server/log-writer.ts';
import type { StateDir } from '../../src/server/statedir.ts';
import { hashToken } from '../../src/server/tokens.ts';
import { pool } from '../helpers/audited.ts';
import { fleetOk } from '../helpers/cli.ts';
import { signNext } from '../helpers/rotation.ts';
import { makeState, publishHost } from '../helpers/state.ts';
import { temporaryDir } from '../helpers/temporary.ts';

const NOW = Math.floor(Date.now() / 1000);

async function audit(dir: StateDir) {
  const source = await openBundleSource(auditFiles(dir, { closures: false }));
  return await auditLog(source, dir.roots[0]?.envelope ?? '', pool);
}

/** A state whose host `lantern` has a key and a system. */
async function lantern(dir: StateDir) {
  const secret = await enrolLantern(dir);
  await publishHost(dir, 'lantern', 'one', NOW);
  return { secret, publicKey: publicKeyOfSecret(secret) };
}

/** Returns its secret key, which the log does not tell yet. */
async function enrolLantern(dir: StateDir): Promise<Uint8Array> {
  const secret = generateSecretKey();
  const secretHash = hashToken('invitation');
  await dir.state.invite({ secretHash, host: 'lantern', expiresAt: NOW + 9 });
  const publicKey = publicKeyOfSecret(secret);
  await dir.state.enrol({ secretHash, publicKey, tokenHash: hashToken('one'), now: NOW });
  return secret;
}

/** What the host of `lantern` says of the manifest that is its newest. */
async function report(
  dir: StateDir,
  secret: Uint8Array,
  changes: Partial<Receipt> = {},
): Promise<void> {
  const { epoch, sequence, digest, toplevel } =
    (await dir.state.currentManifest('lantern')) ?? assert.fail();
  const last = await dir.state.lastReport('lantern');
  const [counter, previous] = [(last?.counter ?? 0) + 1, last?.digest ?? null];
  const receipt: Receipt = {
    ...{ fleet: dir.root.fleet, host: 'lantern', counter, previous },
    ...{ manifest: { epoch, sequence, sha256: digest }, conflict: null },
    checkpoint: await logStoreOf(dir).checkpoint(),
    ...{ phase: 'in-sync', reason: null, booted: null, current: toplevel as never, profile: null },
    ...{ exitCode: 0, failedUnits: { added: [], removed: [] }, who: 'policy' },
    times: { started: NOW, finished: NOW },
    ...changes,
  };
  const signed = signReceipt(receipt, secret);
  const row = { host: 'lantern', counter, previous, receivedAt: NOW, ...signed };
  assert.equal(await dir.state.addReport(row), 'stored');
}

test('receipts of a key that the log does not tell yet are left for the next time', async (t) => {
  const top = await temporaryDir(t);
  await using dir = await makeState(top, NOW);
  await publishHost(dir, 'lantern', 'one', NOW);
  const secret = await enrolLantern(dir);
  await report(dir, secret);
  const counts = async () => {
    const { hosts, irregularities } = await audit(dir);
    return [hosts.map(({ receipts }) => receipts), irregularities.map(({ code }) => code)];
  };
  assert.deepEqual(await counts(), [[0], []]);
  await exportRecords(dir, 'lantern', top);
  assert.ok(!(await readdir(top)).includes('lantern.receipts.jsonl'));
  const { fence } = await dir.state.recordLease(process.pid, NOW);
  await appendEntries(await openLogWriter(dir), [], { fence, now: NOW });
  assert.deepEqual(await counts(), [[1], []]);
  await exportRecords(dir, 'lantern', top);
  const names = (await readdir(top)).filter((name) => name.startsWith('lantern')).sort();
  const enrolment = 'lantern-4.enrolment.json';
  const key = 'lantern-4.host-key.pem';
  const records = [enrolment, `${enrolment}.tlog-proof`, key, 'lantern.receipts.jsonl'];
  assert.deepEqual(names, records);
  // What an auditor makes of them.
  const { root, envelope } = dir.roots[0] ?? assert.fail();
  const files = records.map(async (name) => ({
    file: name,
    bytes: await readFile(join(top, name)),
  }));
  const { verdicts } = judgeFiles(await Promise.all(files), { root, envelope }, NOW, undefined);
  const says = verdicts.map((one) => ('says' in one ? one.says : null));
  assert.deepEqual(
    says.map((one) => one?.kind),
    ['enrolment', 'proof', 'host-key', 'receipt'],
  );
  assert.equal(says[0]?.kind === 'enrolment' && says[0].log?.index, 4);
});

test('what root at a machine did is in its status, and stays in what host show tells', async (t) => {
  const top = await temporaryDir(t);
  await using dir = await makeState(top, NOW);
  const { secret } = await lantern(dir);
  const at = ['lantern', '--state', join(top, 'state'), '--json'];
  const shown = async () => JSON.parse(await fleetOk(['host', 'show', ...at]));
  await report(dir, secret);
  assert.deepEqual([(await shown()).exceptions, (await shown()).allExceptions], [[], []]);
  await report(dir, secret, { exceptions: ['trust-reset'] });
  const told = [{ exception: 'trust-reset', counter: 2, at: NOW }];
  assert.deepEqual((await shown()).exceptions, ['trust-reset']);
  const status = await fleetOk(['status', '--state', join(top, 'state')]);
  assert.match(status, /^lantern .*root there: trust-reset$/m);
  await report(dir, secret);
  assert.deepEqual([(await shown()).exceptions, (await shown()).allExceptions], [[], told]);
  const text = await fleetOk(['host', 'show', 'lantern', '--state', join(top, 'state')]);
  assert.match(text, /^root there +trust-reset \(receipt 2, 20\S+\)$/m);
});

test('what is published and reported while a bundle is written is left for the next one', async (t) => {
  await using dir = await makeState(await temporaryDir(t), NOW);
  const { secret } = await lantern(dir);
  await report(dir, secret);
  const files = auditFiles(dir, { closures: false });
  const read: BundleFile[] = [];
  for await (const file of files) {
    read.push(file);
    if (file.name !== 'log/checkpoint') continue;
    await publishHost(dir, 'lantern', 'two', NOW);
    await report(dir, secret);
  }
  const source = await openBundleSource(Readable.from(read));
  const { hosts, irregularities } = await auditLog(source, dir.roots[0]?.envelope ?? '', pool);
  assert.deepEqual([hosts.map(({ receipts }) => receipts), irregularities], [[1], []]);
  assert.deepEqual((await audit(dir)).irregularities, []);
});

test('a request for a second successor of a token is in a bundle, and told', async (t) => {
  await using dir = await makeState(await temporaryDir(t), NOW);
  const { secret, publicKey } = await lantern(dir);
  const ask = (next: string) => {
    const [replaces, tokenHash] = [hashToken('one'), hashToken(next)];
    const request = { fleet: dir.root.fleet, host: 'lantern', replaces, token: tokenHash };
    const envelope = signTokenRequest(request, secret);
    const digest = hashToken(envelope);
    const times = { now: NOW, expiresAt: NOW + 99 };
    const change = { host: 'lantern', publicKey, replaces, tokenHash, digest, envelope, ...times };
    return dir.state.renewToken(change);
  };
  await ask('two');
  const codes = async () => (await audit(dir)).irregularities.map(({ code, host }) => [code, host]);
  assert.deepEqual(await codes(), []);
  await ask('three');
  assert.deepEqual(await codes(), [['E_TOKEN_SUCCESSOR', 'lantern']]);
});

test('after a new log, as after a restored backup: what hosts said before it is not irregular', async (t) => {
  await using dir = await makeState(await temporaryDir(t), NOW);
  const { secret } = await lantern(dir);
  await report(dir, secret);
  assert.deepEqual((await audit(dir)).irregularities, []);
  await importRoot(dir, await signNext(dir, NOW, { newLog: true }), NOW);
  const { irregularities, hosts } = await audit(dir);
  assert.deepEqual(irregularities, []);
  assert.deepEqual(
    hosts.map(({ receipts, earlier }) => [receipts, earlier]),
    [[1, 1]],
  );
});
