// Groups of NARs that are packed together, and their frames.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { describe, it } from 'node:test';
import { groupWhole } from '../../src/delta/group.ts';
import { packWhole, wholeMemory } from '../../src/delta/whole.ts';
import { decompress } from '../../src/nix/decompress.ts';
import { formatNarHash } from '../../src/nix/hash.ts';
import { parseStorePath } from '../../src/nix/storepath.ts';
import { bytesOf, inChunks } from '../helpers/nar.ts';

const MIB = 1024 * 1024;
const infos = (from: number, to: number, narSize = 3 * MIB) =>
  Array.from({ length: to - from }, (_, i) => {
    const digest = createHash('sha256')
      .update(`${from + i}`)
      .digest();
    const hashPart = digest.toString('hex').replaceAll('e', 'z').slice(0, 32);
    const path = parseStorePath(`/nix/store/${hashPart}-p${from + i}`);
    return { path, narHash: formatNarHash(digest), narSize, references: [] };
  });
const names = (groups: ReturnType<typeof groupWhole>) =>
  groups.map((group) => group.map(({ path }) => path).join());

describe('groupWhole', () => {
  it('has every path once, in order, in groups of 64 MiB at most', () => {
    const all = infos(0, 300);
    const groups = groupWhole(all);
    assert.deepEqual(groups.flat(), all);
    for (const group of groups) assert.ok(group.length * 3 <= 64);
    assert.ok(groups.length <= 45, `${groups.length}`);
  });
  it('puts a larger path alone', () => {
    const large = infos(1000, 1001, 100 * MIB);
    const groups = groupWhole([...infos(0, 2), ...large, ...infos(2, 4)]);
    assert.deepEqual(
      groups.map(({ length }) => length),
      [2, 1, 2],
    );
  });
  it('has most groups in common with those of another list that differs in few', () => {
    const [one, other] = [
      names(groupWhole(infos(0, 400))),
      names(groupWhole([...infos(5000, 5001), ...infos(0, 200), ...infos(201, 400)])),
    ];
    const shared = one.filter((name) => other.includes(name));
    assert.ok(shared.length > one.length / 2, `${shared.length} of ${one.length}`);
  });
});

describe('packWhole', () => {
  it('is one frame that unpacks to all of it within the memory it says', async () => {
    const text = Buffer.from('the same again and again, '.repeat(20_000));
    const frame = await bytesOf(packWhole(inChunks(text, 5000), text.length));
    assert.ok(frame.length < 1000);
    assert.ok((await bytesOf(decompress(inChunks(frame), 'zstd'))).equals(text));
    assert.ok(frame.equals(await bytesOf(packWhole(inChunks(text, 777), text.length))));
    assert.ok(wholeMemory(text.length) < 2 * MIB);
    assert.equal(wholeMemory(2 ** 40), 9 * MIB);
  });
  it('ends with what its source ends with', async () => {
    async function* broken() {
      yield Buffer.alloc(10);
      throw new Error('disk');
    }
    await assert.rejects(bytesOf(packWhole(broken(), 20)), { message: 'disk' });
    await assert.rejects(bytesOf(packWhole(inChunks(Buffer.alloc(5)), 20)));
  });
});
