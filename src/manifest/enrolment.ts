// A new host's request to be enrolled ↔ its fields (SPEC §7.2). It is signed by the very key it
// announces, which proves that the host holds it, and names the invitation it answers by its hash.
// Refuses unknown fields, and another fleet's, host's or invitation's request.
import { createHash } from 'node:crypto';
import type { Static } from 'typebox';
import { FleetError } from '../errors.ts';
import { publicKeyOfSecret } from '../keyfile.ts';
import { type Envelope, requireSignatures, signEnvelope } from './dsse.ts';
import { Exact, FleetName, HostId, PublicKeyText, Sha256 } from './fields.ts';
import { canonicalBytes, parseCanonical } from './jcs.ts';
import { type Frozen, requireShape } from './shape.ts';

export const ENROL_REQUEST_PAYLOAD_TYPE = 'application/vnd.fleet.enroll+json';

/** The payload of an enrolment request. */
export const EnrolRequestSchema = Exact({
  fleet: FleetName,
  host: HostId,
  publicKey: PublicKeyText,
  /** SHA-256 of the enrol file's secret, in hex: the secret itself is never signed or stored. */
  invitation: Sha256,
});

export type EnrolRequest = Frozen<Static<typeof EnrolRequestSchema>>;

/** What a request says instead of the secret. SPEC §7.2 */
export function invitationOf(secret: string): string {
  return createHash('sha256').update(secret).digest('hex');
}

/** The envelope of a request, signed by the new host key. `secret` is the enrol file's. SPEC §7.2 */
export function signEnrolRequest(
  request: { readonly fleet: string; readonly host: string; readonly secret: string },
  hostKey: Uint8Array,
): string {
  const { fleet, host, secret } = request;
  const publicKey = publicKeyOfSecret(hostKey);
  const payload = canonicalBytes({ fleet, host, publicKey, invitation: invitationOf(secret) });
  parseEnrolRequest(payload);
  return signEnvelope(ENROL_REQUEST_PAYLOAD_TYPE, payload, [hostKey]);
}

/** @throws FleetError E_PAYLOAD_FORM, E_ENROL_FORM. */
function parseEnrolRequest(payload: Uint8Array): EnrolRequest {
  const what = 'enrolment request';
  return requireShape(EnrolRequestSchema, parseCanonical(payload), 'E_ENROL_FORM', what);
}

/**
 * The request in an envelope, which must answer this invitation. The caller also asks
 * `requireHostKey` of the newest root.
 * @throws FleetError E_ENROL_FORM, E_PAYLOAD_FORM, E_SIGNATURE…, E_FLEET_MISMATCH, E_HOST_MISMATCH.
 */
export function verifyEnrolRequest(
  envelope: Envelope,
  expect: { readonly fleet: string; readonly host: string; readonly invitation: string },
): EnrolRequest {
  if (envelope.payloadType !== ENROL_REQUEST_PAYLOAD_TYPE) {
    throw new FleetError('E_ENROL_FORM', 'the envelope holds something else than a request');
  }
  const request = parseEnrolRequest(envelope.payload);
  requireSignatures(envelope, [request.publicKey], 1, `host (${request.host})`);
  if (request.fleet !== expect.fleet) {
    throw new FleetError('E_FLEET_MISMATCH', `the request is for fleet ${request.fleet}`);
  }
  if (request.host !== expect.host) {
    throw new FleetError('E_HOST_MISMATCH', `the request is for ${request.host}`);
  }
  if (request.invitation !== expect.invitation) {
    throw new FleetError('E_ENROL_FORM', 'the request answers another invitation');
  }
  return request;
}
