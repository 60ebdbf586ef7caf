// Files of every kind that an auditor may have: each is verified with what the others prove of it, and refused for each
// thing that can be wrong with it.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { judgeFiles } from '../../src/audit/files.ts';
import { kindOf } from '../../src/audit/kinds.ts';
import { publicKeyToSpki } from '../../src/ed25519.ts';
import { publicKeyBytes } from '../../src/keyfile.ts';
import { formatBatch, makeApproval } from '../../src/manifest/approval.ts';
import { formatApprovalFile } from '../../src/manifest/approval-file.ts';
import { parseEnvelope, signEnvelope } from '../../src/manifest/dsse.ts';
import { signEnrolment } from '../../src/manifest/enrolment.ts';
import { formatManifest, manifestDigest } from '../../src/manifest/manifest.ts';
import { formatNewest } from '../../src/manifest/newest.ts';
import { signReceipt } from '../../src/manifest/receipt.ts';
import type { Root } from '../../src/manifest/root.ts';
import { rootDigest } from '../../src/manifest/snapshot.ts';
import { STATEMENT_PAYLOAD_TYPE } from '../../src/manifest/statement.ts';
import { signTokenRequest } from '../../src/manifest/token-request.ts';
import { formatLogProof } from '../../src/tlog/proof.ts';
import { FIRST, LOG_KEYS } from '../helpers/audited.ts';
import { TestLog } from '../helpers/log.ts';
import {
  makeClosure,
  makeManifest,
  makeRoot,
  NOW,
  publicKey,
  SECRETS,
  secretKey,
  signManifest,
  signRoot,
  storePath,
} from '../helpers/trust.ts';

const ROOT = { root: FIRST, envelope: signRoot(FIRST) };

type Files = Record<string, string | Uint8Array>;

/** Kind, or code of the refusal, of each file. */
function judged(files: Files, { now = NOW, host }: { now?: number; host?: string } = {}) {
  const inputs = Object.entries(files).map(([file, data]) => ({ file, bytes: Buffer.from(data) }));
  return judgeFiles(inputs, ROOT, now, host).verdicts;
}

function verdicts(files: Files, options: { now?: number; host?: string } = {}): string[] {
  return judged(files, options).map((one) => ('error' in one ? one.error.code : one.says.kind));
}

/** A log with one manifest of each of these hosts, and proofs of it. */
function logged(...hosts: string[]) {
  const log = new TestLog();
  const sha256 = rootDigest(parseEnvelope(ROOT.envelope).payload);
  const names = { version: 1, sha256 };
  log.publish([ROOT.envelope], names);
  const envelopes = hosts.map((id) => {
    const manifest = makeManifest({ host: { id, system: 'x86_64-linux' } });
    const digest = manifestDigest(formatManifest(manifest));
    const entry = { host: id, epoch: manifest.epoch, sequence: manifest.sequence };
    log.hosts.set(id, { ...entry, sha256: digest });
    return signManifest(manifest);
  });
  log.publish(envelopes, names);
  const snapshot = () => {
    const text = String(log.leaves.at(-1));
    return { text, proof: log.inclusion(log.size - 1) };
  };
  const proof = (entry: string, host: string | null) => {
    const { index, proof: hashes } = log.logged(entry);
    const { index: place, proof: path } = log.entry(host ?? '');
    const newest = { entry: { index: place, proof: path }, snapshot: snapshot() };
    return formatLogProof({
      extra: host === null ? null : formatNewest(newest),
      index,
      hashes: hashes.map((one) => Uint8Array.from(Buffer.from(one, 'base64'))),
      checkpoint: log.checkpoint(FIRST, LOG_KEYS, NOW),
    });
  };
  return { log, names, envelopes, proof };
}

function approval(digests: readonly string[], root: Root, ...keys: Uint8Array[]) {
  const times = { issuedAt: NOW - 10, expiresAt: NOW + 100 };
  const { payload, batch } = makeApproval(digests, times, root);
  return { envelope: signEnvelope(STATEMENT_PAYLOAD_TYPE, payload, keys), batch };
}

