import assert from 'node:assert/strict';
import { createPublicKey, verify } from 'node:crypto';
import { test } from 'node:test';
import { sign } from '../../src/ed25519.ts';
import { keyId } from '../../src/keyfile.ts';
import {
  MAX_ENVELOPE_BYTES,
  pae,
  parseEnvelope,
  requireSignatures,
  signEnvelope,
  verifiedBy,
} from '../../src/manifest/dsse.ts';
import { publicKey, refuses, secretKey } from '../helpers/trust.ts';

const TYPE = 'http://example.com/HelloWorld';
const BODY = Buffer.from('hello world');
const ALL = [publicKey(1), publicKey(2), publicKey(3)];

type Signature = { keyid?: unknown; sig?: unknown };
type Text = { payloadType: string; payload: string; signatures: Signature[] };
const signed = (...secrets: number[]): Text =>
  JSON.parse(signEnvelope(TYPE, BODY, secrets.map(secretKey))) as Text;
const parse = (value: unknown) => parseEnvelope(JSON.stringify(value));
const sigOf = (envelope: Text): string => String(envelope.signatures[0]?.sig);
const urlSafe = (text: string): string => text.replaceAll('+', '-').replaceAll('/', '_');

test("the PAE of DSSE's own protocol document is reproduced", () => {
  // secure-systems-lab/dsse, protocol.md, "Test Vectors".
  assert.equal(
    Buffer.from(pae(TYPE, BODY)).toString(),
    'DSSEv1 29 http://example.com/HelloWorld 11 hello world',
  );
});

test("DSSE's own test vector: its envelope is read, and its signature holds over our PAE", () => {
  // The same place. Its key is of another kind than ours, so node:crypto is asked alone.
  const { payload, payloadType, signatures } = parse({
    payload: 'aGVsbG8gd29ybGQ=',
    payloadType: TYPE,
    signatures: [
      {
        sig: 'A3JqsQGtVsJ2O2xqrI5IcnXip5GToJ3F+FnZ+O88SjtR6rDAajabZKciJTfUiHqJPcIAriEGAHTVeCUjW2JIZA==',
      },
    ],
  });
  assert.deepEqual(Buffer.from(payload), BODY);
  const coordinate = (decimal: string): string =>
    Buffer.from(BigInt(decimal).toString(16).padStart(64, '0'), 'hex').toString('base64url');
  const x = coordinate(
    '46950820868899156662930047687818585632848591499744589407958293238635476079160',
  );
  const y = coordinate(
    '5640078356564379163099075877009565129882514886557779369047442380624545832820',
  );
  const key = createPublicKey({ format: 'jwk', key: { kty: 'EC', crv: 'P-256', x, y } });
  const holds = (message: Uint8Array): boolean =>
    verify('sha256', message, { key, dsaEncoding: 'ieee-p1363' }, signatures[0]?.sig ?? BODY);
  assert.equal(holds(pae(payloadType, payload)), true);
  assert.equal(holds(pae(`${payloadType}s`, payload)), false);
});

test('the PAE counts bytes, not characters', () => {
  assert.equal(Buffer.from(pae('é', Buffer.from('€'))).toString(), 'DSSEv1 2 é 3 €');
  assert.equal(Buffer.from(pae('', new Uint8Array())).toString(), 'DSSEv1 0  0 ');
});

test('an envelope is read back, and all its signers are found', () => {
  const envelope = parse(signed(1, 2));
  assert.equal(envelope.payloadType, TYPE);
  assert.deepEqual(Buffer.from(envelope.payload), BODY);
  assert.deepEqual(verifiedBy(envelope, ALL), [publicKey(1), publicKey(2)]);
  assert.deepEqual(requireSignatures(envelope, ALL, 2, 'test'), [publicKey(1), publicKey(2)]);
});

