// The files of a bundle, from a state, are what an audit wants of it: also what a cloned machine left behind.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { auditLog } from '../../src/audit/audit.ts';
import { openBundleSource } from '../../src/audit/source.ts';
import { generateSecretKey } from '../../src/ed25519.ts';
import { publicKeyOfSecret } from '../../src/keyfile.ts';
import { signTokenRequest } from '../../src/manifest/token-request.ts';
import { auditFiles } from '../../src/server/audit-files.ts';
import type { StateDir } from '../../src/server/statedir.ts';
import { hashToken } from '../../src/server/tokens.ts';
import { pool } from '../helpers/audited.ts';
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
