// How a host's key comes to be known. A new host's request to be enrolled ↔ its fields (SPEC §7.2), and what
// the director says of it in the log (SPEC §7.3), so that auditors know whose receipts are whose. A request is signed by the very key it
// announces, which proves that the host holds it, and names the invitation it answers by its hash.
// Refuses unknown fields, and another fleet's, host's or invitation's request.
import { createHash } from 'node:crypto';
import type { Static } from 'typebox';
import { FleetError } from '../errors.ts';
import { publicKeyBytes, publicKeyOfSecret } from '../keyfile.ts';
import { type Envelope, requireSignatures, signEnvelope } from './dsse.ts';
import { Exact, FleetName, HostId, Nullable, PublicKeyText, Sha256 } from './fields.ts';
import { canonicalBytes, parseCanonical } from './jcs.ts';
import { type Frozen, requireShape } from './shape.ts';
import {
  formatStatement,
  parseStatement,
  requireSubjects,
  STATEMENT_PAYLOAD_TYPE,
  type Subject,
} from './statement.ts';

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

export const ENROLMENT_PREDICATE_TYPE = 'urn:fleet:enrolment:v1';

export const EnrolmentSchema = Exact({
  fleet: FleetName,
  host: HostId,
  publicKey: PublicKeyText,
  /** The key that this one takes the place of. */
  replaces: Nullable(PublicKeyText),
});

/** What the director says of a host's key. */
export type Enrolment = Frozen<Static<typeof EnrolmentSchema>>;

/** The envelope of an enrolment; `director` is the 32-byte secret key. SPEC §7.3 */
export function signEnrolment(enrolment: Enrolment, director: Uint8Array): string {
  const statement = { subjects: subjectsOf(enrolment), predicate: { ...enrolment } };
  const payload = formatStatement(ENROLMENT_PREDICATE_TYPE, statement);
  parseEnrolment(payload);
  return signEnvelope(STATEMENT_PAYLOAD_TYPE, payload, [director]);
}

/** What an enrolment says, whoever signed it. @throws FleetError E_PAYLOAD_FORM, E_ENROL_FORM. */
export function parseEnrolment(payload: Uint8Array): Enrolment {
  const what = 'enrolment';
  const { subjects, predicate } = parseStatement(
    payload,
    ENROLMENT_PREDICATE_TYPE,
    'E_ENROL_FORM',
    what,
  );
  const enrolment = requireShape(EnrolmentSchema, predicate, 'E_ENROL_FORM', what);
  requireSubjects(subjects, subjectsOf(enrolment), 'E_ENROL_FORM', what);
  if (enrolment.publicKey !== enrolment.replaces) return enrolment;
  throw new FleetError('E_ENROL_FORM', 'enrolment: the key replaces itself');
}

function subjectsOf({ host, publicKey }: Enrolment): Subject[] {
  const sha256 = createHash('sha256').update(publicKeyBytes(publicKey)).digest('hex');
  return [{ name: `key of ${host}`, sha256 }];
}
