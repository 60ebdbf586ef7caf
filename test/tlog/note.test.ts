import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { encodeBase64 } from '../../src/base64.ts';
import { isFleetError } from '../../src/errors.ts';
import { publicKeyBytes } from '../../src/keyfile.ts';
import { formatCheckpoint, parseCheckpoint } from '../../src/tlog/checkpoint.ts';
import { hashLeaf } from '../../src/tlog/merkle.ts';
import { cosignNote, formatNote, parseNote, signNote, verifyNote } from '../../src/tlog/note.ts';
import { formatLogProof, parseLogProof } from '../../src/tlog/proof.ts';
import {
  NOTE_COSIGNATURE,
  NOTE_ED25519,
  noteKeyId,
  parseVerifierKey,
  type VerifierKey,
} from '../../src/tlog/vkey.ts';
import { publicKey, refuses, SECRETS, secretKey } from '../helpers/trust.ts';

// The example of C2SP signed-note.
const EXAMPLE_KEY = 'example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k';
const EXAMPLE =
  'This is an example message.\n\n— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n';

const LOG: VerifierKey = { name: 'f.test/log/1', type: NOTE_ED25519, publicKey: publicKey(4) };
const FRESH: VerifierKey = {
  name: 'f.test/freshness',
  type: NOTE_COSIGNATURE,
  publicKey: publicKey(5),
};
/** Who signed, and when. */
const who = (...args: Parameters<typeof verifyNote>) =>
  verifyNote(...args).map(({ key, time }) => ({ key, time }));

const TEXT = formatCheckpoint({ origin: LOG.name, size: 5, root: hashLeaf(Buffer.from('x')) });
const TIME = 1_800_000_000;
const GOOD = formatNote({
  text: TEXT,
  signatures: [signNote(TEXT, LOG, SECRETS.log), cosignNote(TEXT, TIME, FRESH, SECRETS.freshness)],
});

test('the example of C2SP signed-note is read, verified and written again', () => {
  const key = parseVerifierKey(EXAMPLE_KEY, NOTE_ED25519);
  const note = parseNote(EXAMPLE);
  assert.equal(note.text, 'This is an example message.\n');
  assert.deepEqual(who(note, [key]), [{ key, time: null }]);
  assert.equal(formatNote(note), EXAMPLE);
  const changed = parseNote(EXAMPLE.replace('an example', 'no example'));
  refuses('E_NOTE_SIGNATURE', () => verifyNote(changed, [key]));
});

test('a checkpoint with log signature and cosignature: who signed, and when', () => {
  const note = parseNote(Buffer.from(GOOD));
  assert.deepEqual(who(note, [FRESH, LOG]), [
    { key: LOG, time: null },
    { key: FRESH, time: TIME },
  ]);
  assert.equal(formatNote(note), GOOD);
  assert.equal(parseCheckpoint(note.text).size, 5);
});

test('lines of unknown keys are ignored, even with a known name or a known ID', () => {
  const other = { ...LOG, publicKey: publicKey(9) };
  const signatures = [
    signNote(TEXT, other, secretKey(9)),
    signNote(TEXT, { ...LOG, name: 'elsewhere' }, SECRETS.log),
    { name: 'elsewhere', keyId: noteKeyId(LOG), signature: Uint8Array.of(1) },
    signNote(TEXT, LOG, SECRETS.log),
  ];
  const note = parseNote(formatNote({ text: TEXT, signatures }));
  assert.deepEqual(who(note, [LOG]), [{ key: LOG, time: null }]);
  assert.deepEqual(who(note, []), []);
});

