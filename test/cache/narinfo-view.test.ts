// Index rows as narinfo texts, signed when they are served.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { narInfoFor } from '../../src/cache/narinfo-view.ts';
import { narHashHex } from '../../src/nix/hash.ts';
import { parseNarInfo } from '../../src/nix/narinfo.ts';
import { generateNixKey, nixPublicKeyOf, verifyPathSignature } from '../../src/nix/signature.ts';
import { hashPartOf } from '../../src/nix/storepath.ts';
import { storePath } from '../helpers/paths.ts';
import { cachedPath } from '../helpers/rows.ts';

test('a row becomes a narinfo that says where its blob is', () => {
  const row = cachedPath('a', [storePath('a'), storePath('b')].sort());
  const keys = [generateNixKey('one-1'), generateNixKey('two-1')];
  const info = parseNarInfo(narInfoFor(row, keys), { hashPart: hashPartOf(row.path) });
  assert.equal(info.url, `nar/${row.blob}.nar.zst`);
  assert.equal(info.compression, 'zstd');
  assert.ok(info.fileHash !== null);
  assert.equal(narHashHex(info.fileHash), row.blob);
  assert.equal(info.fileSize, row.blobSize);
  const { path, narHash, narSize, references, deriver } = row;
  assert.deepEqual(
    [info.path, info.narHash, info.narSize, info.references, info.deriver],
    [path, narHash, narSize, references, deriver],
  );
  const [one = '', two = '', ...more] = info.sigs;
  assert.deepEqual(more, []);
  for (const [i, sig] of [one, two].entries()) {
    assert.deepEqual(
      keys.map((key) => verifyPathSignature(row, sig, [nixPublicKeyOf(key)])),
      [i === 0, i === 1],
    );
  }
});

test('without keys there is no signature, without a deriver no line of it', () => {
  const text = narInfoFor({ ...cachedPath('a'), deriver: null }, []);
  assert.doesNotMatch(text, /^(Sig|Deriver):/m);
});
