// What passes by hand and over the line when a host enrols (SPEC §7.1, §7.2). The one-time file that an
// admin carries to a new machine ↔ its fields: all that a host needs to trust its fleet from the first
// byte on. And the request that answers it, signed by the very key it announces, which proves that the
// host holds it. Refuses unknown fields, another version, and another fleet's, host's or invitation's.
import { createHash } from 'node:crypto';
import { type Static, Type } from 'typebox';
import { parseBaseUrl } from '../config.ts';
import { FleetError } from '../errors.ts';
import {
  type Envelope,
  MAX_ENVELOPE_BYTES,
  parseEnvelope,
  requireSignatures,
  signEnvelope,
} from './dsse.ts';
import { Exact, FleetName, HostId, PublicKeyText, Sha256, Time } from './fields.ts';
import { canonicalBytes, parseCanonical } from './jcs.ts';
import { publicKeyOfSecret } from './keyfile.ts';
import { type Root, verifyInitialRoot } from './root.ts';
import { type Frozen, requireShape } from './shape.ts';
import { formatTime, parseTime } from './time.ts';

export const ENROL_REQUEST_PAYLOAD_TYPE = 'application/vnd.fleet.enroll+json';

/** A root's envelope grows when it becomes a JSON string; nothing else in the file is large. */
const MAX_FILE_BYTES = 2 * MAX_ENVELOPE_BYTES + 4096;

export const EnrolFileSchema = Exact({
  version: Type.Literal(1),
  server: Type.Refine(
    Type.String(),
    isBaseUrl,
    () => 'must be an http(s) URL without user, query, fragment and final slash',
  ),
  fleet: FleetName,
  host: HostId,
  root: Type.String(),
  /** Printable, for an HTTP header. */
  secret: Type.String({ pattern: '^[A-Za-z0-9_-]{32,128}$' }),
  expiresAt: Time,
});

/** `expiresAt` in POSIX seconds; `root` is the envelope's text, verbatim. */
export type EnrolFile = Omit<Frozen<Static<typeof EnrolFileSchema>>, 'expiresAt' | 'version'> & {
  readonly expiresAt: number;
};

/** @throws FleetError E_ENROL_FORM, which never shows the secret. */
export function parseEnrolFile(text: string): EnrolFile {
  if (Buffer.byteLength(text) > MAX_FILE_BYTES) refuse('it is too large');
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (error) {
    // The engine's message quotes the text, which holds the secret.
    if (!(error instanceof SyntaxError)) throw error;
    refuse('it is not JSON');
  }
  const wire = requireShape(EnrolFileSchema, json, 'E_ENROL_FORM', 'enrolment file');
  const { version: _one, ...fields } = wire;
  return { ...fields, expiresAt: parseTime(wire.expiresAt) };
}

/** The file's text, one field per line. @throws as parseEnrolFile for what it would not accept. */
export function formatEnrolFile(file: EnrolFile): string {
  const { server, fleet, host, root, secret } = file;
  const expiresAt = formatTime(file.expiresAt);
  const fields = { version: 1, server, fleet, host, root, secret, expiresAt };
  const text = `${JSON.stringify(fields, null, 2)}\n`;
  parseEnrolFile(text);
  return text;
}

/**
 * The root that the file brings: what this host trusts from now on, because the file came by hand.
 * @throws FleetError E_ENROL_EXPIRED, E_ROOT_EXPIRED, E_FLEET_MISMATCH, and those of verifyInitialRoot.
 */
export function rootOfEnrolFile(file: EnrolFile, now: number): Root {
  if (now >= file.expiresAt) {
    const since = formatTime(file.expiresAt);
    throw new FleetError(
      'E_ENROL_EXPIRED',
      `the enrolment file for ${file.host} expired at ${since}`,
    );
  }
  const root = verifyInitialRoot(parseEnvelope(file.root), now);
  if (root.fleet !== file.fleet) {
    throw new FleetError('E_FLEET_MISMATCH', `the root in the file is of fleet ${root.fleet}`);
  }
  return root;
}

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
export function parseEnrolRequest(payload: Uint8Array): EnrolRequest {
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

function isBaseUrl(text: string): boolean {
  try {
    return parseBaseUrl(text) === text;
  } catch {
    return false;
  }
}

function refuse(what: string): never {
  throw new FleetError('E_ENROL_FORM', `enrolment file: ${what}`);
}
