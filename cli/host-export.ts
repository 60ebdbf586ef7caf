// What a host said, and what the log tells of its keys, as files beside the manifest that `fleet host show --export`
// writes: the same state, the same files. Receipts as the bundle of an audit has them, one envelope a line; each
// enrolment as the log has it, with the proof that it does; each key as openssl reads it. Receipts of a key that the log does not tell yet are left
// for the next time.
import { join } from 'node:path';
import { writeDurable } from '../src/durable.ts';
import { publicKeyToSpki } from '../src/ed25519.ts';
import { type PublicKey, publicKeyBytes } from '../src/keyfile.ts';
import { parseEnvelope } from '../src/manifest/dsse.ts';
import { parseEnrolment } from '../src/manifest/enrolment.ts';
import type { StateDir } from '../src/server/statedir.ts';

/** Writes into `to`, which exists. Nothing where there is nothing. */
export async function exportRecords(dir: StateDir, host: string, to: string): Promise<void> {
  const { openProver } = await import('../src/server/log-proof.ts');
  const { state } = dir;
  const mark = await state.recordsMark();
  const keys: PublicKey[] = [];
  const published = await openProver(dir);
  if (published === null) return;
  const { log, size, prove } = published;
  for (const { index, envelope } of await state.loggedEnrolments(host, log, size)) {
    const { publicKey } = parseEnrolment(parseEnvelope(envelope).payload);
    keys.push(publicKey);
    const name = `${host}-${index}.enrolment.json`;
    await writeDurable(join(to, name), envelope);
    await writeDurable(join(to, `${name}.tlog-proof`), await prove(index));
    await writeDurable(join(to, `${host}-${index}.host-key.pem`), pemOf(publicKeyBytes(publicKey)));
  }
  const lines = (envelopes: readonly string[]) => envelopes.map((one) => `${one}\n`).join('');
  // What a key signed that no enrolment here tells could not be checked.
  const receipts = await state.receipts(host, { keys, mark });
  if (receipts.length > 0) await writeDurable(join(to, `${host}.receipts.jsonl`), lines(receipts));
  const conflicts = (await state.conflicts(host, { keys, mark })).map(({ envelope }) => envelope);
  if (conflicts.length === 0) return;
  await writeDurable(join(to, `${host}.conflicts.jsonl`), lines(conflicts));
}

function pemOf(publicKey: Uint8Array): string {
  const base64 = Buffer.from(publicKeyToSpki(publicKey)).toString('base64');
  return `-----BEGIN PUBLIC KEY-----\n${base64}\n-----END PUBLIC KEY-----\n`;
}
