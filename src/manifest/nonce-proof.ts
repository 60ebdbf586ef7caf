// What the server's nonce key says to one question ↔ its text (SPEC §9.8): "at this time, asked with this
// nonce, this was the log's newest checkpoint". From it a host whose clock is no measure learns what time it
// is. Pure: no network, no clock; how long the answer took is the caller's to judge.
// Refuses any other form, keys that the root does not name as nonce keys, the answer to another question,
// another checkpoint than the one that was shown, and a time before one that was signed earlier.
import type { Static } from 'typebox';
import * as Type from 'typebox';
import { decodeBase64, encodeBase64 } from '../base64.ts';
import { sign, verify } from '../ed25519.ts';
import { FleetError } from '../errors.ts';
import { keyId, publicKeyBytes, publicKeyOfSecret } from '../keyfile.ts';
import { parseCheckpoint } from '../tlog/checkpoint.ts';
import { Exact } from './fields.ts';
import { CLOCK_SKEW_SECONDS } from './log-view.ts';
import type { Root } from './root.ts';
import { requireShape } from './shape.ts';
import { formatTime } from './time.ts';

/** More than any proof has; what is longer is not read. */
export const MAX_NONCE_PROOF_BYTES = 2048;

const HEAD = 'fleet-fresh/v1';

/** Ends in the checkpoint's three lines, of which only the origin can be long. */
const FORM = new RegExp(`^${HEAD}\\n([0-9a-f]{64})\\n(0|[1-9]\\d{0,11})\\n(.{1,512})$`, 's');

export const NonceProofSchema = Exact({
  text: Type.String({ maxLength: 700 }),
  /** A hint, as in envelopes. */
  keyid: Type.String({ pattern: '^[0-9a-f]{16}$' }),
  sig: Type.String({ pattern: '^[A-Za-z0-9+/]{86}==$' }),
});

/** What is signed. */
export type FreshText = {
  /** 64 lowercase hex digits. */
  readonly nonce: string;
  /** POSIX seconds. */
  readonly time: number;
  /** The checkpoint's text, without signatures. */
  readonly checkpoint: string;
};

/** True for 32 bytes as nonces are written. */
export function isNonce(value: unknown): value is string {
  return typeof value === 'string' && /^[0-9a-f]{64}$/.test(value);
}

/** @throws FleetError E_NONCE_FORM. */
export function parseFreshText(text: string): FreshText {
  const [, nonce, digits, checkpoint] = FORM.exec(text) ?? [];
  const time = Number(digits);
  if (nonce === undefined || checkpoint === undefined) {
    refuse('its text is not head, nonce, time and checkpoint');
  }
  try {
    formatTime(time);
    parseCheckpoint(checkpoint);
  } catch (cause) {
    throw new FleetError('E_NONCE_FORM', 'proof of time: no time, or no checkpoint', { cause });
  }
  return { nonce, time, checkpoint };
}

/** @throws FleetError E_NONCE_FORM for what parseFreshText would not accept. */
export function formatFreshText({ nonce, time, checkpoint }: FreshText): string {
  const text = `${HEAD}\n${nonce}\n${time}\n${checkpoint}`;
  parseFreshText(text);
  return text;
}

/** The proof as it is sent, signed by the 32-byte secret key. */
export function signNonceProof(fresh: FreshText, secret: Uint8Array): string {
  const text = formatFreshText(fresh);
  const proof: Static<typeof NonceProofSchema> = {
    text,
    keyid: keyId(publicKeyOfSecret(secret)),
    sig: encodeBase64(sign(Buffer.from(text), secret)),
  };
  return JSON.stringify(proof);
}

/**
 * The time that a proof proves, in POSIX seconds.
 * @throws FleetError E_NONCE_FORM, E_SIGNATURE, E_SIGNATURE_UNKNOWN_KEY, E_NONCE_OTHER, E_NONCE_CHECKPOINT,
 *   E_NONCE_OLD.
 */
export function verifyNonceProof(
  proof: Uint8Array | string,
  expect: {
    /** The newest root, verified. */
    readonly root: Pick<Root, 'nonce'>;
    /** What was asked with. */
    readonly nonce: string;
    /**
     * The text of the checkpoint that came with the manifest, without signatures; null, where only who answers
     * matters: any.
     */
    readonly checkpoint: string | null;
    /** The latest time that was signed before, or null. */
    readonly floor: number | null;
  },
): number {
  const { text, keyid, sig } = parseNonceProof(proof);
  const { keys } = expect.root.nonce;
  const signature = decodeBase64(sig) ?? new Uint8Array();
  const message = Buffer.from(text);
  if (!keys.some((key) => verify(signature, message, publicKeyBytes(key)))) {
    const isKnown = keys.some((key) => keyId(key) === keyid);
    if (isKnown) throw new FleetError('E_SIGNATURE', 'proof of time: its signature does not hold');
    const who = `proof of time: the root names no nonce key ${keyid}`;
    throw new FleetError('E_SIGNATURE_UNKNOWN_KEY', who);
  }
  const fresh = parseFreshText(text);
  if (fresh.nonce !== expect.nonce) {
    throw new FleetError('E_NONCE_OTHER', 'the proof of time answers another question than ours');
  }
  if (expect.checkpoint !== null && fresh.checkpoint !== expect.checkpoint) {
    const { size } = parseCheckpoint(fresh.checkpoint);
    const which = `a log of ${size} entries, which is not the one that was shown`;
    throw new FleetError('E_NONCE_CHECKPOINT', `the proof of time is of ${which}`);
  }
  // The two may come from two machines, whose clocks differ a little.
  if (fresh.time < (expect.floor ?? 0) - CLOCK_SKEW_SECONDS) {
    const times = `${formatTime(fresh.time)}, and ${formatTime(expect.floor ?? 0)} was signed before`;
    throw new FleetError('E_NONCE_OLD', `the proof of time says ${times}`);
  }
  return fresh.time;
}

function parseNonceProof(bytes: Uint8Array | string): Static<typeof NonceProofSchema> {
  if (bytes.length > MAX_NONCE_PROOF_BYTES) {
    refuse(`it has more than ${MAX_NONCE_PROOF_BYTES} bytes`);
  }
  let json: unknown;
  try {
    const isText = typeof bytes === 'string';
    json = JSON.parse(isText ? bytes : new TextDecoder('utf-8', { fatal: true }).decode(bytes));
  } catch (cause) {
    throw new FleetError('E_NONCE_FORM', 'proof of time: it is not JSON', { cause });
  }
  return requireShape(NonceProofSchema, json, 'E_NONCE_FORM', 'proof of time');
}

function refuse(what: string): never {
  throw new FleetError('E_NONCE_FORM', `proof of time: ${what}`);
}
