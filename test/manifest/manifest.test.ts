import assert from 'node:assert/strict';
import { test } from 'node:test';
import { canonicalBytes, parseCanonical } from '../../src/manifest/jcs.ts';
import {
  type Decommission,
  formatManifest,
  manifestDigest,
  parseManifest,
} from '../../src/manifest/manifest.ts';
import { formatNarHash, narHashHex } from '../../src/nix/hash.ts';
import { makeManifest, NOW, refuses, storePath } from '../helpers/trust.ts';

type Fields = Record<string, unknown>;
const read = (payload: Uint8Array) => parseCanonical(payload) as Fields;
/** The payload of a good manifest after `change`, as canonical bytes. */
const changed = (change: (statement: Fields, predicate: Fields) => void): Uint8Array => {
  const statement = read(formatManifest(makeManifest()));
  change(statement, statement['predicate'] as Fields);
  return canonicalBytes(statement);
};
const decommission = (overrides: Partial<Decommission> = {}): Decommission => {
  const { fleet, host, epoch, sequence, minSequence, emergency, issuedAt, notBefore, expiresAt } =
    makeManifest();
  const common = { fleet, host, epoch, sequence, minSequence, emergency, issuedAt, notBefore };
  const previous = { epoch: 1, sequence: 6, sha256: 'ab'.repeat(32) };
  return { ...common, expiresAt, previous, intent: 'decommission', ...overrides };
};

test('a manifest is read back as it was written', () => {
  for (const manifest of [
    makeManifest(),
    makeManifest({ intent: 'rollback', emergency: true, previous: decommission().previous }),
    decommission(),
  ]) {
    const payload = formatManifest(manifest);
    assert.deepEqual(parseManifest(payload), manifest);
    assert.deepEqual(formatManifest(parseManifest(payload)), payload);
    assert.match(manifestDigest(payload), /^[0-9a-f]{64}$/);
  }
});

test('it is an in-toto Statement v1 whose subjects are the closure file and the toplevel', () => {
  const manifest = makeManifest();
  const statement = read(formatManifest(manifest));
  assert.equal(statement['_type'], 'https://in-toto.io/Statement/v1');
  assert.equal(statement['predicateType'], 'urn:fleet:manifest:v1');
  assert.deepEqual(statement['subject'], [
    { name: 'closure.fp', digest: { sha256: manifest.closure.sha256 } },
    { name: manifest.toplevel, digest: { sha256: narHashHex(manifest.toplevelNarHash) } },
  ]);
});

test('a decommission has no toplevel, and its subject is the manifest that it ends', () => {
  const statement = read(formatManifest(decommission()));
  assert.deepEqual(statement['subject'], [
    { name: 'manifest of web-1', digest: { sha256: 'ab'.repeat(32) } },
  ]);
  const predicate = statement['predicate'] as Fields;
  for (const name of ['toplevel', 'closure', 'activation', 'provenance']) {
    assert.equal(Object.hasOwn(predicate, name), false);
  }
  refuses('E_MANIFEST_FORM', () => formatManifest(decommission({ previous: null })), /ends/);
  const withToplevel = { ...predicate, toplevel: makeManifest().toplevel };
  const bytes = canonicalBytes({ ...statement, predicate: withToplevel });
  refuses('E_MANIFEST_FORM', () => parseManifest(bytes), /unknown field "toplevel"/);
});

test('a source without a revision is marked dirty, and never both or neither', () => {
  const { provenance } = makeManifest();
  const dirty = makeManifest({ provenance: { ...provenance, rev: null } });
  const predicate = read(formatManifest(dirty))['predicate'] as Fields;
  const written = predicate['provenance'] as Fields;
  assert.equal(written['dirty'], true);
  assert.equal(Object.hasOwn(written, 'rev'), false);
  assert.equal(parseManifest(formatManifest(dirty)).intent, 'deploy');
  const both = changed((_, p) => {
    (p['provenance'] as Fields)['dirty'] = true;
  });
  refuses('E_MANIFEST_FORM', () => parseManifest(both), /either rev or dirty/);
  const neither = changed((_, p) => {
    delete (p['provenance'] as Fields)['rev'];
  });
  refuses('E_MANIFEST_FORM', () => parseManifest(neither), /either rev or dirty/);
});

test('unknown fields of the Statement are ignored, those of the predicate refused', () => {
  const open = changed((statement) => {
    statement['later'] = { any: ['thing'] };
    for (const subject of statement['subject'] as Fields[]) subject['annotations'] = {};
  });
  assert.deepEqual(parseManifest(open), makeManifest());
  const closed = changed((_, predicate) => {
    predicate['later'] = 1;
  });
  refuses('E_MANIFEST_FORM', () => parseManifest(closed), /unknown field "later"/);
  const deep = changed((_, predicate) => {
    (predicate['activation'] as Fields)['onFailur'] = 'keep';
  });
  refuses('E_MANIFEST_FORM', () => parseManifest(deep), /did you mean "onFailure"/);
});

test('every field of the predicate is needed', () => {
  const predicate = read(formatManifest(makeManifest()))['predicate'] as Fields;
  for (const name of Object.keys(predicate)) {
    const bytes = changed((_, p) => {
      delete p[name];
    });
    refuses('E_MANIFEST_FORM', () => parseManifest(bytes), new RegExp(`${name} is missing`));
  }
});