test('k-1 signatures are refused, and the counts are named', () => {
  refuses(
    'E_SIGNATURE_THRESHOLD',
    () => requireSignatures(parse(signed(1)), ALL, 2, 'release'),
    /1 of 2 needed release keys/,
  );
  refuses('E_SIGNATURE_THRESHOLD', () => requireSignatures(parse(signed()), ALL, 1, 'release'));
});

test('no threshold lets an unsigned envelope pass', () => {
  refuses('E_SIGNATURE_THRESHOLD', () => requireSignatures(parse(signed()), ALL, 0, 'release'));
});

test('one key that signs twice counts once', () => {
  const once = signed(1);
  const twice = parse({ ...once, signatures: [...once.signatures, ...once.signatures] });
  assert.deepEqual(verifiedBy(twice, ALL), [publicKey(1)]);
  refuses('E_SIGNATURE_THRESHOLD', () => requireSignatures(twice, ALL, 2, 'test'));
});

test('one key that signs under two key ids counts once', () => {
  const once = signed(1);
  const sig = sigOf(once);
  const signatures = [
    { keyid: keyId(publicKey(1)), sig },
    { keyid: keyId(publicKey(2)), sig },
    { keyid: '', sig },
    { sig },
  ];
  const envelope = parse({ ...once, signatures });
  assert.deepEqual(verifiedBy(envelope, ALL), [publicKey(1)]);
  refuses('E_SIGNATURE_THRESHOLD', () => requireSignatures(envelope, ALL, 2, 'test'));
});

test('one key that signs in both base64 alphabets counts once', () => {
  const once = signed(1);
  const sig = sigOf(once);
  assert.notEqual(urlSafe(sig), sig);
  const signatures = [{ sig }, { sig: urlSafe(sig) }, { sig: urlSafe(sig).replace(/=+$/, '') }];
  const envelope = parse({ ...once, signatures });
  for (const entry of envelope.signatures) assert.equal(entry.sig.length, 64);
  assert.deepEqual(verifiedBy(envelope, ALL), [publicKey(1)]);
  refuses('E_SIGNATURE_THRESHOLD', () => requireSignatures(envelope, ALL, 2, 'test'));
});

test('one key that is listed twice counts once', () => {
  const keys = [publicKey(1), publicKey(1)];
  refuses('E_SIGNATURE_THRESHOLD', () => requireSignatures(parse(signed(1)), keys, 2, 'test'));
});

test('a payload in URL-safe base64 is read, padded or not', () => {
  const body = Buffer.of(0xfb, 0xff, 0xfe, 0x3f);
  const text = JSON.parse(signEnvelope(TYPE, body, [secretKey(1)])) as Text;
  for (const payload of ['+//+Pw==', '-__-Pw==', '-__-Pw']) {
    const envelope = parse({ ...text, payload });
    assert.deepEqual(Buffer.from(envelope.payload), body);
    assert.deepEqual(verifiedBy(envelope, ALL), [publicKey(1)]);
  }
});

test('a payload that is not base64 in one alphabet with zero unused bits is refused', () => {
  for (const payload of ['+__-Pw==', '+//+Px==', '+//+Pw=', '+//+Pw===', ' +//+Pw==', 'a', '*']) {
    refuses('E_ENVELOPE', () => parse({ ...signed(1), payload }), /base64/);
  }
});

test('a bad signature beside a good one is skipped', () => {
  const good = signed(1);
  const bad: unknown[] = [
    { keyid: keyId(publicKey(1)), sig: sigOf(signed(2)) },
    { sig: 'not base64!' },
    { sig: '' },
    { sig: 5 },
    {},
    null,
    'text',
  ];
  const envelope = parse({ ...good, signatures: [...bad, ...good.signatures] });
  assert.deepEqual(requireSignatures(envelope, [publicKey(1)], 1, 'test'), [publicKey(1)]);
});

test('a key id is a hint: wrong, missing or odd ones change no verdict', () => {
  const sig = sigOf(signed(1));
  for (const keyid of [keyId(publicKey(2)), 'x'.repeat(1000), null, 7, undefined]) {
    const envelope = parse({ ...signed(1), signatures: [{ keyid, sig }] });
    assert.deepEqual(verifiedBy(envelope, ALL), [publicKey(1)]);
  }
});

