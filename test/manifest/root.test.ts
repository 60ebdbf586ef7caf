import assert from 'node:assert/strict';
import { test } from 'node:test';
import { publicKeyOf } from '../../src/ed25519.ts';
import { parseEnvelope, signEnvelope } from '../../src/manifest/dsse.ts';
import { canonicalBytes, parseCanonical } from '../../src/manifest/jcs.ts';
import {
  approvalThreshold,
  formatRoot,
  makeInitialRoot,
  parseRoot,
  ROOT_PAYLOAD_TYPE,
  type Root,
  requireCurrentRoot,
  requireHostKey,
  roleOfKey,
  verifyInitialRoot,
  verifyRootUpdate,
} from '../../src/manifest/root.ts';
import { formatDraft, openDraft } from '../../src/manifest/rotate.ts';
import { formatNixPublicKey } from '../../src/nix/signature.ts';
import { formatVerifierKey, NOTE_COSIGNATURE, NOTE_ED25519 } from '../../src/tlog/vkey.ts';
import {
  KEYS,
  makeRoot,
  NOW,
  publicKey,
  refuses,
  SECRETS,
  secretKey,
  signRoot,
} from '../helpers/trust.ts';

const DAY = 86_400;
/** The payload with one field replaced, as bytes. */
const withField = (path: string, value: unknown, root = makeRoot()): Uint8Array => {
  const payload = parseCanonical(formatRoot(root)) as Record<string, unknown>;
  const steps = path.split('.');
  const last = steps.pop() ?? '';
  let at = payload;
  for (const step of steps) at = at[step] as Record<string, unknown>;
  at[last] = value;
  return canonicalBytes(payload);
};
const next = (root: Root, changes: Partial<Root> = {}): Root => ({
  ...root,
  version: root.version + 1,
  issuedAt: root.issuedAt + DAY,
  expiresAt: root.expiresAt + DAY,
  ...changes,
});
const update = (trusted: Root, envelope: string): Root =>
  verifyRootUpdate(trusted, parseEnvelope(envelope));
const two = [publicKey(1), publicKey(11)];
const twoOfTwo = makeRoot({ keys: { ...KEYS, root: two }, thresholds: { root: 2 } });

test('a draft that has a field twice is none: people read the first one', () => {
  const text = formatDraft(makeRoot());
  assert.equal(openDraft(text.replaceAll(/\s/g, '')).signatures.length, 0);
  for (const twice of [
    text.replace('"threshold": 1', '"threshold": 9, "threshold": 1'),
    text.replace('{', '{"version" : 7,'),
    text.replace('{', '{"versio\\u006e": 7,'),
  ]) {
    refuses('E_ROOT_FORM', () => openDraft(twice), /twice/);
  }
});

test('the first root of a fleet is read back as it was written', () => {
  const root = makeRoot();
  assert.equal(root.version, 1);
  assert.equal(root.epoch, 1);
  assert.equal(root.log.origin, 'fleet.example.org/log/1');
  assert.deepEqual(parseRoot(formatRoot(root)), root);
  assert.deepEqual(verifyInitialRoot(parseEnvelope(signRoot(root)), NOW), root);
});

test('the root has no host keys, and a key with a role is never a host key', () => {
  const root = makeRoot();
  assert.equal(JSON.stringify(root).includes(publicKey(8)), false);
  requireHostKey(root, publicKey(8));
  const roles = ['root', 'release', 'director', 'log', 'freshness', 'nonce', 'cache'];
  for (const [index, role] of roles.entries()) {
    assert.equal(roleOfKey(root, publicKey(index + 1)), role);
    refuses('E_KEY_ROLE', () => requireHostKey(root, publicKey(index + 1)), new RegExp(role));
  }
});

test('one public key that holds two roles is refused, for every pair of roles', () => {
  const cacheKey = formatNixPublicKey({ name: 'c-1', publicKey: publicKeyOf(secretKey(20)) });
  const shared = publicKey(20);
  const places = [
    { root: [shared] },
    { release: [shared] },
    { director: [shared] },
    { log: shared },
    { freshness: shared },
    { nonce: shared },
    { cache: [cacheKey] },
  ];
  for (const [i, one] of places.entries()) {
    for (const other of places.slice(i + 1)) {
      const keys = { ...KEYS, ...one, ...other };
      refuses('E_KEY_ROLE', () => makeRoot({ keys }), /holds the roles/);
    }
  }
});

