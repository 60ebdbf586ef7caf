// docs/SPEC.md against the code: every worked example is computed anew from the document's own text,
// and the codes and lists that it names are compared with the code's.

import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { test } from 'node:test';
import { ERRORS } from '../../src/errors.ts';
import { keyId, type PublicKey, parsePublicKey } from '../../src/keyfile.ts';
import {
  ActivationSchema,
  DEFAULT_ACTIVATION,
  parseHostSettings,
} from '../../src/manifest/activation.ts';
import {
  ApprovalSchema,
  MAX_BATCH,
  makeApproval,
  proveApproval,
  requireApproved,
} from '../../src/manifest/approval.ts';
import { pae, parseEnvelope, signEnvelope, verifiedBy } from '../../src/manifest/dsse.ts';
import { parseEnrolFile, rootOfEnrolFile } from '../../src/manifest/enrol-file.ts';
import {
  ENROL_REQUEST_PAYLOAD_TYPE,
  EnrolmentSchema,
  EnrolRequestSchema,
  invitationOf,
  parseEnrolment,
  signEnrolment,
  verifyEnrolRequest,
} from '../../src/manifest/enrolment.ts';
import { canonicalBytes } from '../../src/manifest/jcs.ts';
import { DeploymentSchema, formatManifest, parseManifest } from '../../src/manifest/manifest.ts';
import {
  MAX_NONCE_PROOF_BYTES,
  NonceProofSchema,
  parseFreshText,
  signNonceProof,
  verifyNonceProof,
} from '../../src/manifest/nonce-proof.ts';
import { formatProof, MAX_OFFER_BYTES, OfferSchema, parseOffer } from '../../src/manifest/offer.ts';
import {
  formatReceipt,
  PHASES,
  parseReceipt,
  RECEIPT_PAYLOAD_TYPE,
  ReceiptSchema,
  verifyReceipt,
} from '../../src/manifest/receipt.ts';
import {
  formatRoot,
  parseRoot,
  ROOT_PAYLOAD_TYPE,
  roleOfKey,
  verifyInitialRoot,
} from '../../src/manifest/root.ts';
import { RootSchema } from '../../src/manifest/root-form.ts';
import { rootDigest, type SnapshotEntry } from '../../src/manifest/snapshot.ts';
import { STATEMENT_PAYLOAD_TYPE } from '../../src/manifest/statement.ts';
import { signTokenRequest, verifyTokenRequest } from '../../src/manifest/token-request.ts';
import { verifyManifest } from '../../src/manifest/verify.ts';
import { verifyOfferedLog, verifyOfferedManifest } from '../../src/manifest/verify-offer.ts';
import { formatClosure, parseClosure } from '../../src/nix/closure.ts';
import { parseLogProof } from '../../src/tlog/proof.ts';
import { NOTE_ED25519, parseVerifierKey } from '../../src/tlog/vkey.ts';
import { TestLog } from '../helpers/log.ts';
import { applied, appliedSlowly } from '../helpers/patches.ts';
import { NOW, publicKey, secretKey } from '../helpers/trust.ts';

const SPEC = readFileSync(new URL('../../docs/SPEC.md', import.meta.url), 'utf8');
const EXAMPLES = new Map(
  [...SPEC.matchAll(/^```(?:json|text) example=([a-z-]+)\n(.*?)\n```$/gms)].map((match) => [
    match[1] ?? '',
    match[2] ?? '',
  ]),
);
const example = (name: string): string => {
  const text = EXAMPLES.get(name);
  assert.ok(text !== undefined, `docs/SPEC.md has no example "${name}"`);
  return text;
};
/** The payload that an indented example stands for. */
const payloadOf = (name: string): Uint8Array => canonicalBytes(JSON.parse(example(name)));
const digestLine = (bytes: Uint8Array): string =>
  `${createHash('sha256').update(bytes).digest('hex')}  ${bytes.length} bytes`;
const signatureOf = (envelope: string): string =>
  Buffer.from(parseEnvelope(envelope).signatures[0]?.sig ?? []).toString('base64');