test('one line of a known key that does not hold refuses the note, whatever else holds', () => {
  const bad = { name: FRESH.name, keyId: noteKeyId(FRESH) };
  const good = cosignNote(TEXT, TIME, FRESH, SECRETS.freshness).signature;
  const late = Uint8Array.from(good);
  late.set(Buffer.from('ffffffffffffffff', 'hex'));
  const moved = Uint8Array.from(good);
  moved[7] = (moved[7] ?? 0) ^ 1;
  for (const signature of [
    ...[Uint8Array.of(1), good.subarray(0, 7), good.subarray(0, 8), good.subarray(8)],
    ...[late, moved, Uint8Array.from([...good, 0])],
    signNote(TEXT, LOG, SECRETS.log).signature,
  ]) {
    const signatures = [signNote(TEXT, LOG, SECRETS.log), { ...bad, signature }];
    const note = parseNote(formatNote({ text: TEXT, signatures }));
    refuses('E_NOTE_SIGNATURE', () => verifyNote(note, [LOG, FRESH]));
    assert.equal(verifyNote(note, [LOG]).length, 1);
  }
});

test('what is no note is refused', () => {
  const line = GOOD.split('\n').at(-2) ?? '';
  for (const [what, text] of Object.entries({
    empty: '',
    'no newline at the end': GOOD.slice(0, -1),
    'no signatures': TEXT,
    'no blank line': `${TEXT}${line}\n`,
    'a blank line at the end': `${GOOD}\n`,
    'carriage returns': GOOD.replaceAll('\n', '\r\n'),
    'a tab': GOOD.replace('log', 'l\tg'),
    'a NUL': GOOD.replace('log', 'l\0g'),
    'a lone surrogate': GOOD.replace('log', 'l\ud800g'),
    'a hyphen for the dash': GOOD.replaceAll('— ', '- '),
    'no name': GOOD.replace(`— ${LOG.name}`, '—'),
    'a plus in the name': GOOD.replace(`— ${LOG.name}`, '— a+b'),
    'a no-break space in the name': GOOD.replace(`— ${LOG.name}`, '— a\u00a0b'),
    'only a key ID': `${TEXT}\n— a ${encodeBase64(Uint8Array.of(1, 2, 3, 4))}\n`,
    'base64 with loose bits': `${TEXT}\n— a AAAAAAB=\n`,
    base64url: `${TEXT}\n— a __--__--\n`,
    'a space at the end of a line': GOOD.replace(/=\n$/, '= \n'),
    'two lines of one key': `${GOOD}${line}\n`,
    '33 lines': `${TEXT}\n${Array.from({ length: 33 }, (_, i) => `— n${i} AAAAAAAA\n`).join('')}`,
    '65 KiB': `${'x'.repeat(65 * 1024)}\n\n${line}\n`,
  })) {
    refuses('E_NOTE', () => parseNote(text), /./, what);
  }
  refuses('E_NOTE', () => parseNote(Buffer.from([0xff, 0x0a, 0x0a])));
  refuses('E_NOTE', () => parseNote(Buffer.concat([Buffer.from([0xc0, 0x80]), Buffer.from(GOOD)])));
  const many = Array.from({ length: 32 }, (_, i) => `— n${i} AAAAAAAA\n`).join('');
  assert.equal(parseNote(`${TEXT}\n${many}`).signatures.length, 32);
  refuses('E_NOTE', () => formatNote({ text: 'no newline', signatures: [] }));
  refuses('E_NOTE', () => formatNote({ text: 'a\n\n— b AAAAAAAA\n', signatures: [] }));
});

test('the last blank line splits: text may hold blank lines, and lines like signatures', () => {
  const text = `a\n\n— b AAAAAAAA\n\nc\n`;
  const note = parseNote(formatNote({ text, signatures: [signNote(text, LOG, SECRETS.log)] }));
  assert.equal(note.text, text);
  assert.equal(verifyNote(note, [LOG]).length, 1);
});

