// The text of a signed note ↔ its body and signature lines (C2SP signed-note, SPEC §9.2). The last blank
// line splits; at most 32 lines. Signatures of unknown keys are ignored; one that a known key should have
// made and did not refuses the whole note, and so do two lines of one key, known or not. Refuses control
// characters, what is not UTF-8, and base64 in any other spelling than the one.
import { decodeBase64, encodeBase64 } from '../base64.ts';
import { sign, verify } from '../ed25519.ts';
import { FleetError } from '../errors.ts';
import { publicKeyBytes } from '../keyfile.ts';
import { NOTE_COSIGNATURE, NOTE_ED25519, noteKeyId, type VerifierKey } from './vkey.ts';

export type NoteSignature = {
  readonly name: string;
  /** The first 4 bytes of the base64, 8 lowercase hex digits. */
  readonly keyId: string;
  /** What follows them; never empty. */
  readonly signature: Uint8Array;
};

export type Note = {
  /** With its last newline. This is what is signed. */
  readonly text: string;
  readonly signatures: readonly NoteSignature[];
};

/** A known key that signed, and its line; `time`, in POSIX seconds, is what a cosignature adds. */
export type Signed = {
  readonly key: VerifierKey;
  readonly time: number | null;
  readonly line: NoteSignature;
};

const MAX_NOTE_BYTES = 64 * 1024;
const MAX_LINES = 32;
const COSIGNATURE_HEAD = 'cosignature/v1\ntime ';

/** @throws FleetError E_NOTE. */
export function parseNote(bytes: Uint8Array | string): Note {
  const raw = typeof bytes === 'string' ? Buffer.from(bytes) : bytes;
  if (raw.length > MAX_NOTE_BYTES) refuse(`it has more than ${MAX_NOTE_BYTES} bytes`);
  const whole = decodeUtf8(raw);
  const isString = typeof bytes === 'string';
  if ((isString && whole !== bytes) || raw.some((byte) => byte < 0x20 && byte !== 0x0a)) {
    refuse('it is not plain UTF-8 text');
  }
  if (!whole.endsWith('\n')) refuse('it has no newline at its end');
  const split = whole.lastIndexOf('\n\n');
  if (split === -1) refuse('no blank line stands before its signatures');
  const lines = whole.slice(split + 2, -1).split('\n');
  if (lines.length > MAX_LINES) refuse(`it has more than ${MAX_LINES} signature lines`);
  const signatures = lines.map(parseLine);
  const names = new Set(signatures.map(({ name, keyId }) => `${name} ${keyId}`));
  if (names.size < signatures.length) refuse('one key has two signature lines');
  return { text: whole.slice(0, split + 1), signatures };
}

/** @throws FleetError E_NOTE for what parseNote would not accept. */
export function formatNote({ text, signatures }: Note): string {
  const lines = signatures.map(({ name, keyId, signature }) => {
    const body = Buffer.concat([Buffer.from(keyId, 'hex'), signature]);
    return `— ${name} ${encodeBase64(body)}\n`;
  });
  const whole = `${text}\n${lines.join('')}`;
  if (parseNote(whole).text !== text) refuse('its text would be cut');
  return whole;
}

/**
 * Those of the `known` keys that signed the note, in the order of its lines.
 * @throws FleetError E_NOTE_SIGNATURE when a line bears a known key's name and ID and does not hold.
 */
export function verifyNote({ text, signatures }: Note, known: readonly VerifierKey[]): Signed[] {
  const all: Signed[] = [];
  for (const line of signatures) {
    const { name, keyId, signature } = line;
    const key = known.find((one) => one.name === name && noteKeyId(one) === keyId);
    if (key === undefined) continue;
    const { message, bytes, time } = signedBy(key, text, signature);
    if (!verify(bytes, message, publicKeyBytes(key.publicKey))) {
      throw new FleetError('E_NOTE_SIGNATURE', `the signature by ${name} does not hold`);
    }
    all.push({ key, time, line });
  }
  return all;
}

/** The line of an Ed25519 note key (type 0x01) under `text`. */
export function signNote(text: string, key: VerifierKey, secret: Uint8Array): NoteSignature {
  const signature = sign(Buffer.from(text), secret);
  return { name: key.name, keyId: noteKeyId(key), signature };
}

/**
 * The line of a cosigner (type 0x04, C2SP tlog-cosignature): "at `time` this was the newest checkpoint that
 * I saw". `time` is in whole POSIX seconds.
 */
export function cosignNote(
  text: string,
  time: number,
  key: VerifierKey,
  secret: Uint8Array,
): NoteSignature {
  const stamp = Buffer.alloc(8);
  stamp.writeBigUInt64BE(BigInt(time));
  const signature = sign(Buffer.from(`${COSIGNATURE_HEAD}${time}\n${text}`), secret);
  const body = Uint8Array.from(Buffer.concat([stamp, signature]));
  return { name: key.name, keyId: noteKeyId(key), signature: body };
}

/** What the key is said to have signed; a cosignature too short for its time fits no signature. */
function signedBy(
  { type }: VerifierKey,
  text: string,
  signature: Uint8Array,
): { message: Uint8Array; bytes: Uint8Array; time: number | null } {
  switch (type) {
    case NOTE_ED25519:
      return { message: Buffer.from(text), bytes: signature, time: null };
    case NOTE_COSIGNATURE: {
      const stamp = signature.length < 8 ? -1n : Buffer.from(signature).readBigUInt64BE();
      const message = Buffer.from(`${COSIGNATURE_HEAD}${stamp}\n${text}`);
      // No time of ours is that late; its number would not be exact.
      const isTime = stamp >= 0n && stamp <= BigInt(Number.MAX_SAFE_INTEGER);
      const bytes = isTime ? signature.subarray(8) : new Uint8Array();
      return { message, bytes, time: Number(stamp) };
    }
  }
}

function parseLine(line: string): NoteSignature {
  const match = /^— ([^\s\u0085+]+) ([A-Za-z0-9+/=]+)$/u.exec(line);
  const body = decodeBase64(match?.[2] ?? '');
  if (match?.[1] === undefined || body === undefined || body.length < 5) {
    refuse('a signature line is not of the form "— name base64"');
  }
  const keyId = Buffer.from(body.subarray(0, 4)).toString('hex');
  return { name: match[1], keyId, signature: body.subarray(4) };
}

function decodeUtf8(bytes: Uint8Array): string {
  try {
    // A byte order mark would be dropped otherwise, and the signed bytes be others than these.
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    refuse('it is not plain UTF-8 text');
  }
}

function refuse(what: string): never {
  throw new FleetError('E_NOTE', `not a signed note: ${what}`);
}
