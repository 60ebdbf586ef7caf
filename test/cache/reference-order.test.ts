// The order in which rows go out: never before a row that they refer to, all of them in the end.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { ReferenceOrder } from '../../src/cache/reference-order.ts';
import type { StorePath } from '../../src/nix/storepath.ts';

type Row = { path: StorePath; references: StorePath[] };
const path = (i: number): StorePath => `/nix/store/${String(i).padStart(32, '0')}-x` as StorePath;

test('whatever the order in which they finish, references go out before referrers, and all go out', () => {
  fc.assert(
    fc.property(
      // Row i refers to itself or not, and to some rows before it: a closure has no other cycles.
      fc.array(fc.tuple(fc.boolean(), fc.array(fc.nat(1000), { maxLength: 4 })), { maxLength: 40 }),
      fc.infiniteStream(fc.nat()),
      (specs, picks) => {
        const rows = specs.map(([self, refs], i): Row => {
          const others = i === 0 ? [] : [...new Set(refs.map((ref) => ref % i))].map(path);
          return { path: path(i), references: self ? [...others, path(i)] : others };
        });
        const order = new ReferenceOrder<Row>(rows.map((row) => row.path));
        const left = [...rows];
        const out: Row[] = [];
        while (left.length > 0) {
          const at = (picks.next().value ?? 0) % left.length;
          for (const row of left.splice(at, 1)) out.push(...order.finish(row));
        }
        assert.equal(new Set(out).size, rows.length);
        const seen = new Set<StorePath>();
        for (const row of out) {
          seen.add(row.path);
          for (const reference of row.references) assert.ok(seen.has(reference));
        }
      },
    ),
  );
});

test('a reference that is not to be finished here holds nothing up', () => {
  const order = new ReferenceOrder<Row>([path(1)]);
  const row = { path: path(1), references: [path(0)] };
  assert.deepEqual(order.finish(row), [row]);
});