test('one key listed twice in a role is refused, so that it cannot count for two', () => {
  const keys = { ...KEYS, root: [publicKey(1), publicKey(1)] };
  refuses('E_ROOT_FORM', () => makeRoot({ keys, thresholds: { root: 2 } }), /twice/);
  const named = ['a-1', 'b-1'].map((name) =>
    formatNixPublicKey({ name, publicKey: publicKeyOf(secretKey(7)) }),
  );
  refuses('E_ROOT_FORM', () => makeRoot({ keys: { ...KEYS, cache: named } }), /twice/);
});

test('a threshold that the keys cannot meet, or of 0, is refused', () => {
  refuses('E_ROOT_FORM', () => makeRoot({ thresholds: { root: 2 } }), /roles\.root/);
  refuses('E_ROOT_FORM', () => makeRoot({ thresholds: { release: 2 } }), /roles\.release/);
  refuses('E_ROOT_FORM', () => parseRoot(withField('roles.director.threshold', 0)), /threshold/);
  refuses('E_ROOT_FORM', () => parseRoot(withField('roles.root.keys', [])), /roles\.root\.keys/);
});

test('unknown fields are refused, and a misspelt one is told the right word', () => {
  refuses('E_ROOT_FORM', () => parseRoot(withField('extra', 1)), /unknown field "extra"/);
  refuses('E_ROOT_FORM', () => parseRoot(withField('limits.closureByte', 1)), /"closureBytes"/);
  refuses('E_ROOT_FORM', () => parseRoot(withField('__proto__x', 1)));
});

test('witnesses are reserved: a root with any is refused', () => {
  refuses('E_ROOT_FORM', () => parseRoot(withField('witnesses', ['x'])), /witnesses/);
  refuses('E_ROOT_FORM', () => parseRoot(withField('witnesses', [null])), /witnesses/);
});

test('every field is needed', () => {
  const payload = parseCanonical(formatRoot(makeRoot())) as Record<string, unknown>;
  for (const name of Object.keys(payload)) {
    const { [name]: _left, ...rest } = payload;
    refuses('E_ROOT_FORM', () => parseRoot(canonicalBytes(rest)), new RegExp(`${name} is missing`));
  }
});

test('fields of a wrong form are refused by name', () => {
  for (const [path, value] of [
    ['version', 0],
    ['version', '1'],
    ['epoch', 0],
    ['fleet', 'Fleet'],
    ['issuedAt', '2026-02-30T00:00:00Z'],
    ['expiresAt', 'never'],
    ['maxAge', 0],
    ['log.anchor.sha256', 'ff'],
    ['log.anchor.size', -1],
    ['nonce.keys', ['AAAA']],
    ['revoked', [{ key: publicKey(30), notAfterIndex: -1 }]],
    ['groups', [{ name: 'a', hosts: ['web-*-x'], approvals: 0 }]],
    ['groups', [{ name: 'a', hosts: ['WEB'], approvals: 0 }]],
    ['groups', [{ name: 'a', hosts: [], approvals: 0 }]],
  ] as const) {
    refuses('E_ROOT_FORM', () => parseRoot(withField(path, value)), new RegExp(path));
  }
  refuses('E_ROOT_FORM', () => parseRoot(withField('cache.keys', ['x'])), /Nix/);
});

test('a public key of small order is refused in every role', () => {
  const identity = Buffer.from([1, ...new Uint8Array(31)]).toString('base64');
  for (const path of ['roles.root.keys', 'roles.release.keys', 'nonce.keys']) {
    refuses('E_ROOT_FORM', () => parseRoot(withField(path, [identity])), /admissible/);
  }
  refuses('E_ROOT_FORM', () => parseRoot(withField('cache.keys', [`x:${identity}`])));
});

