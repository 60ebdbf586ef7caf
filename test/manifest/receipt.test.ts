import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseEnvelope, signEnvelope } from '../../src/manifest/dsse.ts';
import { canonicalBytes, parseCanonical } from '../../src/manifest/jcs.ts';
import {
  formatReceipt,
  makeReason,
  PHASES,
  parseReceipt,
  RECEIPT_PAYLOAD_TYPE,
  type Receipt,
  receiptDigest,
  signReceipt,
  verifyReceipt,
} from '../../src/manifest/receipt.ts';
import { NOW, publicKey, refuses, SECRETS, secretKey, storePath } from '../helpers/trust.ts';

const RECEIPT: Receipt = {
  fleet: 'fleet.example.org',
  host: 'web-1',
  counter: 1,
  previous: null,
  manifest: { epoch: 1, sequence: 7, sha256: 'ab'.repeat(32) },
  checkpoint: null,
  conflict: null,
  phase: 'in-sync',
  reason: null,
  booted: storePath('a', 'old'),
  current: storePath('b', 'new'),
  profile: null,
  exitCode: 0,
  failedUnits: { added: ['nginx.service'], removed: [] },
  who: 'policy',
  times: { started: NOW, finished: NOW + 30 },
};
const EXPECT = { publicKey: publicKey(8), fleet: 'fleet.example.org', host: 'web-1' };
const verify = (receipt: Receipt, expect = EXPECT) =>
  verifyReceipt(parseEnvelope(signReceipt(receipt, SECRETS.host).envelope), expect);
const REASON = { code: 'E_SIGNATURE', text: 'it does not hold' };

test('a signed receipt is read back with its digest', () => {
  const { envelope, digest } = signReceipt(RECEIPT, SECRETS.host);
  assert.deepEqual(verifyReceipt(parseEnvelope(envelope), EXPECT), { receipt: RECEIPT, digest });
  assert.equal(digest, receiptDigest(formatReceipt(RECEIPT)));
  assert.equal(parseEnvelope(envelope).payloadType, 'application/vnd.fleet.receipt+json');
});

test('the second receipt names the first one by its digest', () => {
  const previous = receiptDigest(formatReceipt(RECEIPT));
  const second = { ...RECEIPT, counter: 2, previous };
  assert.deepEqual(verify(second).receipt, second);
  refuses('E_RECEIPT_FORM', () => formatReceipt({ ...RECEIPT, counter: 2 }), /previous/);
  refuses('E_RECEIPT_FORM', () => formatReceipt({ ...RECEIPT, previous }), /previous/);
});

test("a receipt signed by another key, such as another host's, is refused", () => {
  const { envelope } = signReceipt(RECEIPT, secretKey(99));
  refuses('E_SIGNATURE_UNKNOWN_KEY', () => verifyReceipt(parseEnvelope(envelope), EXPECT));
});

test('a changed receipt is refused', () => {
  const text = JSON.parse(signReceipt(RECEIPT, SECRETS.host).envelope) as { payload: string };
  const payload = Buffer.from(formatReceipt({ ...RECEIPT, exitCode: 4 })).toString('base64');
  const changed = parseEnvelope(JSON.stringify({ ...text, payload }));
  refuses('E_SIGNATURE', () => verifyReceipt(changed, EXPECT));
});

test("another host's or another fleet's receipt is refused, although the key signed it", () => {
  refuses('E_HOST_MISMATCH', () => verify({ ...RECEIPT, host: 'web-2' }), /web-2/);
  refuses('E_FLEET_MISMATCH', () => verify({ ...RECEIPT, fleet: 'other' }), /other/);
});

test('another payload type is no receipt', () => {
  const envelope = signEnvelope('application/json', formatReceipt(RECEIPT), [SECRETS.host]);
  refuses('E_RECEIPT_FORM', () => verifyReceipt(parseEnvelope(envelope), EXPECT));
  assert.equal(RECEIPT_PAYLOAD_TYPE, 'application/vnd.fleet.receipt+json');
});

