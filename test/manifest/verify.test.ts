import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseEnvelope, signEnvelope } from '../../src/manifest/dsse.ts';
import {
  type Deployment,
  formatManifest,
  type Manifest,
  manifestDigest,
} from '../../src/manifest/manifest.ts';
import type { Root } from '../../src/manifest/root.ts';
import { STATEMENT_PAYLOAD_TYPE } from '../../src/manifest/statement.ts';
import {
  requireValidAt,
  type VerifyInput,
  verifyClosure,
  verifyManifest,
} from '../../src/manifest/verify.ts';
import { formatClosure, type PathInfo } from '../../src/nix/closure.ts';
import { formatNarHash } from '../../src/nix/hash.ts';
import {
  KEYS,
  makeClosure,
  makeManifest,
  makeRoot,
  NOW,
  publicKey,
  refuses,
  SECRETS,
  secretKey,
  signManifest,
  storePath,
} from '../helpers/trust.ts';

const EXPECT = { host: 'web-1', system: 'x86_64-linux', floor: null };
const verify = (manifest: Manifest, input: Partial<VerifyInput> = {}) =>
  verifyManifest({
    envelope: signManifest(manifest),
    root: makeRoot(),
    now: NOW,
    expect: EXPECT,
    ...input,
  });
const floorOf = (manifest: Manifest) => ({
  epoch: manifest.epoch,
  sequence: manifest.sequence,
  digest: manifestDigest(formatManifest(manifest)),
});
const asDecommission = (manifest: Deployment): Manifest => {
  const { toplevel, toplevelNarHash, closure, activation, provenance, ...common } = manifest;
  const previous = { epoch: 1, sequence: 1, sha256: 'ab'.repeat(32) };
  return { ...common, intent: 'decommission', previous };
};

test('a good manifest with its closure is believed, and the counts are told', () => {
  const { bytes, closure } = makeClosure();
  const verified = verify(makeManifest(), { closure: bytes });
  assert.deepEqual(verified.manifest, makeManifest());
  assert.equal(verified.digest, manifestDigest(formatManifest(makeManifest())));
  assert.deepEqual(verified.signers, KEYS.director);
  assert.equal(verified.threshold, 1);
  assert.equal(verified.rootVersion, 1);
  assert.deepEqual(verified.closure, closure);
  assert.equal(verify(makeManifest()).closure, null);
});

test('an auditor who expects no particular host may read any', () => {
  const envelope = signManifest(makeManifest());
  const verified = verifyManifest({ envelope, root: makeRoot(), now: NOW });
  assert.equal(verified.manifest.host.id, 'web-1');
});

test('a decommission is verified like any other, and has no closure', () => {
  const manifest = asDecommission(makeManifest());
  assert.equal(verify(manifest).closure, null);
  refuses('E_HOST_MISMATCH', () => verify(manifest, { expect: { ...EXPECT, host: 'web-2' } }));
});

test('one flipped bit anywhere is refused, or changes nothing that counts', () => {
  const envelope = Buffer.from(signManifest(makeManifest()));
  const root = makeRoot();
  const { digest } = verify(makeManifest(), { root });
  let refused = 0;
  for (let bit = 0; bit < envelope.length * 8; bit += 13) {
    const flipped = Buffer.from(envelope);
    flipped[bit >> 3] = (flipped[bit >> 3] ?? 0) ^ (1 << (bit & 7));
    try {
      const verified = verifyManifest({ envelope: flipped, root, now: NOW, expect: EXPECT });
      assert.equal(verified.digest, digest, `bit ${bit}`);
    } catch (error) {
      assert.match(String(Reflect.get(error as object, 'code')), /^E_(ENVELOPE|SIGNATURE)/);
      refused++;
    }
  }
  // Key ids, and the alphabet of base64, are all that may differ.
  assert.ok(refused > (envelope.length * 8) / 13 - 40, `${refused} refused`);
});