test('a manifest with a log proof: in the log, and the newest as of when; or only the one, or neither', () => {
  const { log, names, envelopes, proof } = logged('web-1', 'web-2');
  const [manifest = '', other = ''] = envelopes;
  const place = (files: Files) => {
    const [verdict] = judged(files);
    assert.ok(verdict !== undefined && 'says' in verdict && verdict.says.kind === 'manifest');
    return verdict.says.manifest.log;
  };
  assert.equal(place({ manifest }), null);
  const said = { origin: FIRST.log.origin, size: log.size, index: 2, freshAt: NOW };
  assert.deepEqual(place({ manifest, proof: proof(manifest, null) }), { ...said, isNewest: false });
  assert.deepEqual(place({ manifest, proof: proof(manifest, 'web-1') }), {
    ...said,
    isNewest: true,
  });
  assert.deepEqual(verdicts({ manifest, proof: proof(manifest, 'web-1') }), ['manifest', 'proof']);
  // Of another file, of none, or of another log.
  assert.deepEqual(verdicts({ manifest, proof: proof(other, 'web-2') }), [
    'manifest',
    'E_NOT_LOGGED',
  ]);
  assert.deepEqual(verdicts({ proof: proof(manifest, 'web-1') }), ['E_NOT_LOGGED']);
  const strange = proof(manifest, null).replace(/— (\S+) \S+/, '— $1 AAAAAAAA');
  assert.deepEqual(verdicts({ manifest, strange }), ['manifest', 'E_CHECKPOINT_UNSIGNED']);
  assert.deepEqual(verdicts({ manifest, proof: 'c2sp.org/tlog-proof@v1\nx' }), [
    'manifest',
    'E_LOG_PROOF',
  ]);
  // It says of itself that it is the newest, and is not.
  const wrong = proof(manifest, 'web-2');
  assert.deepEqual(verdicts({ manifest, wrong }), ['manifest', 'E_SNAPSHOT_ENTRY']);
  assert.equal(place({ manifest, wrong }), null);
  // It takes nothing from the others, whichever comes first.
  for (const files of [
    { manifest, wrong, proof: proof(manifest, 'web-1') },
    { manifest, proof: proof(manifest, 'web-1'), wrong },
  ]) {
    assert.deepEqual(place(files), { ...said, isNewest: true });
    assert.deepEqual(verdicts(files).sort(), ['E_SNAPSHOT_ENTRY', 'manifest', 'proof']);
  }
  const next = makeManifest({
    host: { id: 'web-1', system: 'x86_64-linux' },
    sequence: 8,
    previous: { epoch: 1, sequence: 7, sha256: log.hosts.get('web-1')?.sha256 ?? '' },
  });
  const sha256 = manifestDigest(formatManifest(next));
  log.hosts.set('web-1', { host: 'web-1', epoch: 1, sequence: 8, sha256 });
  log.publish([signManifest(next)], names);
  const outdated = proof(manifest, 'web-1');
  assert.deepEqual(verdicts({ manifest, outdated }), ['manifest', 'E_SNAPSHOT_ENTRY']);
  // Other programs' extra data is nobody's word.
  const foreign = proof(manifest, null).replace('\n', '\nextra aGVsbG8=\n');
  assert.deepEqual(verdicts({ manifest, foreign }), ['manifest', 'proof']);
});

test('a checkpoint', () => {
  const { log } = logged('web-1');
  const checkpoint = log.checkpoint(FIRST, LOG_KEYS, NOW);
  assert.deepEqual(verdicts({ checkpoint }), ['checkpoint']);
  assert.deepEqual(verdicts({ checkpoint: checkpoint.replace(/\n4\n/, '\n5\n') }), [
    'E_NOTE_SIGNATURE',
  ]);
  const strange = log.checkpoint(FIRST, { ...LOG_KEYS, log: secretKey(98) }, NOW);
  assert.deepEqual(verdicts({ strange }), ['E_NOTE_SIGNATURE']);
});

test('approvals, as files or as envelope and batch, and the manifests that need them', () => {
  const gate = makeManifest({ host: { id: 'gate-1', system: 'x86_64-linux' } });
  const manifest = signManifest(gate);
  const digest = manifestDigest(formatManifest(gate));
  const both = [SECRETS.release, secretKey(12)];
  const { envelope, batch } = approval([digest], FIRST, ...both);
  const file = formatApprovalFile({ envelope, batch });
  assert.deepEqual(verdicts({ manifest }), ['E_APPROVAL_MISSING']);
  assert.deepEqual(verdicts({ manifest, file }), ['manifest', 'approval']);
  const text = formatBatch(batch);
  assert.deepEqual(verdicts({ envelope, text, manifest }), ['approval', 'batch', 'manifest']);
  assert.deepEqual(verdicts({ envelope, manifest }), ['approval', 'E_APPROVAL_MISSING']);
  assert.deepEqual(verdicts({ text }), ['E_APPROVAL_FORM']);
  const few = formatApprovalFile(approval([digest], FIRST, SECRETS.release));
  assert.deepEqual(verdicts({ manifest, few }), ['E_APPROVAL_THRESHOLD', 'approval']);
  const wrong = formatApprovalFile(approval([digest], FIRST, SECRETS.director));
  assert.deepEqual(verdicts({ manifest, wrong }), [
    'E_APPROVAL_MISSING',
    'E_SIGNATURE_UNKNOWN_KEY',
  ]);
  const elsewhere = { ...FIRST, fleet: 'other.example.org' };
  const others = formatApprovalFile(approval([digest], elsewhere, ...both));
  assert.deepEqual(verdicts({ others }), ['E_FLEET_MISMATCH']);
  assert.deepEqual(verdicts({ file }, { now: NOW + 200 }), ['E_APPROVAL_EXPIRED']);
  assert.deepEqual(verdicts({ file: file.replace(digest, 'ab'.repeat(32)) }), ['E_APPROVAL_FORM']);
});