const clause = (number: string): string => {
  const start = SPEC.search(new RegExp(`^#+ ${number.replace('.', '\\.')} `, 'm'));
  assert.notEqual(start, -1, `docs/SPEC.md has no clause ${number}`);
  const rest = SPEC.slice(SPEC.indexOf('\n', start));
  const end = rest.search(/^#+ \d/m);
  return rest.slice(0, end === -1 ? undefined : end);
};

const rootEnvelope = (): string =>
  signEnvelope(ROOT_PAYLOAD_TYPE, payloadOf('root'), [secretKey(1)]);
const manifestEnvelope = (): string =>
  signEnvelope(STATEMENT_PAYLOAD_TYPE, payloadOf('manifest'), [secretKey(3)]);

test('the example keys are the ones of their secrets, and hold the roles that they are said to', () => {
  type Example = { use: string; publicKey: string; keyId: string };
  const keys = Object.entries(JSON.parse(example('keys')) as Record<string, Example>);
  assert.equal(keys.length, 8);
  const root = parseRoot(payloadOf('root'));
  for (const [n, { use, publicKey: text, keyId: id }] of keys) {
    const key: PublicKey = parsePublicKey(text);
    assert.equal(key, publicKey(Number(n)));
    assert.equal(id, keyId(key));
    assert.equal(roleOfKey(root, key), n === '8' ? null : use);
  }
});

test('the PAE and the envelope of §2 are reproduced', () => {
  const body = Buffer.from('hello world');
  const type = 'http://example.com/HelloWorld';
  assert.equal(Buffer.from(pae(type, body)).toString(), example('pae'));
  assert.equal(signEnvelope(type, body, [secretKey(1)]), example('envelope'));
  assert.deepEqual(verifiedBy(parseEnvelope(example('envelope')), [publicKey(1)]), [publicKey(1)]);
});

test('the root of §3 is one, and its digest, signature and vkey are reproduced', () => {
  const payload = payloadOf('root');
  assert.deepEqual(formatRoot(parseRoot(payload)), payload);
  assert.equal(digestLine(payload), example('root-digest'));
  assert.equal(signatureOf(rootEnvelope()), example('root-signature'));
  const root = verifyInitialRoot(parseEnvelope(rootEnvelope()), NOW);
  assert.equal(root.log.vkey, example('vkey'));
  assert.equal(parseVerifierKey(example('vkey'), NOTE_ED25519).publicKey, publicKey(4));
});

test('the closure and the manifest of §4 are reproduced, and pass verification together', () => {
  const payload = payloadOf('manifest');
  const closure = Buffer.from(`${example('closure')}\n`);
  assert.deepEqual(formatManifest(parseManifest(payload)), payload);
  assert.equal(digestLine(payload), example('manifest-digest'));
  assert.equal(digestLine(closure), example('closure-digest'));
  assert.equal(signatureOf(manifestEnvelope()), example('manifest-signature'));
  const verified = verifyManifest({
    envelope: manifestEnvelope(),
    root: parseRoot(payloadOf('root')),
    now: NOW,
    expect: { host: 'web-1', system: 'x86_64-linux', floor: null },
    closure,
  });
  assert.ok(verified.closure !== null && verified.manifest.intent === 'deploy');
  const { toplevel } = verified.manifest;
  assert.deepEqual(formatClosure(parseClosure(closure, toplevel).paths.values()), closure);
});

test('the receipt of §6 is reproduced, and names the manifest of §4', () => {
  const payload = payloadOf('receipt');
  const receipt = parseReceipt(payload);
  assert.deepEqual(formatReceipt(receipt), payload);
  assert.equal(digestLine(payload), example('receipt-digest'));
  const envelope = signEnvelope(RECEIPT_PAYLOAD_TYPE, payload, [secretKey(8)]);
  assert.equal(signatureOf(envelope), example('receipt-signature'));
  const expect = { publicKey: publicKey(8), fleet: 'fleet.example.org', host: 'web-1' };
  assert.deepEqual(verifyReceipt(parseEnvelope(envelope), expect).receipt, receipt);
  assert.equal(receipt.manifest?.sha256, example('manifest-digest').slice(0, 64));
});

test('the enrolment file, request and Statement of §7 are reproduced', () => {
  const text = example('enrol-file').replace(
    '"«root envelope»"',
    JSON.stringify(rootEnvelope()).replaceAll('$', '$$$$'),
  );
  const file = parseEnrolFile(text);
  assert.deepEqual(rootOfEnrolFile(file, NOW), parseRoot(payloadOf('root')));
  const request = signEnvelope(ENROL_REQUEST_PAYLOAD_TYPE, payloadOf('enrol-request'), [
    secretKey(8),
  ]);
  assert.equal(signatureOf(request), example('enrol-request-signature'));
  const { fleet, host, secret } = file;
  const expect = { fleet, host, invitation: invitationOf(secret) };
  assert.equal(verifyEnrolRequest(parseEnvelope(request), expect).publicKey, publicKey(8));
});

test('the approval of §10.1 is of the manifest of §4.6, and passes', () => {
  const digest = example('manifest-digest').slice(0, 64);
  const root = parseRoot(payloadOf('root'));
  const days = { issuedAt: NOW, expiresAt: NOW + 90 * 86_400 };
  const { payload, batch } = makeApproval([digest], days, root);
  assert.deepEqual(payload, payloadOf('approval'));
  const envelope = signEnvelope(STATEMENT_PAYLOAD_TYPE, payload, [secretKey(2)]);
  assert.equal(signatureOf(envelope), example('approval-signature'));
  requireApproved(digest, proveApproval({ envelope, batch }, digest), 1, root, NOW);
  assert.ok(clause('10.1').includes(`1 to ${MAX_BATCH} of them`));
});

test('the enrolment of §7.3 is that of the request of §7.2', () => {
  const { fleet, host, publicKey: key } = parseEnrolment(payloadOf('enrolment'));
  const request = JSON.parse(example('enrol-request'));
  assert.deepEqual({ fleet, host, publicKey: key, invitation: request.invitation }, request);
  const envelope = signEnrolment({ fleet, host, publicKey: key, replaces: null }, secretKey(3));
  assert.deepEqual(parseEnvelope(envelope).payload, payloadOf('enrolment'));
  assert.equal(signatureOf(envelope), example('enrolment-signature'));
});

test('the request for a token of §7.4 is reproduced', () => {
  const hash = (letter: string) =>
    createHash('sha256')
      .update(`fleet_${letter.repeat(43)}`)
      .digest('hex');
  const request = JSON.parse(example('token-request'));
  assert.deepEqual([request.replaces, request.token], [hash('A'), hash('B')]);
  const envelope = signTokenRequest(request, secretKey(8));
  assert.equal(signatureOf(envelope), example('token-request-signature'));
  const { fleet, host, replaces } = request;
  const expect = { publicKey: publicKey(8), fleet, host, replaces };
  assert.deepEqual(verifyTokenRequest(parseEnvelope(envelope), expect), request);
});

/** The log of §9: a root, a snapshot of no hosts, the manifest of §4, and the snapshot of it. */
function exampleLog(): TestLog {
  const version = { version: 1, sha256: rootDigest(payloadOf('root')) };
  const log = new TestLog();
  log.publish([rootEnvelope()], version);
  log.hosts.set('web-1', JSON.parse(example('snapshot-entry')) as SnapshotEntry);
  log.publish([manifestEnvelope()], version);
  return log;
}

test('the log of §9 is reproduced: snapshot, checkpoint and proof', () => {
  const log = exampleLog();
  assert.equal(log.leaves.at(-1)?.toString(), `${example('snapshot')}\n`);
  const entry = JSON.parse(example('snapshot-entry')) as SnapshotEntry;
  assert.equal(Buffer.from(canonicalBytes(entry)).toString(), example('snapshot-entry'));
  const { epoch, sequence } = parseManifest(payloadOf('manifest'));
  assert.deepEqual(
    [entry.epoch, entry.sequence, entry.sha256],
    [epoch, sequence, example('manifest-digest').slice(0, 64)],
  );
  const root = parseRoot(payloadOf('root'));
  const checkpoint = log.checkpoint(root, { log: secretKey(4), freshness: secretKey(5) }, NOW);
  assert.equal(checkpoint, `${example('checkpoint')}\n`);
  const proof = parseLogProof(`${example('log-proof')}\n`);
  const { index, proof: hashes } = log.logged(manifestEnvelope());
  assert.deepEqual([proof.index, formatProof(proof.hashes)], [index, hashes]);
  assert.equal(proof.checkpoint, checkpoint);
});

test('the offer of §8 carries the manifest of §4 and the log of §9, and passes verification', () => {
  const text = Object.entries({
    '«manifest envelope»': manifestEnvelope(),
    '«checkpoint»': `${example('checkpoint')}\n`,
    '«snapshot»': `${example('snapshot')}\n`,
  }).reduce(
    (all, [name, value]) => all.replace(`"${name}"`, () => JSON.stringify(value)),
    example('offer'),
  );
  const offer = parseOffer(text);
  const root = { root: parseRoot(payloadOf('root')), envelope: rootEnvelope() };
  const log = verifyOfferedLog(offer, root, null, NOW);
  const expect = { host: 'web-1', system: 'x86_64-linux', floor: null };
  const { manifest } = verifyOfferedManifest(offer, root, log, expect, NOW);
  assert.ok(manifest.intent !== 'decommission');
  assert.equal(offer.closure?.sha256, manifest.closure.sha256);
  assert.equal(offer.closure?.bytes, manifest.closure.bytes);
  assert.ok(clause('8').includes(`at most ${MAX_OFFER_BYTES} bytes`));
});

test('the proof of time of §9.8 is reproduced, is of the checkpoint of §9.3, and proves its time', () => {
  const text = `${example('fresh-text')}\n`;
  const fresh = parseFreshText(text);
  const proof = example('nonce-proof').replace('"«text»"', () => JSON.stringify(text));
  assert.deepEqual(JSON.parse(signNonceProof(fresh, secretKey(6))), JSON.parse(proof));
  const checkpoint = `${example('checkpoint').split('\n\n')[0]}\n`;
  const expect = { root: parseRoot(payloadOf('root')), nonce: '09'.repeat(32), checkpoint };
  assert.equal(verifyNonceProof(proof, { ...expect, floor: NOW }), NOW + 60);
  assert.ok(clause('9.8').includes(`at most ${MAX_NONCE_PROOF_BYTES} bytes`));
});

test('the patch makes the second text of the first', async () => {
  const [before = '', after] = example('patched').split('\n');
  const patch = Buffer.from(example('patch'), 'hex');
  assert.equal((await applied(Buffer.from(before), patch)).toString(), after);
  assert.equal(appliedSlowly(Buffer.from(before), patch).toString(), after);
});

test('every example of the document is one that these tests know', () => {
  const source = readFileSync(new URL(import.meta.url), 'utf8');
  for (const name of EXAMPLES.keys()) {
    assert.ok(source.includes(`('${name}')`), `nothing reads the example "${name}"`);
  }
  assert.equal(EXAMPLES.size, SPEC.match(/^```.*example/gm)?.length);
});

test('every field that a schema has is named in its clause', () => {
  for (const [number, schema] of [
    ['3.1', RootSchema],
    ['4.2', DeploymentSchema],
    ['4.4', ActivationSchema],
    ['6.1', ReceiptSchema],
    ['7.2', EnrolRequestSchema],
    ['7.3', EnrolmentSchema],
    ['8', OfferSchema],
    ['9.8', NonceProofSchema],
    ['10.1', ApprovalSchema],
  ] as const) {
    for (const field of Object.keys(schema.properties)) {
      assert.ok(clause(number).includes(`\`${field}\``), `§${number} does not name ${field}`);
    }
  }
});