test('a host reports every phase but those that only the server can say', () => {
  for (const phase of PHASES) {
    const receipt = { ...RECEIPT, phase, reason: REASON } as Receipt;
    if (phase === 'never-seen' || phase === 'offline') {
      refuses('E_RECEIPT_FORM', () => formatReceipt(receipt), /phase/);
    } else {
      assert.equal(parseReceipt(formatReceipt(receipt)).phase, phase);
    }
  }
  const unknown = { ...RECEIPT, phase: 'fine' } as unknown as Receipt;
  refuses('E_RECEIPT_FORM', () => formatReceipt(unknown), /phase must be one of/);
});

test('a phase that means nothing without its reason is refused without it', () => {
  for (const phase of ['failed', 'refused', 'rolled-back', 'held', 'reboot-pending'] as const) {
    refuses('E_RECEIPT_FORM', () => formatReceipt({ ...RECEIPT, phase }), /needs a reason/);
  }
});

test('unknown fields, missing ones, and values of a wrong form are refused', () => {
  const payload = parseCanonical(formatReceipt(RECEIPT)) as Record<string, unknown>;
  refuses('E_RECEIPT_FORM', () => parseReceipt(canonicalBytes({ ...payload, x: 1 })), /"x"/);
  for (const name of Object.keys(payload)) {
    const { [name]: _left, ...rest } = payload;
    refuses('E_RECEIPT_FORM', () => parseReceipt(canonicalBytes(rest)), /missing/);
  }
  for (const [name, value] of [
    ['counter', 0],
    ['checkpoint', 5],
    ['conflict', ''],
    ['conflict', 'x'.repeat(2049)],
    ['booted', '/run/booted-system'],
    ['exitCode', 256],
    ['who', 'me'],
    ['reason', { code: 'E X', text: '' }],
    ['reason', { code: 'E_X', text: 'two\nlines' }],
    ['failedUnits', { added: ['a b'], removed: [] }],
    ['times', { started: '2026-01-01T00:00:00Z', finished: 'soon' }],
  ] as const) {
    const bytes = canonicalBytes({ ...payload, [name]: value });
    refuses('E_RECEIPT_FORM', () => parseReceipt(bytes), new RegExp(name));
  }
});

test('any text becomes a reason that a receipt can carry', () => {
  for (const text of ['', 'a\nb\u0000c\u009bd', '\ud800', '😀'.repeat(5000), 'x'.repeat(5000)]) {
    const reason = makeReason('E_NIX_FAILED', text);
    assert.deepEqual(parseReceipt(formatReceipt({ ...RECEIPT, reason })).reason, reason);
  }
  assert.equal(makeReason('X', ' a\r\n\tb ').text, 'a b');
});

test('the largest receipt there can be still fits an envelope', () => {
  const units = Array.from({ length: 64 }, (_, i) => `${i}`.padStart(255, 'u'));
  const reason = makeReason('E_NIX_FAILED', '😀'.repeat(5000));
  const [checkpoint, conflict] = ['\n'.repeat(2048), '—'.repeat(2048)];
  const failedUnits = { added: units, removed: units };
  const receipt = { ...RECEIPT, reason, checkpoint, conflict, failedUnits };
  assert.ok(signReceipt(receipt, SECRETS.host).envelope.length < 61_440);
});

test('a request is a number and a line of text, and no receipt needs one', () => {
  const asking = (request: unknown) => ({ ...RECEIPT, request }) as Receipt;
  for (const text of ['please install gimp', 'ü'.repeat(1024)]) {
    const receipt = { ...RECEIPT, request: { number: 1, text }, who: 'local group' as const };
    assert.deepEqual(verify(receipt).receipt, receipt);
  }
  const refused = [
    null,
    {},
    'please',
    { number: 0, text: 'x' },
    { number: 1, text: '' },
    { number: 1, text: 'two\nlines' },
    { number: 1, text: 'x'.repeat(1025) },
    { number: 1, text: 'x', who: 'root' },
  ];
  for (const request of refused) {
    refuses('E_RECEIPT_FORM', () => formatReceipt(asking(request)));
  }
});
