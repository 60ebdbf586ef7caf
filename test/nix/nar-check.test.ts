// checkNar hands on exactly the signed NAR, or fails before the last of it is out of its hands. Bombs are in
// nar-hostile.test.ts.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { describe, it } from 'node:test';
import { formatNarHash } from '../../src/nix/hash.ts';
import { checkNar } from '../../src/nix/nar-check.ts';
import { bytesOf, directory, entry, file, inChunks, nar, raw } from '../helpers/nar.ts';

const hashOf = (bytes: Uint8Array) => formatNarHash(createHash('sha256').update(bytes).digest());
const good = nar(directory(entry('a', file('text')), entry('b', file('more'))));
const signed = { narSize: good.length, narHash: hashOf(good) };

/** How many bytes came through before the error. */
async function passed(chunks: AsyncIterable<Uint8Array>, expect = signed) {
  let bytes = 0;
  try {
    for await (const chunk of checkNar(chunks, expect)) bytes += chunk.length;
  } catch (error) {
    return { bytes, error };
  }
  return { bytes, error: undefined };
}

describe('checkNar', () => {
  it('passes the signed NAR through, in chunks of any size', async () => {
    for (const size of [1, 7, 8, 64, good.length]) {
      assert.ok((await bytesOf(checkNar(inChunks(good, size), signed))).equals(good));
    }
  });
  it('refuses at the first byte too many', async () => {
    const more = Buffer.concat([good, Buffer.alloc(1)]);
    await assert.rejects(bytesOf(checkNar(inChunks(more), signed)), { code: 'E_NAR_LIMIT' });
    await assert.rejects(bytesOf(checkNar(inChunks(more, 1), signed)), { code: 'E_NAR_LIMIT' });
    const short = { ...signed, narSize: good.length - 1 };
    await assert.rejects(bytesOf(checkNar(inChunks(good, 64), short)), { code: 'E_NAR_LIMIT' });
    // Byte by byte the hash tells already at the last byte allowed.
    await assert.rejects(bytesOf(checkNar(inChunks(good, 1), short)), { code: 'E_NAR_MISMATCH' });
  });
  it('refuses an early end', async () => {
    for (let end = 0; end < good.length; end++) {
      const cut = inChunks(good.subarray(0, end), 16);
      await assert.rejects(bytesOf(checkNar(cut, signed)), { code: 'E_NAR_TRUNCATED' });
    }
    const longer = { ...signed, narSize: good.length + 1 };
    await assert.rejects(bytesOf(checkNar(inChunks(good), longer)), { code: 'E_NAR_TRUNCATED' });
  });
  it('a signed hash of something that is no NAR does not make it one', async () => {
    const bad = raw('nix-archive-1', '(', 'type', 'regular', 'contents', 'x');
    const expect = { narSize: bad.length, narHash: hashOf(bad) };
    await assert.rejects(bytesOf(checkNar(inChunks(bad), expect)), { code: 'E_NAR_TRUNCATED' });
    const foreign = Buffer.alloc(64, 'x');
    const other = { narSize: 64, narHash: hashOf(foreign) };
    await assert.rejects(bytesOf(checkNar(inChunks(foreign), other)), { code: 'E_NAR_BAD' });
  });
  it('another hash is refused before the last chunk is handed on', async () => {
    const other = nar(directory(entry('a', file('text')), entry('b', file('mope'))));
    for (const size of [1, 64, other.length]) {
      const { bytes, error } = await passed(inChunks(other, size));
      assert.ok(bytes < other.length);
      assert.equal((error as { code?: string }).code, 'E_NAR_MISMATCH');
    }
  });
  it('a NAR that goes on after its end, or whose source fails there, is never handed on whole', async () => {
    const one = Buffer.alloc(1);
    async function* fails() {
      yield* inChunks(good, 64);
      throw new Error('the frame is cut');
    }
    async function* goesOn() {
      yield* inChunks(good, 64);
      yield one;
    }
    for (const source of [fails(), goesOn()]) {
      const { bytes, error } = await passed(source);
      assert.ok(bytes < good.length);
      assert.ok(error instanceof Error);
    }
  });
  it('every single changed byte is refused', async () => {
    for (let at = 0; at < good.length; at++) {
      const changed = Buffer.from(good);
      changed[at] = (changed[at] ?? 0) ^ 0x20;
      await assert.rejects(bytesOf(checkNar(inChunks(changed, 32), signed)), {
        code: /^E_NAR_(BAD|MISMATCH|TRUNCATED|LIMIT)$/,
      });
    }
  });
  it('a chunk that ends at the signed size, within a longer NAR, is another NAR', async () => {
    const long = nar(file('x'.repeat(4096)));
    const { bytes, error } = await passed(inChunks(long, 1024), { ...signed, narSize: 2048 });
    assert.equal((error as { code?: string }).code, 'E_NAR_MISMATCH');
    assert.equal(bytes, 1024);
  });
});