test('one flipped bit of the payload or of the signature is a bad signature', () => {
  const text = JSON.parse(signManifest(makeManifest())) as {
    payload: string;
    signatures: { keyid: string; sig: string }[];
  };
  const flip = (base64: string, bit: number): string => {
    const bytes = Buffer.from(base64, 'base64');
    bytes[bit >> 3] = (bytes[bit >> 3] ?? 0) ^ (1 << (bit & 7));
    return bytes.toString('base64');
  };
  const payload = { ...text, payload: flip(text.payload, 1234) };
  refuses('E_SIGNATURE', () => verify(makeManifest(), { envelope: JSON.stringify(payload) }));
  const signatures = text.signatures.map((s) => ({ ...s, sig: flip(s.sig, 300) }));
  const badSig = JSON.stringify({ ...text, signatures });
  refuses('E_SIGNATURE', () => verify(makeManifest(), { envelope: badSig }), /director/);
});

test('a manifest that only unknown keys signed is refused', () => {
  const envelope = signManifest(makeManifest(), secretKey(99));
  refuses('E_SIGNATURE_UNKNOWN_KEY', () => verify(makeManifest(), { envelope }));
});

test("no other role's key can sign a manifest", () => {
  for (const [role, secret] of Object.entries(SECRETS)) {
    if (role === 'director') continue;
    const envelope = signManifest(makeManifest(), secret);
    refuses('E_SIGNATURE_UNKNOWN_KEY', () => verify(makeManifest(), { envelope }));
  }
});

test('fewer directors than the threshold, or one of them twice, are refused', () => {
  const base = makeRoot({ keys: { ...KEYS, director: [publicKey(3), publicKey(13)] } });
  const root: Root = {
    ...base,
    roles: { ...base.roles, director: { ...base.roles.director, threshold: 2 } },
  };
  const signed = (...secrets: Uint8Array[]) => ({
    root,
    envelope: signManifest(makeManifest(), ...secrets),
  });
  assert.equal(verify(makeManifest(), signed(secretKey(3), secretKey(13))).signers.length, 2);
  refuses('E_SIGNATURE_THRESHOLD', () => verify(makeManifest(), signed(secretKey(13))), /1 of 2/);
  refuses('E_SIGNATURE_THRESHOLD', () =>
    verify(makeManifest(), signed(secretKey(3), secretKey(3))),
  );
});

test('a signed payload of another type is no manifest', () => {
  const payload = formatManifest(makeManifest());
  const envelope = signEnvelope('application/json', payload, [SECRETS.director]);
  refuses('E_MANIFEST_FORM', () => verify(makeManifest(), { envelope }), /something else/);
});

test('a signed payload that is not canonical, or no manifest, is refused', () => {
  const signed = (payload: Uint8Array) => ({
    envelope: signEnvelope(STATEMENT_PAYLOAD_TYPE, payload, [SECRETS.director]),
  });
  const loose = Buffer.concat([formatManifest(makeManifest()), Buffer.from(' ')]);
  refuses('E_PAYLOAD_FORM', () => verify(makeManifest(), signed(loose)));
  refuses('E_MANIFEST_FORM', () => verify(makeManifest(), signed(Buffer.from('{}'))));
});

test('an envelope over 60 KiB is refused unread', () => {
  refuses('E_ENVELOPE', () => verify(makeManifest(), { envelope: Buffer.alloc(61_441, 0x20) }));
});

test('a host whose group wants approval is refused while there is none', () => {
  const root = makeRoot({
    groups: [
      { name: 'all', hosts: ['*'], approvals: 0 },
      { name: 'web', hosts: ['web-*'], approvals: 1 },
    ],
  });
  refuses(
    'E_APPROVAL_MISSING',
    () => verify(makeManifest(), { root }),
    /approval of 1 release key,/,
  );
  const byRelease = signManifest(makeManifest(), SECRETS.director, SECRETS.release);
  refuses('E_APPROVAL_MISSING', () => verify(makeManifest(), { root, envelope: byRelease }));
  refuses('E_APPROVAL_MISSING', () => verify(asDecommission(makeManifest()), { root }));
});

test('a host in no group is refused', () => {
  refuses('E_HOST_UNGROUPED', () => verify(makeManifest(), { root: makeRoot({ groups: [] }) }));
});

