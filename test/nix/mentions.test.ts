// The two searches for store paths in bytes, each beside a plain one over the whole text.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { findHashParts, MentionScanner } from '../../src/nix/mentions.ts';
import { hashPartOf } from '../../src/nix/storepath.ts';
import { inChunks } from '../helpers/nar.ts';
import { storePath } from '../helpers/paths.ts';

const paths = ['a', 'b', 'c'].map((seed) => storePath(seed, 'name'));
const [a = '', b = '', c = ''] = paths.map(hashPartOf);

function mentions(text: string, chunk = text.length): string[] {
  const scanner = new MentionScanner();
  const bytes = Buffer.from(text, 'latin1');
  for (let at = 0; at < bytes.length; at += chunk) {
    // A copy that is spoilt afterwards: chunks may be used again by whoever made them.
    const piece = Buffer.from(bytes.subarray(at, at + chunk));
    scanner.push(piece);
    piece.fill(0x2f);
  }
  return [...scanner.found].sort();
}

/** Pieces that add up to mentions, near mentions and noise. */
const textArbitrary = fc
  .array(
    fc.oneof(
      fc.constantFrom(
        '/nix/store/',
        '/nix/store',
        '/nix/',
        '/',
        '-',
        a,
        b,
        c,
        a.slice(1),
        b.slice(0, 31),
      ),
      fc.constantFrom(...paths),
      fc.string({ maxLength: 5 }),
    ),
    { maxLength: 30 },
  )
  .map((pieces) => pieces.join(''));

describe('MentionScanner', () => {
  it('finds whole store paths, each once, wherever they stand', () => {
    const text = `x${paths[0]}/bin:${paths[0]}\0/nix/store/${paths[1]}"/nix/store//nix/store/${c}-`;
    assert.deepEqual(mentions(text), [a, b, c].sort());
  });
  it('passes over hash parts that are in no path', () => {
    for (const text of [
      a,
      `/nix/store/${a}`,
      `/nix/store/${a}x-name`,
      `/nix/store/${a.slice(1)}-name`,
      `/nix/store/e${a.slice(1)}-name`,
      `/nix/store/${a.toUpperCase()}-name`,
      `/gnu/store/${a}-name`,
      `/nix/store${a}-name`,
      '',
    ]) {
      assert.deepEqual(mentions(text), [], text);
    }
  });
  it('finds the same in chunks of any size', () => {
    fc.assert(
      fc.property(textArbitrary, fc.integer({ min: 1, max: 100 }), (text, chunk) => {
        const pattern = /(?=\/nix\/store\/([0-9a-df-np-sv-z]{32})-)/g;
        const plain = new Set([...text.matchAll(pattern)].map((match) => match[1]));
        assert.deepEqual(mentions(text, chunk), [...plain].sort());
      }),
      { numRuns: 500 },
    );
  });
  it('refuses more than 65,536 different ones', () => {
    const scanner = new MentionScanner();
    for (let i = 0; i < 65_536; i++) scanner.push(Buffer.from(storePath(`${i}`)));
    scanner.push(Buffer.from(storePath('0')));
    assert.equal(scanner.found.size, 65_536);
    assert.throws(() => scanner.push(Buffer.from(storePath('one more'))), {
      code: 'E_UPLOAD_LIMIT',
    });
  });
});

describe('findHashParts', () => {
  it('finds what is wanted anywhere, as Nix does, and nothing else', async () => {
    await fc.assert(
      fc.asyncProperty(textArbitrary, fc.integer({ min: 1, max: 100 }), async (text, chunk) => {
        const found = await findHashParts(inChunks(Buffer.from(text), chunk), new Set([a, b]));
        assert.deepEqual([...found].sort(), [a, b].filter((hash) => text.includes(hash)).sort());
      }),
      { numRuns: 500 },
    );
  });
  it('reads no further than it must', async () => {
    let taken = 0;
    const chunks = async function* () {
      for (const text of ['x', a, b, c]) {
        taken += 1;
        yield Buffer.from(text);
      }
    };
    assert.deepEqual(await findHashParts(chunks(), new Set([a])), new Set([a]));
    assert.equal(taken, 2);
    assert.deepEqual(await findHashParts(chunks(), new Set()), new Set());
  });
});
