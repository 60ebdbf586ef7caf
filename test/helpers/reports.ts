// A host that says what it runs, without an agent: enrolled in the state, with a receipt that its key signed.
import assert from 'node:assert/strict';
import { generateSecretKey } from '../../src/ed25519.ts';
import { publicKeyOfSecret } from '../../src/keyfile.ts';
import { type Receipt, signReceipt } from '../../src/manifest/receipt.ts';
import type { StorePath } from '../../src/nix/storepath.ts';
import type { StateDir } from '../../src/server/statedir.ts';
import { hex } from './rows.ts';

/** Enrols `host` (anew), and has it report that it runs `current`; null: it does not say. */
export async function reportRunning(
  { state, root }: StateDir,
  host: string,
  current: StorePath | null,
  now: number,
): Promise<void> {
  const secret = generateSecretKey();
  const publicKey = publicKeyOfSecret(secret);
  const secretHash = hex(`invitation ${publicKey}`);
  await state.invite({ secretHash, host, expiresAt: now + 100 });
  const tokenHash = hex(`token ${publicKey}`);
  assert.equal(await state.enrol({ secretHash, publicKey, tokenHash, now }), 'enrolled');
  const receipt: Receipt = {
    ...{ fleet: root.fleet, host, counter: 1, previous: null, manifest: null },
    ...{ checkpoint: null, conflict: null, phase: 'in-sync', reason: null },
    ...{ booted: null, current, profile: null, exitCode: null },
    ...{ failedUnits: { added: [], removed: [] }, who: 'policy' },
    times: { started: now, finished: now },
  };
  const { envelope, digest } = signReceipt(receipt, secret);
  const row = { host, counter: 1, digest, previous: null, receivedAt: now, envelope };
  assert.equal(await state.addReport(row), 'stored');
}
