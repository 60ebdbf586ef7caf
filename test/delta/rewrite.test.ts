// An old NAR with new hash parts: the same at any place, however it is read, as when all of it is rewritten at once.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { narInMemory, type OldNar } from '../../src/delta/old-nar.ts';
import { readNar, rewritten } from '../../src/delta/rewrite.ts';
import { parseStorePath } from '../../src/nix/storepath.ts';

const pathOf = (char: string, name = 'x') =>
  parseStorePath(`/nix/store/${char.repeat(32)}-${name}`);
const [a, b, c, d] = [pathOf('a'), pathOf('b'), pathOf('c'), pathOf('d')];
const renames = new Map([
  [a, c],
  [b, d],
]);

/** Copies, as pieces are valid until the next. */
const all = (nar: OldNar) => Buffer.concat([...readNar(nar).map((one) => Uint8Array.from(one))]);

const piece = fc.oneof(
  fc.constantFrom(
    a,
    b,
    c,
    `${a}`.slice(0, 42),
    `${b}`.slice(1),
    '/nix/store/',
    '/nix/store//nix/store/',
    `/nix/store/${a}`,
  ),
  fc.string({ maxLength: 60 }),
);

describe('rewriting', () => {
  it('gives at any place what rewriting all of it gives', () => {
    fc.assert(
      fc.property(
        fc.array(piece),
        fc.array(fc.tuple(fc.nat(), fc.nat({ max: 200 }))),
        (pieces, reads) => {
          const text = pieces.join('');
          const old = Buffer.from(text, 'latin1');
          const expected = Buffer.from(
            text
              .replaceAll(a.slice(0, 43), '\0'.repeat(43))
              .replaceAll(b.slice(0, 43), d.slice(0, 43))
              .replaceAll('\0'.repeat(43), c.slice(0, 43)),
            'latin1',
          );
          const nar = rewritten(narInMemory(old), renames);
          for (const [from, length] of reads) {
            const at = from % (old.length + 1);
            const target = Buffer.alloc(Math.min(length, old.length - at));
            nar.read(at, target);
            assert.deepEqual(target, expected.subarray(at, at + target.length));
          }
          assert.deepEqual(all(nar), expected);
        },
      ),
    );
  });

  it('sees what lies over the ends of its own windows', () => {
    for (let at = 128 * 1024 - 50; at < 128 * 1024 + 5; at++) {
      const old = Buffer.alloc(300_000, 'x');
      old.write(a, at);
      const whole = all(rewritten(narInMemory(old), renames));
      old.write(c, at);
      assert.ok(whole.equals(old), `${at}`);
    }
  });

  it('does not rewrite what it is given to read from', () => {
    const old = Buffer.from(`${a} and ${b}`);
    const copy = Buffer.from(old);
    assert.equal(all(rewritten(narInMemory(old), renames)).toString(), `${c} and ${d}`);
    assert.deepEqual(old, copy);
  });

  it('refuses what lies beyond the end', () => {
    const nar = rewritten(narInMemory(Buffer.from(a)), renames);
    assert.throws(() => nar.read(a.length - 3, Buffer.alloc(4)), { code: 'E_PATCH_BAD' });
    assert.throws(() => narInMemory(Buffer.alloc(3)).read(4, Buffer.alloc(0)), {
      code: 'E_PATCH_BAD',
    });
  });

  it('is read anew after a read that failed', () => {
    let fails = true;
    const inner = narInMemory(Buffer.from(a));
    const nar = rewritten(
      {
        size: inner.size,
        read: (offset, target) => {
          if (fails) throw new Error('disk');
          inner.read(offset, target);
        },
      },
      renames,
    );
    assert.throws(() => nar.read(0, Buffer.alloc(4)), { message: 'disk' });
    fails = false;
    assert.equal(all(nar).toString(), c);
  });
});
