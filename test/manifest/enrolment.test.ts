import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseEnvelope, signEnvelope } from '../../src/manifest/dsse.ts';
import {
  type EnrolFile,
  formatEnrolFile,
  parseEnrolFile,
  rootOfEnrolFile,
} from '../../src/manifest/enrol-file.ts';
import {
  ENROL_REQUEST_PAYLOAD_TYPE,
  invitationOf,
  parseEnrolment,
  signEnrolment,
  signEnrolRequest,
  verifyEnrolRequest,
} from '../../src/manifest/enrolment.ts';
import { canonicalBytes, parseCanonical } from '../../src/manifest/jcs.ts';
import {
  makeRoot,
  NOW,
  publicKey,
  refuses,
  SECRETS,
  secretKey,
  signRoot,
} from '../helpers/trust.ts';

const SECRET = `fleet_${'s'.repeat(43)}`;
const FILE: EnrolFile = {
  server: 'https://fleet.example.org',
  fleet: 'fleet.example.org',
  host: 'web-1',
  root: signRoot(makeRoot()),
  secret: SECRET,
  expiresAt: NOW + 3600,
};
const fileWith = (changes: object): string =>
  JSON.stringify({ ...(JSON.parse(formatEnrolFile(FILE)) as object), ...changes });

const REQUEST = { fleet: 'fleet.example.org', host: 'web-1', secret: SECRET };
const EXPECT = { fleet: 'fleet.example.org', host: 'web-1', invitation: invitationOf(SECRET) };

test('the enrolment file brings the root verbatim, and is read back as it was written', () => {
  assert.deepEqual(parseEnrolFile(formatEnrolFile(FILE)), FILE);
  assert.deepEqual(rootOfEnrolFile(FILE, NOW), makeRoot());
});

test('an expired enrolment file is refused, to the second', () => {
  assert.ok(rootOfEnrolFile(FILE, FILE.expiresAt - 1));
  refuses('E_ENROL_EXPIRED', () => rootOfEnrolFile(FILE, FILE.expiresAt), /13:00:00Z/);
});

test('an enrolment file with an expired, foreign or badly signed root is refused', () => {
  const old = { ...FILE, root: signRoot(makeRoot({ now: NOW - 400 * 86_400 })) };
  refuses('E_ROOT_EXPIRED', () => rootOfEnrolFile(old, NOW));
  const foreign = { ...FILE, root: signRoot(makeRoot({ fleet: 'other.example.org' })) };
  refuses('E_FLEET_MISMATCH', () => rootOfEnrolFile(foreign, NOW));
  const unsigned = { ...FILE, root: signRoot(makeRoot(), secretKey(99)) };
  refuses('E_ROOT_OWN_SIGNATURE', () => rootOfEnrolFile(unsigned, NOW));
});

test('an enrolment file of a wrong form is refused by name', () => {
  for (const [changes, pattern] of [
    [{ version: 2 }, /version/],
    [{ hosts: 'x' }, /unknown field "hosts"; did you mean "host"/],
    [{ server: 'ftp://x' }, /server/],
    [{ server: 'https://user:pw@x' }, /server/],
    [{ server: 'https://x/' }, /server/],
    [{ host: 'Web' }, /host/],
    [{ root: null }, /root/],
    [{ secret: 'short' }, /secret/],
    [{ secret: `${SECRET}\n` }, /secret/],
    [{ expiresAt: 'tomorrow' }, /expiresAt/],
  ] as const) {
    refuses('E_ENROL_FORM', () => parseEnrolFile(fileWith(changes)), pattern);
  }
  refuses('E_ENROL_FORM', () => parseEnrolFile(' '.repeat(200_000)), /too large/);
});

test('no error of an enrolment file shows its secret', () => {
  for (const text of [
    formatEnrolFile(FILE).slice(0, -3),
    `{"secret":"${SECRET}"`,
    `${SECRET}`,
    fileWith({ secret: `${SECRET}!` }),
    fileWith({ host: 5 }),
  ]) {
    assert.throws(
      () => parseEnrolFile(text),
      (error: Error) =>
        !`${error.message} ${error.stack} ${JSON.stringify(error)} ${String(error.cause)}`.includes(
          'ssss',
        ),
    );
  }
});

test('a request proves that the host holds the key, and never holds the secret', () => {
  const text = signEnrolRequest(REQUEST, SECRETS.host);
  const request = verifyEnrolRequest(parseEnvelope(text), EXPECT);
  assert.equal(request.publicKey, publicKey(8));
  assert.equal(Buffer.from(parseEnvelope(text).payload).includes(SECRET), false);
});

test('a request signed by another key than it announces is refused', () => {
  const { payload } = parseEnvelope(signEnrolRequest(REQUEST, SECRETS.host));
  const stolen = signEnvelope(ENROL_REQUEST_PAYLOAD_TYPE, payload, [secretKey(99)]);
  refuses('E_SIGNATURE_UNKNOWN_KEY', () => verifyEnrolRequest(parseEnvelope(stolen), EXPECT));
});

test("another fleet's, host's or invitation's request is refused", () => {
  const verify = (changes: object) =>
    verifyEnrolRequest(
      parseEnvelope(signEnrolRequest({ ...REQUEST, ...changes }, SECRETS.host)),
      EXPECT,
    );
  refuses('E_FLEET_MISMATCH', () => verify({ fleet: 'other' }));
  refuses('E_HOST_MISMATCH', () => verify({ host: 'web-2' }));
  refuses('E_ENROL_FORM', () => verify({ secret: 'other' }), /another invitation/);
});

test('a request of another type, or with an unknown field, is refused', () => {
  const { payload } = parseEnvelope(signEnrolRequest(REQUEST, SECRETS.host));
  const sign = (type: string, bytes: Uint8Array) =>
    parseEnvelope(signEnvelope(type, bytes, [SECRETS.host]));
  refuses('E_ENROL_FORM', () => verifyEnrolRequest(sign('application/json', payload), EXPECT));
  const more = canonicalBytes({ ...(parseCanonical(payload) as object), admin: true });
  refuses('E_ENROL_FORM', () => verifyEnrolRequest(sign(ENROL_REQUEST_PAYLOAD_TYPE, more), EXPECT));
});

test('what the director says of a key is read back; any other form is refused', () => {
  const said = {
    fleet: 'fleet.example.org',
    host: 'web-1',
    publicKey: publicKey(8),
    replaces: null,
  };
  const envelope = parseEnvelope(signEnrolment(said, SECRETS.director));
  assert.deepEqual(parseEnrolment(envelope.payload), said);
  const document = parseCanonical(envelope.payload) as { subject: object[] };
  for (const changes of [
    { predicateType: 'urn:fleet:manifest:v1' },
    { predicate: { ...said, more: 1 } },
    { predicate: { ...said, publicKey: publicKey(9) } },
    { predicate: { ...said, host: 'web-2' } },
    { predicate: { ...said, replaces: 'x' } },
    { predicate: { ...said, replaces: publicKey(8) } },
    { subject: [...document.subject, ...document.subject] },
  ]) {
    refuses('E_ENROL_FORM', () => parseEnrolment(canonicalBytes({ ...document, ...changes })));
  }
});