test('enrolments, and receipts that are signed by the keys they tell', () => {
  const told = { fleet: FIRST.fleet, host: 'web-1', publicKey: publicKey(31), replaces: null };
  const enrolment = signEnrolment(told, SECRETS.director);
  const receipt = signReceipt(
    {
      ...{ fleet: FIRST.fleet, host: 'web-1', counter: 1, previous: null, manifest: null },
      ...{ checkpoint: null, conflict: null, phase: 'in-sync', reason: null, booted: null },
      ...{ current: storePath('c', 'host'), profile: null, exitCode: 0, who: 'policy' },
      failedUnits: { added: [], removed: [] },
      times: { started: NOW, finished: NOW },
    },
    secretKey(31),
  ).envelope;
  assert.deepEqual(verdicts({ receipt, enrolment }), ['receipt', 'enrolment']);
  assert.deepEqual(verdicts({ receipt }), ['E_SIGNATURE_UNKNOWN_KEY']);
  const other = signEnrolment({ ...told, publicKey: publicKey(32) }, SECRETS.director);
  assert.deepEqual(verdicts({ receipt, other }), ['E_SIGNATURE_UNKNOWN_KEY', 'enrolment']);
  const strange = signEnrolment(told, secretKey(98));
  assert.deepEqual(verdicts({ strange }), ['E_SIGNATURE_UNKNOWN_KEY']);
  const elsewhere = signEnrolment({ ...told, fleet: 'other.example.org' }, SECRETS.director);
  assert.deepEqual(verdicts({ elsewhere }), ['E_FLEET_MISMATCH']);
});

test('all that a host said, a line each, and its key', () => {
  const told = { fleet: FIRST.fleet, host: 'web-1', publicKey: publicKey(31), replaces: null };
  const enrolment = signEnrolment(told, SECRETS.director);
  const say = (counter: number, previous: string | null, host = 'web-1', key = 31) =>
    signReceipt(
      {
        ...{ fleet: FIRST.fleet, host, counter, previous, manifest: null },
        ...{ checkpoint: null, conflict: null, phase: 'in-sync', reason: null, booted: null },
        ...{ current: storePath('c', 'host'), profile: null, exitCode: 0, who: 'policy' },
        failedUnits: { added: [], removed: [] },
        times: { started: NOW, finished: NOW },
      },
      secretKey(key),
    );
  const one = say(1, null);
  const two = say(2, one.digest);
  const rival = say(
    2,
    one.digest.replace(/^./, (digit) => (digit === '0' ? '1' : '0')),
  );
  const hash = (digit: string) => digit.repeat(64);
  const wanted = {
    ...{ fleet: FIRST.fleet, host: 'web-1' },
    replaces: hash('1'),
    token: hash('2'),
  };
  const request = signTokenRequest(wanted, secretKey(31));
  const lines = (...texts: string[]) => texts.map((text) => `${text}\n`).join('');
  const says = (text: string) => {
    const [verdict] = judged({ text, enrolment });
    assert.ok(verdict !== undefined && 'says' in verdict && verdict.says.kind === 'receipts');
    const { receipts, requests, isChain } = verdict.says;
    return [receipts, requests, isChain];
  };
  assert.deepEqual(says(lines(one.envelope, two.envelope)), [2, 0, true]);
  assert.deepEqual(says(lines(one.envelope, rival.envelope)), [2, 0, false]);
  assert.deepEqual(says(lines(two.envelope, one.envelope)), [2, 0, false]);
  assert.deepEqual(says(lines(rival.envelope, request)), [1, 1, false]);
  assert.deepEqual(says(request), [0, 1, true]);
  assert.deepEqual(verdicts({ single: lines(one.envelope), enrolment }), ['receipt', 'enrolment']);
  const both = lines(one.envelope, two.envelope);
  assert.deepEqual(verdicts({ both }), ['E_SIGNATURE_UNKNOWN_KEY']);
  const forged = lines(one.envelope, say(2, one.digest, 'web-1', 32).envelope);
  assert.deepEqual(verdicts({ forged, enrolment }), ['E_SIGNATURE_UNKNOWN_KEY', 'enrolment']);
  const stolen = lines(one.envelope, signTokenRequest(wanted, secretKey(32)));
  assert.deepEqual(verdicts({ stolen, enrolment }), ['E_SIGNATURE_UNKNOWN_KEY', 'enrolment']);
  const cut = lines(one.envelope, two.envelope).slice(0, -40);
  assert.deepEqual(verdicts({ cut, enrolment }), ['E_ENVELOPE', 'enrolment']);
  const web2 = signEnrolment(
    { ...told, host: 'web-2', publicKey: publicKey(33) },
    SECRETS.director,
  );
  const mixed = lines(one.envelope, say(1, null, 'web-2', 33).envelope);
  assert.equal(verdicts({ mixed, enrolment, web2 })[0], 'E_AUDIT_RECEIPT');

  const pem = (key: number) => {
    const spki = Buffer.from(publicKeyToSpki(publicKeyBytes(publicKey(key)))).toString('base64');
    return `-----BEGIN PUBLIC KEY-----\n${spki}\n-----END PUBLIC KEY-----\n`;
  };
  assert.deepEqual(verdicts({ key: pem(31), enrolment }), ['host-key', 'enrolment']);
  assert.deepEqual(verdicts({ key: pem(32), enrolment })[0], 'E_SIGNATURE_UNKNOWN_KEY');
  assert.deepEqual(
    verdicts({ key: pem(31).replace('MCow', 'MCox'), enrolment })[0],
    'E_PUBLIC_KEY',
  );
});