test('a signature by unknown keys only is told from one that does not hold', () => {
  const unknown = parse(signed(9));
  refuses('E_SIGNATURE_UNKNOWN_KEY', () => requireSignatures(unknown, ALL, 1, 'director'));
  const flipped = signed(1);
  const changed = parse({ ...flipped, payload: Buffer.from('hello World').toString('base64') });
  refuses('E_SIGNATURE', () => requireSignatures(changed, ALL, 1, 'director'), /does not hold/);
});

test('a signature over another payload type does not hold', () => {
  const envelope = parse({ ...signed(1), payloadType: `${TYPE}!` });
  refuses('E_SIGNATURE', () => requireSignatures(envelope, ALL, 1, 'test'));
});

test('a signature over the bare payload, without PAE, does not hold', () => {
  const sig = Buffer.from(sign(BODY, secretKey(1))).toString('base64');
  assert.deepEqual(verifiedBy(parse({ ...signed(1), signatures: [{ sig }] }), ALL), []);
});

test('unknown fields are ignored, also next to a signature', () => {
  const text = signed(1);
  const signatures = text.signatures.map((s) => ({ ...s, cert: 'x' }));
  const envelope = parse({ ...text, signatures, extra: { deep: [1.5] } });
  assert.deepEqual(verifiedBy(envelope, ALL), [publicKey(1)]);
});

test('32 signatures are all tried, and 33 are refused', () => {
  const good = signed(3).signatures;
  const filler = Array.from({ length: 31 }, () => ({ sig: sigOf(signed(9)) }));
  const envelope = parse({ ...signed(3), signatures: [...filler, ...good] });
  assert.deepEqual(verifiedBy(envelope, ALL), [publicKey(3)]);
  const many = { ...signed(3), signatures: [...filler, ...good, {}] };
  refuses('E_ENVELOPE', () => parse(many), /more than 32/);
});

test('an envelope of 60 KiB is read, and one byte more is refused before it is parsed', () => {
  const text = JSON.stringify(signed(1));
  const padded = text.padEnd(MAX_ENVELOPE_BYTES, ' ');
  assert.equal(MAX_ENVELOPE_BYTES, 61_440);
  assert.deepEqual(verifiedBy(parseEnvelope(padded), ALL), [publicKey(1)]);
  assert.deepEqual(verifiedBy(parseEnvelope(Buffer.from(padded)), ALL), [publicKey(1)]);
  refuses('E_ENVELOPE', () => parseEnvelope(`${padded} `), /61440 bytes/);
  refuses('E_ENVELOPE', () => parseEnvelope(Buffer.alloc(MAX_ENVELOPE_BYTES + 1)), /61440 bytes/);
  refuses('E_ENVELOPE', () => signEnvelope(TYPE, Buffer.alloc(46_000), [secretKey(1)]));
});

test('what is no envelope is refused by name', () => {
  const text = signed(1);
  for (const [value, pattern] of [
    [[], /object/],
    [null, /object/],
    ['x', /object/],
    [{ ...text, payloadType: 1 }, /payloadType/],
    [{ ...text, payload: undefined }, /payload/],
    [{ ...text, signatures: {} }, /signatures/],
    [{ ...text, signatures: undefined }, /signatures/],
  ] as const) {
    refuses('E_ENVELOPE', () => parse(value), pattern);
  }
  refuses('E_ENVELOPE', () => parseEnvelope(''));
  refuses('E_ENVELOPE', () => parseEnvelope(Buffer.of(0x22, 0xff, 0x22)));
  refuses('E_ENVELOPE', () => parseEnvelope('['.repeat(60_000)));
});

test('__proto__ in an envelope stands for nothing', () => {
  const text = JSON.stringify(signed(1));
  refuses('E_ENVELOPE', () => parseEnvelope(`{"__proto__":${text}}`), /payloadType/);
});