test("the log's origin is this fleet's, and its key names it", () => {
  const vkey = (name: string) =>
    formatVerifierKey({ name, type: NOTE_ED25519, publicKey: publicKey(4) });
  for (const origin of [
    'other.example.org/log/1',
    'fleet.example.org/log/0',
    'fleet.example.org/log/01',
    'fleet.example.org/log/x',
    'fleet.example.org/log/1/2',
  ]) {
    const log = { ...makeRoot().log, origin, vkey: vkey(origin) };
    refuses('E_ROOT_FORM', () => parseRoot(withField('log', log)), /log\.origin/);
  }
  refuses('E_ROOT_FORM', () => parseRoot(withField('log.vkey', vkey('other'))), /log\.vkey/);
  const wrongType = formatVerifierKey({
    name: 'fleet.example.org/log/1',
    type: NOTE_COSIGNATURE,
    publicKey: publicKey(4),
  });
  refuses('E_ROOT_FORM', () => parseRoot(withField('log.vkey', wrongType)));
  refuses('E_ROOT_FORM', () => parseRoot(withField('freshness.keys', [vkey('fresh')])));
});

test('a revoked key that still holds a role is refused', () => {
  const revoked = [{ key: publicKey(3), notAfterIndex: 9 }];
  refuses('E_ROOT_FORM', () => formatRoot({ ...makeRoot(), revoked }), /revoked/);
  const gone = [{ key: publicKey(30), notAfterIndex: 9 }];
  assert.deepEqual(parseRoot(formatRoot({ ...makeRoot(), revoked: gone })).revoked, gone);
});

test('a root is only a root in an envelope that says so', () => {
  const envelope = signEnvelope('application/json', formatRoot(makeRoot()), [SECRETS.root]);
  refuses('E_ROOT_FORM', () => verifyInitialRoot(parseEnvelope(envelope)));
});

test('a first root signed by too few of its own keys is refused', () => {
  assert.ok(verifyInitialRoot(parseEnvelope(signRoot(twoOfTwo, secretKey(1), secretKey(11)))));
  refuses('E_ROOT_OWN_SIGNATURE', () =>
    verifyInitialRoot(parseEnvelope(signRoot(twoOfTwo, secretKey(1)))),
  );
  refuses('E_ROOT_OWN_SIGNATURE', () =>
    verifyInitialRoot(parseEnvelope(signRoot(twoOfTwo, secretKey(1), secretKey(1)))),
  );
  refuses('E_ROOT_OWN_SIGNATURE', () =>
    verifyInitialRoot(parseEnvelope(signRoot(makeRoot(), SECRETS.director))),
  );
});

test('a root that follows, signed by both, is accepted', () => {
  const first = makeRoot();
  const second = next(first, {
    epoch: 2,
    roles: { ...first.roles, root: { keys: [publicKey(11)], threshold: 1 } },
  });
  const envelope = signRoot(second, secretKey(1), secretKey(11));
  assert.deepEqual(update(first, envelope), second);
  const third = next(second);
  assert.deepEqual(update(second, signRoot(third, secretKey(11))), third);
});

test('a root signed by the old keys only, or by the new keys only, is refused', () => {
  const first = makeRoot();
  const second = next(first, {
    roles: { ...first.roles, root: { keys: [publicKey(11)], threshold: 1 } },
  });
  refuses('E_ROOT_OWN_SIGNATURE', () => update(first, signRoot(second, secretKey(1))), /version 2/);
  refuses('E_ROOT_SIGNATURE', () => update(first, signRoot(second, secretKey(11))), /version 1/);
});

test('a root that one key too few of the old or of the new signed is refused', () => {
  const second = next(twoOfTwo);
  assert.ok(update(twoOfTwo, signRoot(second, secretKey(1), secretKey(11))));
  refuses('E_ROOT_SIGNATURE', () => update(twoOfTwo, signRoot(second, secretKey(1))));
  const wider = next(makeRoot(), { roles: twoOfTwo.roles });
  refuses('E_ROOT_OWN_SIGNATURE', () => update(makeRoot(), signRoot(wider, secretKey(1))));
});

test('root N+2 without N+1, the same root again, and an older one are refused', () => {
  const first = makeRoot();
  const second = next(first);
  const third = next(second);
  refuses('E_ROOT_CHAIN', () => update(first, signRoot(third)), /version 3 does not follow/);
  refuses('E_ROOT_CHAIN', () => update(second, signRoot(second)));
  refuses('E_ROOT_CHAIN', () => update(third, signRoot(second)));
});

test('an epoch that falls, or grows by more than 1, is refused', () => {
  const second = next(makeRoot(), { epoch: 2 });
  assert.equal(update(makeRoot(), signRoot(second)).epoch, 2);
  refuses('E_ROOT_EPOCH', () => update(second, signRoot(next(second, { epoch: 1 }))), /epoch 1/);
  refuses('E_ROOT_EPOCH', () => update(second, signRoot(next(second, { epoch: 4 }))), /epoch 4/);
});