test('subjects that the predicate contradicts are refused', () => {
  const hex = narHashHex(makeManifest().toplevelNarHash);
  const good = { name: 'closure.fp', digest: { sha256: makeManifest().closure.sha256 } };
  const top = { name: makeManifest().toplevel, digest: { sha256: hex } };
  for (const subject of [
    [],
    [good],
    [top],
    [top, good],
    [good, top, top],
    [{ ...good, name: 'closure' }, top],
    [{ ...good, digest: { sha256: '00'.repeat(32) } }, top],
    [good, { ...top, name: storePath('c', 'other') }],
    [good, { ...top, digest: { sha512: hex } }],
    [{ ...good, digest: { sha256: good.digest.sha256.toUpperCase() } }, top],
  ]) {
    const bytes = changed((statement) => {
      statement['subject'] = subject;
    });
    refuses('E_MANIFEST_FORM', () => parseManifest(bytes));
  }
});

test("the toplevel's hash comes from the second subject", () => {
  const toplevelNarHash = formatNarHash(new Uint8Array(32).fill(0xee));
  const manifest = parseManifest(formatManifest(makeManifest({ toplevelNarHash })));
  assert.equal(manifest.intent !== 'decommission' && manifest.toplevelNarHash, toplevelNarHash);
});

test('another Statement, or another kind of predicate, is no manifest', () => {
  for (const [name, value] of [
    ['_type', 'https://in-toto.io/Statement/v0.1'],
    ['predicateType', 'urn:fleet:manifest:v2'],
    ['predicateType', 'urn:fleet:enrolment:v1'],
    ['predicate', null],
    ['predicate', 'text'],
  ] as const) {
    const bytes = changed((statement) => {
      statement[name] = value;
    });
    refuses('E_MANIFEST_FORM', () => parseManifest(bytes));
  }
});

test('a payload that is not canonical is refused', () => {
  const text = Buffer.from(formatManifest(makeManifest())).toString();
  refuses('E_PAYLOAD_FORM', () => parseManifest(Buffer.from(`${text}\n`)));
  const doubled = text.replace('"epoch":1', '"epoch":1,"epoch":1');
  refuses('E_PAYLOAD_FORM', () => parseManifest(Buffer.from(doubled)), /duplicate/);
  const float = text.replace('"epoch":1', '"epoch":1.5');
  refuses('E_PAYLOAD_FORM', () => parseManifest(Buffer.from(float)));
  const large = text.replace('"sequence":7', '"sequence":9007199254740992');
  refuses('E_PAYLOAD_FORM', () => parseManifest(Buffer.from(large)));
});

test('fields of a wrong form are refused by name', () => {
  for (const [name, value] of [
    ['epoch', 0],
    ['sequence', 0],
    ['sequence', '7'],
    ['minSequence', -1],
    ['emergency', 1],
    ['intent', 'destroy'],
    ['issuedAt', '2026-02-30T00:00:00Z'],
    ['notBefore', ''],
    ['expiresAt', '2026-06-01T00:00:00+00:00'],
    ['toplevel', '/nix/store/x'],
    ['toplevel', `${makeManifest().toplevel}/bin`],
    ['host', { id: 'Web', system: 'x86_64-linux' }],
    ['host', { id: 'a'.repeat(64), system: 'x86_64-linux' }],
    ['host', { id: 'web_1', system: 'x86_64-linux' }],
    ['host', { id: 'web-1', system: 'linux' }],
    ['fleet', { name: 'a..b', rootVersion: 1 }],
    ['closure', { sha256: 'AB'.repeat(32), bytes: 1, paths: 1, narBytes: 1 }],
    ['previous', { epoch: 1, sequence: 6, sha256: 'ab' }],
  ] as const) {
    const bytes = changed((_, predicate) => {
      predicate[name] = value;
    });
    refuses('E_MANIFEST_FORM', () => parseManifest(bytes), new RegExp(`${name}\\b`));
  }
});

test('numbers and times that contradict each other are refused', () => {
  const sha256 = 'ab'.repeat(32);
  for (const [overrides, pattern] of [
    [{ minSequence: 8 }, /minSequence/],
    [{ previous: { epoch: 1, sequence: 7, sha256 } }, /previous/],
    [{ previous: { epoch: 2, sequence: 1, sha256 } }, /previous/],
    [{ expiresAt: NOW }, /expires/],
    [{ notBefore: NOW + 90 * 86_400 }, /expires/],
  ] as const) {
    refuses('E_MANIFEST_FORM', () => formatManifest(makeManifest(overrides)), pattern);
  }
});

test('sequence 2^53-1 is a manifest, and the next epoch starts again at 1', () => {
  const last = makeManifest({ sequence: Number.MAX_SAFE_INTEGER });
  assert.equal(parseManifest(formatManifest(last)).sequence, 9_007_199_254_740_991);
  const previous = { epoch: 1, sequence: last.sequence, sha256: 'ab'.repeat(32) };
  const reset = makeManifest({ epoch: 2, sequence: 1, previous });
  assert.deepEqual(parseManifest(formatManifest(reset)), reset);
  refuses('E_PAYLOAD_FORM', () => formatManifest(makeManifest({ sequence: 2 ** 53 })));
});
