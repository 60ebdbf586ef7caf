// A host's request for its next token: what it must be, and whose.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseEnvelope, signEnvelope } from '../../src/manifest/dsse.ts';
import { canonicalBytes } from '../../src/manifest/jcs.ts';
import {
  signTokenRequest,
  TOKEN_REQUEST_PAYLOAD_TYPE,
  verifyTokenRequest,
} from '../../src/manifest/token-request.ts';
import { publicKey, refuses, SECRETS, secretKey } from '../helpers/trust.ts';

const request = {
  fleet: 'fleet.example.org',
  host: 'web-1',
  replaces: '1'.repeat(64),
  token: '2'.repeat(64),
};
const expect = { ...request, publicKey: publicKey(8) };

/** The envelope of whatever fields there are, signed by the host. */
const signed = (fields: object, type = TOKEN_REQUEST_PAYLOAD_TYPE) =>
  parseEnvelope(signEnvelope(type, canonicalBytes(fields as never), [SECRETS.host]));

test('what the host’s key signed of this very token is taken', () => {
  const envelope = parseEnvelope(signTokenRequest(request, SECRETS.host));
  assert.deepEqual(verifyTokenRequest(envelope, expect), request);
});

test('any other form, type, token or signer is refused', () => {
  const { token: _none, ...without } = request;
  for (const [fields, pattern] of [
    [{ ...request, more: 1 }, /more/],
    [without, /token/],
    [{ ...request, token: 'X' }, /token/],
    [{ ...request, token: request.replaces }, /does not follow itself/],
    [{ ...request, replaces: '3'.repeat(64) }, /another token/],
  ] as const) {
    refuses('E_TOKEN_REQUEST', () => verifyTokenRequest(signed(fields), expect), pattern);
  }
  const receipt = signed(request, 'application/vnd.fleet.receipt+json');
  refuses('E_TOKEN_REQUEST', () => verifyTokenRequest(receipt, expect), /something else/);
  const others = parseEnvelope(signTokenRequest(request, secretKey(9)));
  refuses('E_SIGNATURE_UNKNOWN_KEY', () => verifyTokenRequest(others, expect));
  const same = { ...request, token: request.replaces };
  refuses('E_TOKEN_REQUEST', () => signTokenRequest(same, SECRETS.host));
});
