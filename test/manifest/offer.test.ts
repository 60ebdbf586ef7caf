import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  formatOffer,
  MAX_OFFER_BYTES,
  MAX_OFFER_ROOTS,
  type Offer,
  parseOffer,
} from '../../src/manifest/offer.ts';
import { makeManifest, makeRoot, refuses, signManifest, signRoot } from '../helpers/trust.ts';

const HASH = `${'A'.repeat(43)}=`;

const OFFER: Offer = {
  offerVersion: 2,
  minAgent: 2,
  roots: [signRoot({ ...makeRoot(), version: 2 })],
  checkpoint: 'a note\n',
  growth: [HASH, HASH],
  anchor: [],
  snapshot: { text: 'fleet-snapshot/v1\n', proof: [HASH] },
  entry: { index: 0, epoch: 1, sequence: 1, sha256: 'ab'.repeat(32), proof: [] },
  manifest: signManifest(makeManifest()),
  logged: { index: 7, proof: [HASH] },
  approval: null,
  closure: { sha256: 'ab'.repeat(32), bytes: 1234 },
};
const text = (changes: object): string => JSON.stringify({ ...OFFER, ...changes });

test('an offer carries its envelopes verbatim', () => {
  assert.deepEqual(parseOffer(formatOffer(OFFER)), OFFER);
  assert.deepEqual(parseOffer(Buffer.from(formatOffer(OFFER))), OFFER);
  const last = { ...OFFER, roots: [], closure: null };
  assert.deepEqual(parseOffer(formatOffer(last)), last);
});

test('an offer that is too new says so, and to upgrade, whatever else it holds', () => {
  for (const changes of [{ offerVersion: 3 }, { minAgent: 3 }, { offerVersion: 9, later: {} }]) {
    refuses('E_OFFER_VERSION', () => parseOffer(text(changes)), /too new/);
  }
  assert.throws(() => parseOffer(text({ minAgent: 3 })), { hint: /upgrade/ });
});

test('an offer of a wrong form is refused by name', () => {
  for (const [changes, pattern] of [
    [{ offerVersion: 0 }, /offerVersion/],
    [{ offerVersion: 1 }, /offerVersion/],
    [{ offerVersion: '2' }, /offerVersion/],
    [{ minAgent: 0 }, /minAgent/],
    [{ roots: {} }, /roots/],
    [{ roots: [5] }, /roots\.0/],
    [{ checkpoint: 5 }, /checkpoint/],
    [{ checkpoint: 'x'.repeat(8193) }, /checkpoint/],
    [{ growth: ['AAAA'] }, /growth\.0/],
    [{ growth: new Array(55).fill(HASH) }, /growth/],
    [{ snapshot: { text: '' } }, /snapshot\.proof/],
    [{ entry: { ...OFFER.entry, index: -1 } }, /entry\.index/],
    [{ logged: { index: 1.5, proof: [] } }, /logged\.index/],
    [{ manifest: null }, /manifest/],
    [{ closure: { sha256: 'x', bytes: 1 } }, /closure\.sha256/],
    [{ closure: { sha256: 'ab'.repeat(32), bytes: 0 } }, /closure\.bytes/],
    [{ manifst: 1 }, /unknown field "manifst"; did you mean "manifest"/],
  ] as const) {
    refuses('E_OFFER_FORM', () => parseOffer(text(changes)), pattern);
  }
  for (const bad of ['', '[]', 'null', '5', '<html>', '{"offerVersion":1']) {
    refuses('E_OFFER_FORM', () => parseOffer(bad));
  }
  refuses('E_OFFER_FORM', () => parseOffer(Buffer.of(0x22, 0xff, 0x22)), /not JSON/);
});

test('sizes are capped: the offer before it is parsed, then every envelope, then their number', () => {
  const huge = Buffer.alloc(MAX_OFFER_BYTES + 1, 0x20);
  refuses('E_OFFER_FORM', () => parseOffer(huge), /more than/);
  const large = 'x'.repeat(61_441);
  refuses('E_OFFER_FORM', () => parseOffer(text({ manifest: large })), /61440/);
  refuses('E_OFFER_FORM', () => parseOffer(text({ roots: ['', large] })), /roots\.1/);
  const roots = new Array<string>(MAX_OFFER_ROOTS + 1).fill('');
  refuses('E_OFFER_FORM', () => parseOffer(text({ roots })), /roots/);
  refuses('E_OFFER_FORM', () => formatOffer({ ...OFFER, roots }), /roots/);
});

test('the largest offer there can be is within the cap', () => {
  const envelope = '"'.repeat(61_440);
  const roots = new Array<string>(MAX_OFFER_ROOTS).fill(envelope);
  const offer = { ...OFFER, roots, manifest: envelope };
  assert.deepEqual(parseOffer(formatOffer(offer)), offer);
});
