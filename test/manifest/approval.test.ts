// Approvals: what is signed about a batch, and who must have signed it.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import {
  type ApprovalFile,
  makeApproval,
  openApproval,
  parseApproval,
  proveApproval,
  requireApproved,
} from '../../src/manifest/approval.ts';
import { parseEnvelope, signEnvelope } from '../../src/manifest/dsse.ts';
import { canonicalBytes, parseCanonical } from '../../src/manifest/jcs.ts';
import { STATEMENT_PAYLOAD_TYPE } from '../../src/manifest/statement.ts';
import { KEYS, makeRoot, NOW, publicKey, refuses, SECRETS, secretKey } from '../helpers/trust.ts';

const root = makeRoot({ keys: { ...KEYS, release: [publicKey(2), publicKey(12), publicKey(22)] } });
const times = { issuedAt: NOW, expiresAt: NOW + 100 };
const digestOf = (n: number): string => n.toString(16).padStart(64, '0');
const DIGESTS = [3, 1, 2, 5, 4].map(digestOf);

function approve(digests: readonly string[], ...keys: readonly Uint8Array[]): ApprovalFile {
  const { payload, batch } = makeApproval(digests, times, root);
  return { envelope: signEnvelope(STATEMENT_PAYLOAD_TYPE, payload, keys), batch };
}

test('every manifest of a batch is approved, each with a proof of its own, and no other', () => {
  fc.assert(
    fc.property(fc.uniqueArray(fc.integer({ min: 1, max: 1e9 }), { minLength: 1 }), (numbers) => {
      const digests = numbers.map(digestOf);
      const file = approve(digests, SECRETS.release, secretKey(12));
      assert.deepEqual(file.batch, [...digests].sort());
      for (const digest of digests) {
        const proof = proveApproval(file, digest);
        const signers = requireApproved(digest, proof, 2, root, NOW);
        assert.deepEqual(signers, [publicKey(2), publicKey(12)]);
        refuses('E_APPROVAL_PROOF', () => requireApproved(digestOf(0), proof, 2, root, NOW));
      }
      assert.equal(proveApproval(file, digestOf(0)), null);
    }),
    { numRuns: 20 },
  );
});

test('its time: until its end, and never by a "now" that is no number', () => {
  const proof = proveApproval(approve(DIGESTS, SECRETS.release), digestOf(1));
  requireApproved(digestOf(1), proof, 1, root, NOW + 99);
  for (const now of [NOW + 100, Number.NaN]) {
    refuses('E_APPROVAL_EXPIRED', () => requireApproved(digestOf(1), proof, 1, root, now));
  }
});

test('a batch that is another, unsorted, doubled, or none is refused', () => {
  const file = approve(DIGESTS, SECRETS.release);
  assert.equal(openApproval(file).count, 5);
  const { batch } = file;
  for (const other of [
    batch.slice(1),
    [...batch].reverse(),
    [...batch, batch[4] ?? ''],
    batch.map((digest) => digest.toUpperCase().replace('0', 'A')),
    [...batch.slice(0, 4), digestOf(9)],
    [],
    [...batch, 'x'],
  ]) {
    refuses('E_APPROVAL_FORM', () => openApproval({ ...file, batch: other }));
  }
  refuses('E_APPROVAL_FORM', () => makeApproval([], times, root));
});

test('a payload in any other form is refused', () => {
  const payload = Buffer.from(makeApproval(DIGESTS, times, root).payload);
  const document = parseCanonical(payload) as {
    predicate: Record<string, unknown>;
    subject: unknown[];
  };
  const refusesWith = (changes: object, code: 'E_APPROVAL_FORM' | 'E_PAYLOAD_FORM') =>
    refuses(code, () =>
      parseApproval({
        payloadType: STATEMENT_PAYLOAD_TYPE,
        payload: canonicalBytes({ ...document, ...changes }),
        signatures: [],
      }),
    );
  for (const predicate of [
    { ...document.predicate, count: 0 },
    { ...document.predicate, count: 100_001 },
    { ...document.predicate, root: 'ab' },
    { ...document.predicate, more: 1 },
    { ...document.predicate, expiresAt: document.predicate['issuedAt'] },
    { ...document.predicate, expiresAt: 'never' },
  ]) {
    refusesWith({ predicate }, 'E_APPROVAL_FORM');
  }
  refusesWith({ predicateType: 'urn:fleet:manifest:v1' }, 'E_APPROVAL_FORM');
  refusesWith({ subject: [...document.subject, ...document.subject] }, 'E_APPROVAL_FORM');
  const wrong = { payloadType: 'text/plain', payload, signatures: [] };
  refuses('E_APPROVAL_FORM', () => parseApproval(wrong));
  assert.equal(parseEnvelope(approve(DIGESTS).envelope).signatures.length, 0);
});
