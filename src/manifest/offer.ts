// All that a host needs to decide, in one answer ↔ its fields (SPEC §8). Nothing in an offer is trusted
// because it is in an offer: roots and manifest are envelopes to be verified, the checkpoint is a signed
// note, hashes prove or do not, and `closure` only repeats what the manifest signs. Refuses offers that are
// too large, unknown fields, and, before it looks at anything else, a format or a least agent version that is
// too new for this agent.
import type { Static } from 'typebox';
import * as Type from 'typebox';
import { decodeBase64, encodeBase64 } from '../base64.ts';
import { FleetError } from '../errors.ts';
import { MAX_ENVELOPE_BYTES } from './dsse.ts';
import { Count, Exact, Nullable, Ordinal, Sha256 } from './fields.ts';
import { type Frozen, requireShape } from './shape.ts';

export const OFFER_VERSION = 2;
/** What this agent understands; an offer names the least that it needs. */
export const AGENT_VERSION = 2;
/** At most so many roots in one offer; a host that lags further behind asks again. */
export const MAX_OFFER_ROOTS = 16;
/** Every envelope may double when it becomes a JSON string. */
export const MAX_OFFER_BYTES = 2 * MAX_ENVELOPE_BYTES * (MAX_OFFER_ROOTS + 2) + 64 * 1024;

const EnvelopeText = Type.Refine(
  Type.String(),
  (text) => Buffer.byteLength(text) <= MAX_ENVELOPE_BYTES,
  () => `must have at most ${MAX_ENVELOPE_BYTES} bytes`,
);

/** Hashes in standard base64; a tree of 2^53 leaves has no longer proof. */
const Proof = Type.Array(Type.String({ pattern: '^[A-Za-z0-9+/]{43}=$' }), { maxItems: 54 });

export const OfferSchema = Exact({
  offerVersion: Type.Literal(OFFER_VERSION),
  minAgent: Ordinal,
  /** Envelopes of the roots newer than the one asked from, in order. */
  roots: Type.Array(EnvelopeText, { maxItems: MAX_OFFER_ROOTS }),
  checkpoint: Type.String({ maxLength: 8192 }),
  /** That the log goes on from the size asked from, and from the newest root's anchor. */
  growth: Proof,
  anchor: Proof,
  /** The log's last entry. */
  snapshot: Exact({ text: Type.String({ maxLength: 1024 }), proof: Proof }),
  /** What the snapshot says of the host, and its place among the hosts. */
  entry: Exact({ index: Count, epoch: Ordinal, sequence: Ordinal, sha256: Sha256, proof: Proof }),
  manifest: EnvelopeText,
  /** The manifest's place in the log. */
  logged: Exact({ index: Count, proof: Proof }),
  /** What release keys said of the manifest, its place in their batch, and the approval's in the log. */
  approval: Nullable(
    Exact({
      envelope: EnvelopeText,
      index: Count,
      proof: Proof,
      logged: Exact({ index: Count, proof: Proof }),
    }),
  ),
  /** null when the manifest ends the host. */
  closure: Nullable(Exact({ sha256: Sha256, bytes: Ordinal })),
});

export type Offer = Frozen<Static<typeof OfferSchema>>;

/** @throws FleetError E_OFFER_VERSION, E_OFFER_FORM. */
export function parseOffer(text: Uint8Array | string): Offer {
  const size = typeof text === 'string' ? Buffer.byteLength(text) : text.length;
  if (size > MAX_OFFER_BYTES) refuse(`it has more than ${MAX_OFFER_BYTES} bytes`);
  let json: unknown;
  try {
    json = JSON.parse(
      typeof text === 'string' ? text : new TextDecoder('utf-8', { fatal: true }).decode(text),
    );
  } catch (cause) {
    throw new FleetError('E_OFFER_FORM', 'offer: it is not JSON', { cause });
  }
  if (typeof json === 'object' && json !== null) {
    requireVersion('offerVersion', Reflect.get(json, 'offerVersion'), OFFER_VERSION);
    requireVersion('minAgent', Reflect.get(json, 'minAgent'), AGENT_VERSION);
  }
  return requireShape(OfferSchema, json, 'E_OFFER_FORM', 'offer');
}

/** The offer's text. @throws FleetError E_OFFER_FORM for what parseOffer would not accept. */
export function formatOffer(offer: Offer): string {
  return JSON.stringify(requireShape(OfferSchema, offer, 'E_OFFER_FORM', 'offer'));
}

/** The hashes of a proof as an offer has them, and back. */
export function formatProof(hashes: readonly Uint8Array[]): string[] {
  return hashes.map(encodeBase64);
}

export function parseProof(texts: readonly string[]): Uint8Array[] {
  return texts.map((text) => decodeBase64(text) ?? new Uint8Array());
}

function requireVersion(name: string, value: unknown, known: number): void {
  if (typeof value !== 'number' || value <= known) return;
  const versions = `its ${name} is ${value}, and this agent knows ${known}`;
  throw new FleetError('E_OFFER_VERSION', `the offer is too new: ${versions}`);
}

function refuse(what: string): never {
  throw new FleetError('E_OFFER_FORM', `offer: ${what}`);
}
