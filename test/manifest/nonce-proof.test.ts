// Proofs of time (SPEC §9.8): what is signed, and everything that is refused, each with its code.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  type FreshText,
  formatFreshText,
  isNonce,
  MAX_NONCE_PROOF_BYTES,
  parseFreshText,
  signNonceProof,
  verifyNonceProof,
} from '../../src/manifest/nonce-proof.ts';
import { formatCheckpoint } from '../../src/tlog/checkpoint.ts';
import { KEYS, makeRoot, NOW, publicKey, refuses, SECRETS, secretKey } from '../helpers/trust.ts';

const ROOT = makeRoot();
const NONCE = 'ab'.repeat(32);
const checkpointOf = (size: number, origin = ROOT.log.origin): string =>
  formatCheckpoint({ origin, size, root: new Uint8Array(32) });
const CHECKPOINT = checkpointOf(4);
const FRESH: FreshText = { nonce: NONCE, time: NOW, checkpoint: CHECKPOINT };
const EXPECT = { root: ROOT, nonce: NONCE, checkpoint: CHECKPOINT, floor: null };
const PROOF = signNonceProof(FRESH, SECRETS.nonce);

/** The proof with other fields. */
const changed = (fields: object): string => JSON.stringify({ ...JSON.parse(PROOF), ...fields });

test('a proof proves its time, as text and as bytes, by any nonce key of the root', () => {
  assert.equal(verifyNonceProof(PROOF, EXPECT), NOW);
  assert.equal(verifyNonceProof(Buffer.from(PROOF), EXPECT), NOW);
  const two = makeRoot();
  const root = { ...two, nonce: { keys: [publicKey(9), KEYS.nonce] } };
  assert.equal(verifyNonceProof(PROOF, { ...EXPECT, root }), NOW);
  // What the key is called is only a hint.
  assert.equal(verifyNonceProof(changed({ keyid: '0'.repeat(16) }), EXPECT), NOW);
  assert.deepEqual(parseFreshText(formatFreshText(FRESH)), FRESH);
});

test('another nonce, another checkpoint, a time of before', () => {
  const verify = (expect: object) => () => verifyNonceProof(PROOF, { ...EXPECT, ...expect });
  refuses('E_NONCE_OTHER', verify({ nonce: 'cd'.repeat(32) }));
  refuses('E_NONCE_OTHER', verify({ nonce: NONCE.toUpperCase() }));
  for (const other of [checkpointOf(5), checkpointOf(3), checkpointOf(4, 'other/log/1')]) {
    refuses('E_NONCE_CHECKPOINT', verify({ checkpoint: other }), /log of 4 entries/);
  }
  // Where only who answers matters, and all else does still.
  assert.equal(verify({ checkpoint: null })(), NOW);
  refuses('E_NONCE_OTHER', verify({ checkpoint: null, nonce: 'cd'.repeat(32) }));
  refuses('E_NONCE_OLD', verify({ checkpoint: null, floor: NOW + 301 }));
  refuses('E_NONCE_OLD', verify({ floor: NOW + 301 }));
  assert.equal(verifyNonceProof(PROOF, { ...EXPECT, floor: NOW + 300 }), NOW);
});

test('signatures: by a nonce key, over exactly this text', () => {
  for (const secret of [SECRETS.log, SECRETS.freshness, SECRETS.director, secretKey(9)]) {
    const proof = signNonceProof(FRESH, secret);
    refuses('E_SIGNATURE_UNKNOWN_KEY', () => verifyNonceProof(proof, EXPECT));
  }
  const later = formatFreshText({ ...FRESH, time: NOW + 1 });
  refuses('E_SIGNATURE', () => verifyNonceProof(changed({ text: later }), EXPECT));
  const { sig } = JSON.parse(PROOF);
  const flipped = `${sig[0] === 'A' ? 'B' : 'A'}${sig.slice(1)}`;
  refuses('E_SIGNATURE', () => verifyNonceProof(changed({ sig: flipped }), EXPECT));
  // Signed by the right key, and no proof of time.
  refuses('E_NONCE_FORM', () => signNonceProof({ ...FRESH, nonce: 'x' }, SECRETS.nonce));
});

test('every other form of the text is refused', () => {
  const text = formatFreshText(FRESH);
  const bad: [string, string][] = [
    ['another head', text.replace('/v1', '/v2')],
    ['upper case', text.replace(NONCE, NONCE.toUpperCase())],
    ['a nonce that is short', text.replace(NONCE, NONCE.slice(2))],
    ['a nonce that is long', text.replace(NONCE, `${NONCE}ab`)],
    ['a leading zero', text.replace(`${NOW}`, `0${NOW}`)],
    ['a sign', text.replace(`${NOW}`, `-${NOW}`)],
    ['a fraction', text.replace(`${NOW}`, `${NOW}.5`)],
    ['a time after 9999', text.replace(`${NOW}`, '253402300800')],
    ['no time', text.replace(`${NOW}`, '')],
    ['no checkpoint', text.replace(CHECKPOINT, '')],
    ['a checkpoint with a fourth line', `${text}more\n`],
    ['no newline at the end', text.slice(0, -1)],
    ['carriage returns', text.replaceAll('\n', '\r\n')],
    ['a blank line', text.replace('\n', '\n\n')],
  ];
  for (const [name, value] of bad) refuses('E_NONCE_FORM', () => parseFreshText(value), /./, name);
});

test('every other form of the document is refused', () => {
  const { text, ...rest } = JSON.parse(PROOF);
  const bad: [string, string | Uint8Array][] = [
    ['nothing', ''],
    ['no JSON', '{'],
    ['a list', '[]'],
    ['no UTF-8', Uint8Array.of(0x22, 0xff, 0x22)],
    ['a field less', JSON.stringify(rest)],
    ['a field more', changed({ more: 1 })],
    ['a signature of 63 bytes', changed({ sig: Buffer.alloc(63).toString('base64') })],
    ['URL-safe base64', changed({ sig: `${'-'.repeat(86)}==` })],
    ['a number', changed({ text: 1 })],
    ['too much', `${' '.repeat(MAX_NONCE_PROOF_BYTES)}${PROOF}`],
  ];
  for (const [name, value] of bad) {
    refuses('E_NONCE_FORM', () => verifyNonceProof(value, EXPECT), /./, name);
  }
  assert.ok(text.length < 700);
});

test('a nonce is 64 lowercase hex digits, and a string', () => {
  assert.ok(isNonce(NONCE));
  for (const value of [undefined, [NONCE], NONCE.slice(1), `${NONCE}\n`, 'AB'.repeat(32), 1, '']) {
    assert.ok(!isNonce(value), String(value));
  }
});
