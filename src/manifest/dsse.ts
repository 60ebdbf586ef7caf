// Envelope text ↔ payload and signatures: DSSE v1.0.2 (SPEC §2). At most 60 KiB and 32 signatures.
// A `keyid` is a hint that no verdict rests on; both base64 alphabets are read; unknown fields are
// ignored. Every signature is tried with every key; those that fail are skipped; signatures count by
// distinct public key, so one key that signs twice counts once.
// Refuses what is no envelope; `requireSignatures` refuses too few signatures.

import { decodeAnyBase64, encodeBase64 } from '../base64.ts';
import { sign, type Verifier, verify } from '../ed25519.ts';
import { FleetError } from '../errors.ts';
import { keyId, type PublicKey, publicKeyBytes, publicKeyOfSecret } from '../keyfile.ts';
import { canonicalize } from './jcs.ts';

export const MAX_ENVELOPE_BYTES = 60 * 1024;
const MAX_SIGNATURES = 32;

export type EnvelopeSignature = {
  readonly keyid: string;
  /** Empty when it was not base64: such a signature never verifies. */
  readonly sig: Uint8Array;
};

export type Envelope = {
  readonly payloadType: string;
  readonly payload: Uint8Array;
  readonly signatures: readonly EnvelopeSignature[];
};

/** DSSE's pre-authentication encoding: the bytes that are signed. SPEC §2.1 */
export function pae(payloadType: string, payload: Uint8Array): Uint8Array {
  const type = new TextEncoder().encode(payloadType);
  return Buffer.concat([
    Buffer.from(`DSSEv1 ${type.length} `),
    type,
    Buffer.from(` ${payload.length} `),
    payload,
  ]);
}

/**
 * Parses the JSON text of an envelope. SPEC §2.2
 * @throws FleetError E_ENVELOPE when it is too large or no envelope.
 */
export function parseEnvelope(text: Uint8Array | string): Envelope {
  const size = typeof text === 'string' ? Buffer.byteLength(text) : text.length;
  if (size > MAX_ENVELOPE_BYTES) refuse(`it has more than ${MAX_ENVELOPE_BYTES} bytes`);
  const fields = parseObject(text);
  const payloadType = fields.get('payloadType');
  const payload = fields.get('payload');
  const signatures = fields.get('signatures');
  if (typeof payloadType !== 'string') refuse('"payloadType" is missing');
  if (typeof payload !== 'string') refuse('"payload" is missing');
  if (!Array.isArray(signatures)) refuse('"signatures" is missing');
  if (signatures.length > MAX_SIGNATURES) refuse(`it has more than ${MAX_SIGNATURES} signatures`);
  const bytes = decodeAnyBase64(payload);
  if (bytes === undefined) refuse('"payload" is not base64');
  return { payloadType, payload: bytes, signatures: signatures.map(parseSignature) };
}

/** Signs `payload` with each of the 32-byte `secrets` and returns the envelope's text. SPEC §2.2 */
export function signEnvelope(
  payloadType: string,
  payload: Uint8Array,
  secrets: readonly Uint8Array[],
): string {
  const message = pae(payloadType, payload);
  const signatures = secrets.map((secret) => ({
    keyid: keyId(publicKeyOfSecret(secret)),
    sig: encodeBase64(sign(message, secret)),
  }));
  const text = canonicalize({ payloadType, payload: encodeBase64(payload), signatures });
  if (text.length > MAX_ENVELOPE_BYTES) refuse(`it would have ${text.length} bytes`);
  return text;
}

/** The envelope's text with one more signature, in place of one that is said to be by the same key. */
export function addSignature(envelope: Envelope, key: PublicKey, signature: Uint8Array): string {
  const keyid = keyId(key);
  const { payloadType, payload } = envelope;
  const others = envelope.signatures.filter((one) => one.keyid !== keyid);
  const signatures = [...others, { keyid, sig: signature }].map((one) => ({
    keyid: one.keyid,
    sig: encodeBase64(one.sig),
  }));
  const text = canonicalize({ payloadType, payload: encodeBase64(payload), signatures });
  parseEnvelope(text);
  return text;
}

/**
 * Those of `keys` that signed the envelope, each once, in the order of `keys`. SPEC §2.3
 * `verifier`: of a key, for whoever verifies much by the same ones.
 */
export function verifiedBy(
  envelope: Envelope,
  keys: readonly PublicKey[],
  verifier: (key: PublicKey) => Verifier = (key) => (sig, message) =>
    verify(sig, message, publicKeyBytes(key)),
): PublicKey[] {
  const message = pae(envelope.payloadType, envelope.payload);
  return [...new Set(keys)].filter((key) => {
    const holds = verifier(key);
    return envelope.signatures.some(({ sig }) => holds(sig, message));
  });
}

/**
 * Returns the distinct `keys` that signed the envelope, if there are at least `threshold` of them.
 * `role` names them in errors. SPEC §2.3
 * @throws FleetError E_SIGNATURE when a signature that names one of the keys fails and none holds;
 *   E_SIGNATURE_UNKNOWN_KEY when only other keys signed; E_SIGNATURE_THRESHOLD when too few did.
 */
export function requireSignatures(
  envelope: Envelope,
  keys: readonly PublicKey[],
  threshold: number,
  role: string,
): PublicKey[] {
  const signers = verifiedBy(envelope, keys);
  // A threshold of 0 would let an unsigned envelope pass; no caller may ask for that.
  if (signers.length >= Math.max(1, threshold)) return signers;
  if (signers.length > 0 || envelope.signatures.length === 0) {
    const count = `${signers.length} of ${threshold} needed`;
    throw new FleetError('E_SIGNATURE_THRESHOLD', `signed by ${count} ${role} keys`);
  }
  // The hint serves to say what went wrong, after the verdict is clear.
  const hints = new Set(envelope.signatures.map(({ keyid }) => keyid));
  const named = keys.find((key) => hints.has(keyId(key)));
  if (named === undefined) {
    throw new FleetError('E_SIGNATURE_UNKNOWN_KEY', `not signed by any ${role} key`);
  }
  throw new FleetError('E_SIGNATURE', `the signature by ${role} key ${keyId(named)} does not hold`);
}

function parseObject(text: Uint8Array | string): Map<string, unknown> {
  let json: unknown;
  try {
    json = JSON.parse(
      typeof text === 'string' ? text : new TextDecoder('utf-8', { fatal: true }).decode(text),
    );
  } catch {
    // Without the engine's message, which quotes the text: a secret may have been given by mistake.
    throw new FleetError('E_ENVELOPE', 'the envelope is not JSON');
  }
  if (typeof json !== 'object' || json === null || Array.isArray(json)) {
    refuse('it is not a JSON object');
  }
  return new Map(Object.entries(json));
}

function parseSignature(value: unknown): EnvelopeSignature {
  const fields = new Map<string, unknown>(
    typeof value === 'object' && value !== null ? Object.entries(value) : [],
  );
  const keyid = fields.get('keyid');
  const sig = fields.get('sig');
  return {
    keyid: typeof keyid === 'string' ? keyid : '',
    sig: (typeof sig === 'string' ? decodeAnyBase64(sig) : undefined) ?? new Uint8Array(),
  };
}

function refuse(what: string): never {
  throw new FleetError('E_ENVELOPE', `not an envelope: ${what}`);
}
