// The one-time file that an admin carries to a new machine ↔ its fields (SPEC §7.1). It holds all that
// a host needs to trust its fleet from the first byte on: the root's envelope, verbatim, and a secret
// that is good for one enrolment. Refuses unknown fields, a root of another fleet, another version.
import type { Static } from 'typebox';
import * as Type from 'typebox';
import { parseBaseUrl } from '../config.ts';
import { FleetError } from '../errors.ts';
import { MAX_ENVELOPE_BYTES, parseEnvelope } from './dsse.ts';
import { Exact, FleetName, HostId, Time } from './fields.ts';
import { type Root, verifyInitialRoot } from './root.ts';
import { type Frozen, requireShape } from './shape.ts';
import { formatTime, parseTime } from './time.ts';

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
  /** Base URLs of caches that this fleet leaves paths to. */
  upstreams: Type.Optional(
    Type.Array(
      Type.Refine(Type.String(), isBaseUrl, () => 'must be a base URL, as server'),
      { minItems: 1, maxItems: 100 },
    ),
  ),
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
  const { server, fleet, host, root, secret, upstreams } = file;
  const expiresAt = formatTime(file.expiresAt);
  const fields = { version: 1, server, fleet, host, root, secret, expiresAt, upstreams };
  const text = `${JSON.stringify(fields, null, 2)}\n`;
  parseEnrolFile(text);
  return text;
}

/**
 * The root that the file brings: what this host trusts from now on, because the file came by hand.
 * @throws FleetError E_ENROL_EXPIRED, E_ROOT_EXPIRED, E_FLEET_MISMATCH, and those of verifyInitialRoot.
 */
export function rootOfEnrolFile(file: EnrolFile, now: number): Root {
  if (!(now < file.expiresAt)) {
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
