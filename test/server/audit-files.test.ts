// The files of a bundle, from a state, are what an audit wants of it: also what a cloned machine left behind.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { auditLog } from '../../src/audit/audit.ts';
import { openBundleSource } from '../../src/audit/source.ts';
import { generateSecretKey } from '../../src/ed25519.ts';
import { publicKeyOfSecret } from '../../src/keyfile.ts';
import { type Receipt, signReceipt } from '../../src/manifest/receipt.ts';
import { signTokenRequest } from '../../src/manifest/token-request.ts';
import { auditFiles } from '../../src/server/audit-files.ts';
import { importRoot } from '../../src/server/import-root.ts';
import { logStoreOf } from '../../src/server/log-writer.ts';
import type { StateDir } from '../../src/server/statedir.ts';
import { hashToken } from '../../src/server/tokens.ts';
import { pool } from '../helpers/audited.ts';
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
  const secret = generateSecretKey();
  const publicKey = publicKeyOfSecret(secret);
  const secretHash = hashToken('invitation');
  await dir.state.invite({ secretHash, host: 'lantern', expiresAt: NOW + 9 });
  await dir.state.enrol({ secretHash, publicKey, tokenHash: hashToken('one'), now: NOW });
  await publishHost(dir, 'lantern', 'one', NOW);
  return { secret, publicKey };
}

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
  const { epoch, sequence, digest, toplevel } =
    (await dir.state.currentManifest('lantern')) ?? assert.fail();
  const checkpoint = await logStoreOf(dir).checkpoint();
  const receipt: Receipt = {
    ...{ fleet: dir.root.fleet, host: 'lantern', counter: 1, previous: null },
    ...{ manifest: { epoch, sequence, sha256: digest }, checkpoint, conflict: null },
    ...{ phase: 'in-sync', reason: null, booted: null, current: toplevel as never, profile: null },
    ...{ exitCode: 0, failedUnits: { added: [], removed: [] }, who: 'policy' },
    times: { started: NOW, finished: NOW },
  };
  const signed = signReceipt(receipt, secret);
  const report = { host: 'lantern', counter: 1, previous: null, receivedAt: NOW };
  await dir.state.addReport({ ...report, digest: signed.digest, envelope: signed.envelope });
  assert.deepEqual((await audit(dir)).irregularities, []);
  await importRoot(dir, await signNext(dir, NOW, { newLog: true }), NOW);
  const { irregularities, hosts } = await audit(dir);
  assert.deepEqual(irregularities, []);
  assert.deepEqual(
    hosts.map(({ receipts, earlier }) => [receipts, earlier]),
    [[1, 1]],
  );
});