test("another fleet's manifest is refused, even when the same director signed it", () => {
  const manifest = makeManifest({ fleet: { name: 'other.example.org', rootVersion: 1 } });
  refuses('E_FLEET_MISMATCH', () => verify(manifest), /other\.example\.org/);
});

test('a manifest issued under an older or a newer root is refused', () => {
  for (const rootVersion of [1, 3]) {
    const manifest = makeManifest({ fleet: { name: 'fleet.example.org', rootVersion } });
    const root = { ...makeRoot(), version: 2 };
    refuses('E_ROOT_VERSION', () => verify(manifest, { root }), /newest is 2/);
  }
});

test("a manifest of another epoch than the root's is refused", () => {
  refuses('E_EPOCH', () => verify(makeManifest({ epoch: 2 })));
  refuses('E_EPOCH', () => verify(makeManifest(), { root: { ...makeRoot(), epoch: 2 } }));
});

test('an expired root is refused, whatever it signed', () => {
  const root = makeRoot({ days: 1 });
  assert.ok(verify(makeManifest(), { root, now: root.expiresAt - 1 }));
  refuses('E_ROOT_EXPIRED', () => verify(makeManifest(), { root, now: root.expiresAt }));
});

test('a manifest for another host or another system is refused', () => {
  refuses('E_HOST_MISMATCH', () =>
    verify(makeManifest(), { expect: { ...EXPECT, host: 'web-10' } }),
  );
  refuses('E_SYSTEM_MISMATCH', () =>
    verify(makeManifest(), { expect: { ...EXPECT, system: 'aarch64-linux' } }),
  );
});

test('sequence-1 is refused, and so is the same sequence with another digest', () => {
  const floor = floorOf(makeManifest());
  const expect = { ...EXPECT, floor };
  const older = makeManifest({ sequence: floor.sequence - 1 });
  refuses('E_SEQUENCE_OLDER', () => verify(older, { expect }), /sequence 7 was accepted/);
  const twin = makeManifest({ emergency: true });
  refuses('E_SEQUENCE_CONFLICT', () => verify(twin, { expect }));
});

test('the very manifest of the floor, and a higher sequence, are accepted', () => {
  const expect = { ...EXPECT, floor: floorOf(makeManifest()) };
  assert.equal(verify(makeManifest(), { expect }).manifest.sequence, 7);
  assert.equal(verify(makeManifest({ sequence: 8 }), { expect }).manifest.sequence, 8);
});

test('an epoch reset starts sequences anew, and no older epoch comes back', () => {
  const last = makeManifest({ sequence: Number.MAX_SAFE_INTEGER });
  const root = { ...makeRoot(), epoch: 2 };
  const first = makeManifest({ epoch: 2, sequence: 1 });
  const expect = { ...EXPECT, floor: floorOf(last) };
  assert.equal(verify(first, { root, expect }).manifest.sequence, 1);
  const after = { ...EXPECT, floor: floorOf(first) };
  refuses('E_EPOCH', () => verify(last, { expect: after }), /epoch 2/);
});

test('notBefore in the future is refused, to the second', () => {
  const manifest = makeManifest({ notBefore: NOW + 60 });
  refuses('E_MANIFEST_NOT_YET', () => verify(manifest, { now: NOW + 59 }), /2026-03-01T12:01:00Z/);
  assert.ok(verify(manifest, { now: NOW + 60 }));
});

test('an expired manifest is refused, to the second', () => {
  const manifest = makeManifest({ expiresAt: NOW + 60 });
  assert.ok(verify(manifest, { now: NOW + 59 }));
  refuses('E_MANIFEST_EXPIRED', () => verify(manifest, { now: NOW + 60 }), /2026-03-01T12:01:00Z/);
});

test('a "now" that is no number is refused, never taken for a good time', () => {
  for (const now of [Number.NaN, undefined as unknown as number]) {
    refuses('E_ROOT_EXPIRED', () => verify(makeManifest(), { now }));
    refuses('E_MANIFEST_NOT_YET', () => requireValidAt(makeManifest(), now));
  }
});