test('a flipped bit anywhere: refused, or not signed by the key, or of an unknown line', () => {
  const bytes = Buffer.from(GOOD);
  fc.assert(
    fc.property(fc.nat(bytes.length * 8 - 1), (bit) => {
      const changed = Buffer.from(bytes);
      changed[bit >> 3] = (changed[bit >> 3] ?? 0) ^ (1 << (bit & 7));
      try {
        const note = parseNote(changed);
        const signed = verifyNote(note, [LOG, FRESH]);
        assert.ok(signed.length < 2);
        if (signed.length > 0) assert.equal(note.text, TEXT);
      } catch (error) {
        if (!isFleetError(error, 'E_NOTE', 'E_NOTE_SIGNATURE')) throw error;
      }
    }),
    { numRuns: 500 },
  );
});

test('a checkpoint is three lines and nothing else', () => {
  const root = encodeBase64(hashLeaf(Buffer.from('x')));
  const { size } = parseCheckpoint(`o\n9007199254740991\n${root}\n`);
  assert.equal(size, Number.MAX_SAFE_INTEGER);
  assert.equal(parseCheckpoint(`o\n0\n${root}\n`).size, 0);
  for (const text of [
    '',
    `o\n5\n${root}`,
    `o\n5\n${root}\nextension\n`,
    `o\n05\n${root}\n`,
    `o\n-5\n${root}\n`,
    `o\n5.0\n${root}\n`,
    `o\n5e1\n${root}\n`,
    `o\n9007199254740992\n${root}\n`,
    `o\n18446744073709551615\n${root}\n`,
    `\n5\n${root}\n`,
    `a b\n5\n${root}\n`,
    `a+b\n5\n${root}\n`,
    `o\n5\n${root.slice(0, -2)}B=\n`,
    `o\n5\n${encodeBase64(new Uint8Array(31))}\n`,
    `o\n5\n${encodeBase64(new Uint8Array(33))}\n`,
  ]) {
    refuses('E_CHECKPOINT', () => parseCheckpoint(text), /./, text);
  }
  const bad = { origin: 'a b', size: 1, root: new Uint8Array(32) };
  refuses('E_CHECKPOINT', () => formatCheckpoint(bad));
});

test('a log proof survives being written and read, and nothing else is one', () => {
  const hash = fc.uint8Array({ minLength: 32, maxLength: 32 });
  fc.assert(
    fc.property(
      fc.option(fc.uint8Array({ maxLength: 100 })),
      fc.maxSafeNat(),
      fc.array(hash, { maxLength: 53 }),
      (extra, index, hashes) => {
        const proof = { extra, index, hashes, checkpoint: GOOD };
        const text = formatLogProof(proof);
        const back = parseLogProof(text);
        assert.deepEqual(
          { ...back, hashes: back.hashes.map((one) => Uint8Array.from(one)) },
          proof,
        );
      },
    ),
  );
  const good = formatLogProof({
    extra: null,
    index: 3,
    hashes: [new Uint8Array(32)],
    checkpoint: GOOD,
  });
  for (const [from, to] of [
    ['@v1', '@v2'],
    ['index 3', 'index 03'],
    ['index 3', 'index -3'],
    ['index 3', 'index 9007199254740992'],
    ['index 3\n', ''],
    ['index 3', 'extra ?\nindex 3'],
    ['index 3', 'extra AA==\nextra AA==\nindex 3'],
    ['AAA=\n', 'AA=\n'],
    ['\n\n', '\n'],
    ['index 3\n', `index 3\n${`${encodeBase64(new Uint8Array(32))}\n`.repeat(53)}`],
  ] as const) {
    assert.notEqual(good.replace(from, to), good);
    refuses('E_LOG_PROOF', () => parseLogProof(good.replace(from, to)), /./, `${from} ${to}`);
  }
});

test('the key ID is what C2SP says: four bytes of a hash over name, type and key', () => {
  assert.equal(noteKeyId(parseVerifierKey(EXAMPLE_KEY, NOTE_ED25519)), '530d903a');
  assert.equal(publicKeyBytes(LOG.publicKey).length, 32);
  assert.notEqual(noteKeyId(LOG), noteKeyId({ ...LOG, type: NOTE_COSIGNATURE }));
});
