// The director's word that a key is a host's ↔ its fields (SPEC §7.3): an in-toto Statement, so that
// auditors find in the log which key counted for a host, and since when.
// Refuses unknown fields, another fleet's Statement, a key that replaces itself, and a host key that
// holds a role of the root.
import { createHash } from 'node:crypto';
import type { Static } from 'typebox';
import { FleetError } from '../errors.ts';
import { type Envelope, requireSignatures } from './dsse.ts';
import { Exact, FleetName, HostId, Nullable, PublicKeyText } from './fields.ts';
import { publicKeyBytes } from './keyfile.ts';
import { type Root, requireHostKey } from './root.ts';
import { type Frozen, requireShape } from './shape.ts';
import {
  formatStatement,
  parseStatement,
  requireSubjects,
  STATEMENT_PAYLOAD_TYPE,
  type Subject,
} from './statement.ts';

export const ENROLMENT_PREDICATE_TYPE = 'urn:fleet:enrolment:v1';

/** The predicate of an enrolment Statement. `replaces`: the key that counted for the host before. */
export const EnrolmentSchema = Exact({
  fleet: FleetName,
  host: HostId,
  publicKey: PublicKeyText,
  replaces: Nullable(PublicKeyText),
});

export type Enrolment = Frozen<Static<typeof EnrolmentSchema>>;

/** The payload of the director's Statement. SPEC §7.3 */
export function formatEnrolment(enrolment: Enrolment): Uint8Array {
  const payload = formatStatement(ENROLMENT_PREDICATE_TYPE, {
    subjects: enrolmentSubjects(enrolment),
    predicate: enrolment,
  });
  parseEnrolment(payload);
  return payload;
}

/** @throws FleetError E_PAYLOAD_FORM, E_ENROL_FORM. */
export function parseEnrolment(payload: Uint8Array): Enrolment {
  const what = 'enrolment';
  const { subjects, predicate } = parseStatement(
    payload,
    ENROLMENT_PREDICATE_TYPE,
    'E_ENROL_FORM',
    what,
  );
  const enrolment = requireShape(EnrolmentSchema, predicate, 'E_ENROL_FORM', what);
  requireSubjects(subjects, enrolmentSubjects(enrolment), 'E_ENROL_FORM', what);
  if (enrolment.replaces === enrolment.publicKey) {
    throw new FleetError('E_ENROL_FORM', 'enrolment: a key does not replace itself');
  }
  return enrolment;
}

/**
 * The enrolment in an envelope that the root's directors signed.
 * @throws FleetError E_SIGNATURE…, E_PAYLOAD_FORM, E_ENROL_FORM, E_FLEET_MISMATCH, E_KEY_ROLE.
 */
export function verifyEnrolment(envelope: Envelope, root: Root): Enrolment {
  const { keys, threshold } = root.roles.director;
  requireSignatures(envelope, keys, threshold, 'director');
  if (envelope.payloadType !== STATEMENT_PAYLOAD_TYPE) {
    throw new FleetError('E_ENROL_FORM', 'the envelope holds something else than an enrolment');
  }
  const enrolment = parseEnrolment(envelope.payload);
  if (enrolment.fleet !== root.fleet) {
    throw new FleetError('E_FLEET_MISMATCH', `the enrolment is of fleet ${enrolment.fleet}`);
  }
  requireHostKey(root, enrolment.publicKey);
  return enrolment;
}

function enrolmentSubjects({ host, publicKey }: Enrolment): Subject[] {
  const sha256 = createHash('sha256').update(publicKeyBytes(publicKey)).digest('hex');
  return [{ name: `key of ${host}`, sha256 }];
}