test('an emergency overrides no check', () => {
  const emergency = true;
  refuses('E_MANIFEST_EXPIRED', () =>
    verify(makeManifest({ emergency }), { now: NOW + 91 * 86_400 }),
  );
  refuses('E_APPROVAL_MISSING', () =>
    verify(makeManifest({ emergency }), {
      root: makeRoot({ groups: [{ name: 'all', hosts: ['*'], approvals: 1 }] }),
    }),
  );
});

test("a closure that would exceed the root's limits is refused before it is fetched", () => {
  const { limits } = makeRoot();
  const { closure } = makeManifest();
  for (const [limit, field] of [
    ['closureBytes', 'bytes'],
    ['closurePaths', 'paths'],
    ['narBytes', 'narBytes'],
  ] as const) {
    const exact = { ...makeRoot(), limits: { ...limits, [limit]: closure[field] } };
    assert.ok(verify(makeManifest(), { root: exact }));
    const root = { ...makeRoot(), limits: { ...limits, [limit]: closure[field] - 1 } };
    refuses('E_CLOSURE_SIZE', () => verify(makeManifest(), { root }), /limits/);
  }
});

test('a closure file one byte over or under the signed size is refused', () => {
  const { bytes } = makeClosure();
  for (const closure of [
    Buffer.concat([bytes, Buffer.from('\n')]),
    bytes.subarray(0, -1),
    Buffer.alloc(0),
  ]) {
    refuses('E_CLOSURE_SIZE', () => verify(makeManifest(), { closure }), /are signed/);
  }
});

test('the closure of A with the manifest of B is refused', () => {
  const { bytes } = makeClosure(100);
  refuses('E_CLOSURE_HASH', () => verify(makeManifest(), { closure: bytes }));
});

/** A manifest that truly signs `bytes`, and says of them what `claims` says. */
const signing = (bytes: Uint8Array, claims: Partial<Deployment['closure']>): Deployment => {
  const manifest = makeManifest();
  const sha256 = manifestDigest(bytes);
  return { ...manifest, closure: { ...manifest.closure, sha256, bytes: bytes.length, ...claims } };
};

test('a closure with one path missing, or one unreachable, is refused although it is signed', () => {
  const { closure } = makeClosure();
  const infos = [...closure.paths.values()];
  const missing = formatClosure(infos.slice(1));
  refuses('E_CLOSURE_MISSING', () => verifyClosure(signing(missing, { paths: 2 }), missing));
  const extra: PathInfo = {
    path: storePath('d', 'stray'),
    narHash: formatNarHash(new Uint8Array(32)),
    narSize: 1,
    references: [],
  };
  const stray = formatClosure([...infos, extra]);
  refuses('E_CLOSURE_UNREACHABLE', () => verifyClosure(signing(stray, { paths: 4 }), stray));
});

test('a signed closure file of another form is refused', () => {
  const bytes = Buffer.from('hello\n');
  refuses('E_CLOSURE_FORM', () => verifyClosure(signing(bytes, {}), bytes));
});

test('a manifest that contradicts its own closure file is refused', () => {
  const { bytes, closure } = makeClosure();
  const manifest = makeManifest();
  assert.deepEqual(verifyClosure(signing(bytes, {}), bytes), closure);
  refuses(
    'E_CLOSURE_MISMATCH',
    () => verifyClosure(signing(bytes, { paths: 4 }), bytes),
    /3 paths/,
  );
  refuses(
    'E_CLOSURE_MISMATCH',
    () => verifyClosure(signing(bytes, { narBytes: 1 }), bytes),
    /6000/,
  );
  const toplevelNarHash = formatNarHash(new Uint8Array(32).fill(9));
  refuses(
    'E_CLOSURE_MISMATCH',
    () => verifyClosure({ ...manifest, toplevelNarHash }, bytes),
    /toplevel/,
  );
});

test('the signature is checked before the payload is given any meaning', () => {
  const garbage = signEnvelope(STATEMENT_PAYLOAD_TYPE, Buffer.from('not json'), [secretKey(99)]);
  assert.ok(parseEnvelope(garbage));
  refuses('E_SIGNATURE_UNKNOWN_KEY', () => verify(makeManifest(), { envelope: garbage }));
});