test('roots: those that follow are in force for everything else', () => {
  const director = { keys: [publicKey(13)], threshold: 1 };
  const second = { ...FIRST, version: 2, roles: { ...FIRST.roles, director } };
  const third = { ...second, version: 3 };
  const [two, three] = [signRoot(second), signRoot(third)];
  const old = signManifest(makeManifest());
  const now = makeManifest({ fleet: { name: FIRST.fleet, rootVersion: 3 } });
  const manifest = signManifest(now, secretKey(13));
  assert.deepEqual(verdicts({ manifest }), ['E_SIGNATURE_UNKNOWN_KEY']);
  assert.deepEqual(verdicts({ manifest, three, two }), ['manifest', 'root', 'root']);
  assert.deepEqual(verdicts({ one: ROOT.envelope, two, old }), [
    'root',
    'root',
    'E_SIGNATURE_UNKNOWN_KEY',
  ]);
  assert.deepEqual(verdicts({ three }), ['E_ROOT_CHAIN']);
  const stolen = signRoot(second, secretKey(98));
  assert.deepEqual(verdicts({ stolen, old }), ['E_ROOT_SIGNATURE', 'manifest']);
  const another = signRoot(makeRoot({ maxAge: 60 }));
  assert.deepEqual(verdicts({ another }), ['E_ROOT_CHAIN']);
  // Only the newest must not have expired.
  const later = { ...second, issuedAt: FIRST.expiresAt, expiresAt: FIRST.expiresAt + 86_400 };
  const at = { now: FIRST.expiresAt + 60 };
  assert.deepEqual(verdicts({ two: signRoot(later) }, at), ['root']);
  assert.throws(() => verdicts({ two }, at), { code: 'E_ROOT_EXPIRED' });
});

test('closures, other hosts, and what is nothing', () => {
  const manifest = signManifest(makeManifest());
  const closure = makeClosure().bytes;
  assert.deepEqual(verdicts({ closure, manifest }), ['closure', 'manifest']);
  assert.deepEqual(verdicts({ closure: makeClosure(7).bytes, manifest }), [
    'E_CLOSURE_HASH',
    'manifest',
  ]);
  assert.deepEqual(verdicts({ manifest }, { host: 'web-2' }), ['E_HOST_MISMATCH']);
  for (const text of ['', '{', '[]', 'hello', '{"payloadType":1}', '\u0000'.repeat(600)]) {
    assert.equal(kindOf(Buffer.from(text)), 'manifest', text);
    assert.deepEqual(verdicts({ text }), ['E_ENVELOPE'], text);
  }
});