test('the phases of §6.2 and the defaults of §4.4 are those of the code', () => {
  const words = [
    ...(clause('6.2')
      .split(';')[0]
      ?.matchAll(/`([a-z-]+)`/g) ?? []),
  ].map((m) => m[1]);
  const reported = PHASES.filter((phase) => phase !== 'never-seen' && phase !== 'offline');
  assert.deepEqual(words, reported);
  const rows = clause('4.4').matchAll(/^\| `(\w+)` \|.*\| `?([^|`]*)`? \|$/gm);
  const table = new Map([...rows].map((row) => [row[1], row[2]?.trim()]));
  assert.equal(table.size, Object.keys(ActivationSchema.properties).length);
  for (const name of ['mode', 'reboot', 'confirmSeconds', 'onFailure'] as const) {
    assert.equal(table.get(name), String(DEFAULT_ACTIVATION[name]));
  }
  assert.deepEqual(parseHostSettings({}).activation.windows, []);
});

test('every error code that the document names exists', () => {
  const codes = new Set(SPEC.match(/\bE_[A-Z][A-Z_]*[A-Z]\b/g));
  for (const code of codes) {
    if (code === 'E_SWITCH_FAILED') continue; // a host's own word, in an example
    assert.ok(Object.hasOwn(ERRORS, code), `docs/SPEC.md names ${code}`);
  }
});

test('every clause that the code cites exists', () => {
  for (const name of ['manifest', 'tlog', 'agent', 'storage', 'bundle'].flatMap((folder) =>
    readdirSync(new URL(`../../src/${folder}/`, import.meta.url)).map(
      (file) => `${folder}/${file}`,
    ),
  )) {
    const source = readFileSync(new URL(`../../src/${name}`, import.meta.url), 'utf8');
    for (const [, number] of source.matchAll(/SPEC §(\d+(?:\.\d+)?)/g)) clause(number ?? '');
  }
});
