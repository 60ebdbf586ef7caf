// A host's request for its next token ↔ its fields (SPEC §7.4). The host makes the token itself and says only its
// hash, and that of the one it follows; its key signs that. So a stolen token gets no successor, a request that
// is overheard or sent again gives nobody anything, and an answer that is lost is asked for again.
// Refuses unknown fields, another fleet's or host's request, and one about another token than the one that it comes with.
import type { Static } from 'typebox';
import { FleetError } from '../errors.ts';
import type { PublicKey } from '../keyfile.ts';
import { type Envelope, requireSignatures, signEnvelope } from './dsse.ts';
import { Exact, FleetName, HostId, Sha256 } from './fields.ts';
import { canonicalBytes, parseCanonical } from './jcs.ts';
import { type Frozen, requireShape } from './shape.ts';

export const TOKEN_REQUEST_PAYLOAD_TYPE = 'application/vnd.fleet.token+json';

/** SHA-256, in hex, of tokens as text. */
export const TokenRequestSchema = Exact({
  fleet: FleetName,
  host: HostId,
  /** The token that the request comes with. */
  replaces: Sha256,
  /** The one that is to follow it. */
  token: Sha256,
});

export type TokenRequest = Frozen<Static<typeof TokenRequestSchema>>;

/** The envelope of a request, signed by the host's 32-byte secret key. */
export function signTokenRequest(request: TokenRequest, hostKey: Uint8Array): string {
  const payload = canonicalBytes({ ...request });
  parseTokenRequest(payload);
  return signEnvelope(TOKEN_REQUEST_PAYLOAD_TYPE, payload, [hostKey]);
}

/**
 * The request in an envelope, by the key that the host is enrolled with.
 * @throws FleetError E_TOKEN_REQUEST, E_PAYLOAD_FORM, E_SIGNATURE…, E_FLEET_MISMATCH, E_HOST_MISMATCH.
 */
export function verifyTokenRequest(
  envelope: Envelope,
  expect: {
    readonly publicKey: PublicKey;
    readonly fleet: string;
    readonly host: string;
    /** The token that it came with; left out by an auditor, who knows of none. */
    readonly replaces?: string;
  },
): TokenRequest {
  requireSignatures(envelope, [expect.publicKey], 1, `host (${expect.host})`);
  if (envelope.payloadType !== TOKEN_REQUEST_PAYLOAD_TYPE) {
    refuse('the envelope holds something else');
  }
  const request = parseTokenRequest(envelope.payload);
  if (request.fleet !== expect.fleet) {
    throw new FleetError('E_FLEET_MISMATCH', `the request is for fleet ${request.fleet}`);
  }
  if (request.host !== expect.host) {
    throw new FleetError('E_HOST_MISMATCH', `the request is for ${request.host}`);
  }
  if (expect.replaces !== undefined && request.replaces !== expect.replaces) {
    refuse('it is about another token than the one that it came with');
  }
  return request;
}

/** Unverified. @throws FleetError E_TOKEN_REQUEST, E_PAYLOAD_FORM. */
export function parseTokenRequest(payload: Uint8Array): TokenRequest {
  const json = parseCanonical(payload);
  const request = requireShape(TokenRequestSchema, json, 'E_TOKEN_REQUEST', 'token request');
  if (request.token !== request.replaces) return request;
  refuse('a token does not follow itself');
}

function refuse(what: string): never {
  throw new FleetError('E_TOKEN_REQUEST', `token request: ${what}`);
}