test("another fleet's root is refused, even when the same keys signed it", () => {
  const other = makeInitialRoot({ fleet: 'other.example.org', now: NOW, keys: KEYS });
  refuses('E_FLEET_MISMATCH', () => update(makeRoot(), signRoot(next(other))));
});

test('expiry counts for the newest root only: an expired one still leads to the next', () => {
  const old = makeRoot({ now: NOW - 1000 * DAY });
  refuses('E_ROOT_EXPIRED', () => requireCurrentRoot(old, NOW), /version 1 expired at 2024/);
  refuses('E_ROOT_EXPIRED', () => verifyInitialRoot(parseEnvelope(signRoot(old)), NOW));
  assert.deepEqual(verifyInitialRoot(parseEnvelope(signRoot(old))), old);
  const renewed = next(old, { issuedAt: NOW, expiresAt: NOW + DAY });
  requireCurrentRoot(update(old, signRoot(renewed)), NOW);
});

test('a root expires in the very second that it names', () => {
  const root = makeRoot();
  requireCurrentRoot(root, root.expiresAt - 1);
  refuses('E_ROOT_EXPIRED', () => requireCurrentRoot(root, root.expiresAt));
  refuses('E_ROOT_FORM', () => formatRoot({ ...root, expiresAt: root.issuedAt }), /expires/);
});

test('a host in several groups takes the highest number of approvals', () => {
  const root = makeRoot({
    keys: { ...KEYS, release: [publicKey(2), publicKey(12), publicKey(22)] },
    groups: [
      { name: 'all', hosts: ['*'], approvals: 0 },
      { name: 'web', hosts: ['web-*', 'mail'], approvals: 1 },
      { name: 'gate', hosts: ['web-1'], approvals: 3 },
    ],
  });
  assert.equal(approvalThreshold(root, 'desk'), 0);
  assert.equal(approvalThreshold(root, 'mail'), 1);
  assert.equal(approvalThreshold(root, 'mail-2'), 0);
  assert.equal(approvalThreshold(root, 'web-2'), 1);
  assert.equal(approvalThreshold(root, 'web-1'), 3);
});

test("an approval never counts with fewer signatures than the release role's threshold", () => {
  const root = makeRoot({
    keys: { ...KEYS, release: [publicKey(2), publicKey(12)] },
    thresholds: { release: 2 },
    groups: [
      { name: 'free', hosts: ['a'], approvals: 0 },
      { name: 'one', hosts: ['b'], approvals: 1 },
    ],
  });
  assert.equal(approvalThreshold(root, 'a'), 0);
  assert.equal(approvalThreshold(root, 'b'), 2);
});

test('a host in no group is refused, not waved through', () => {
  const root = makeRoot({ groups: [{ name: 'web', hosts: ['web-*'], approvals: 0 }] });
  refuses('E_HOST_UNGROUPED', () => approvalThreshold(root, 'desk'), /desk/);
  refuses('E_HOST_UNGROUPED', () => approvalThreshold(makeRoot({ groups: [] }), 'web-1'));
});

test('groups that nobody could approve, or that share a name, are refused', () => {
  const group = { name: 'a', hosts: ['*'], approvals: 2 };
  refuses('E_ROOT_FORM', () => makeRoot({ groups: [group] }), /more than there are release keys/);
  const free = { ...group, approvals: 0 };
  refuses('E_ROOT_FORM', () => makeRoot({ groups: [free, free] }), /two groups/);
});

test('one flipped bit anywhere in the payload of a root is refused', () => {
  const text = JSON.parse(signRoot(makeRoot())) as { payload: string };
  const payload = Buffer.from(text.payload, 'base64');
  for (let bit = 0; bit < payload.length * 8; bit += 101) {
    const flipped = Buffer.from(payload);
    flipped[bit >> 3] = (flipped[bit >> 3] ?? 0) ^ (1 << (bit & 7));
    const envelope = JSON.stringify({ ...text, payload: flipped.toString('base64') });
    refuses('E_ROOT_SIGNATURE', () => update(makeRoot(), envelope));
  }
});

test('the payload type of a root is the pinned one', () => {
  assert.equal(ROOT_PAYLOAD_TYPE, 'application/vnd.fleet.root+json');
});
