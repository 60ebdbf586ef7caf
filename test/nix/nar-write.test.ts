// The writer refuses events that are in no NAR's order; that it inverts the reader is shown in
// nar-read.test.ts.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { NarEvent } from '../../src/nix/nar-format.ts';
import { CHUNK_BYTES, writeNar } from '../../src/nix/nar-write.ts';
import { bytesOf, eventsOf } from '../helpers/nar.ts';

const enter = (name: string | null): NarEvent => ({ type: 'directory', name });
const leave: NarEvent = { type: 'leave' };
const link = (name: string | null, target = 't'): NarEvent => ({ type: 'symlink', name, target });
const file = (name: string | null, size: number): NarEvent => ({
  type: 'file',
  name,
  executable: false,
  size,
});
const data = (size: number): NarEvent => ({ type: 'contents', data: new Uint8Array(size) });

describe('writeNar', () => {
  const wrong: [string, NarEvent[], RegExp][] = [
    ['no events', [], /before its end/],
    ['a directory left open', [enter(null)], /before its end/],
    ['one directory end too many', [enter(null), leave, leave], /where none can be/],
    ['two roots', [link(null), link(null)], /where none can be/],
    ['a root with a name', [link('a')], /root/],
    ['an entry without a name', [enter(null), link(null)], /root/],
    ['names out of order', [enter(null), link('b'), link('a')], /out of order/],
    ['a name twice', [enter(null), link('b'), link('b')], /out of order/],
    ['a name with a slash', [enter(null), link('a/b')], /slash/],
    ['an empty target', [link(null, '')], /empty/],
    ['contents beyond the size', [file(null, 3), data(4)], /beyond the size/],
    ['contents without a file', [data(1)], /beyond the size/],
    ['contents that fall short', [enter(null), file('a', 3), data(2), leave], /1 bytes early/],
    ['contents that never come', [file(null, 3)], /before its end/],
    [
      '65 levels',
      [...Array.from({ length: 65 }, (_, i) => enter(i === 0 ? null : 'd'))],
      /too deep/,
    ],
  ];
  for (const [what, events, message] of wrong) {
    it(`refuses ${what}`, () =>
      assert.rejects(bytesOf(writeNar(events)), { code: 'E_NAR_BAD', message }));
  }

  it('makes few chunks of many small nodes, and none too long', async () => {
    const events = [enter(null)];
    for (let i = 0; i < 20_000; i++) {
      events.push(file(String(i).padStart(6, '0'), 5), data(5));
    }
    events.push(leave);
    const sizes: number[] = [];
    for await (const chunk of writeNar(events)) sizes.push(chunk.length);
    const total = sizes.reduce((a, b) => a + b);
    assert.ok(Math.max(...sizes) <= CHUNK_BYTES);
    assert.ok(sizes.length <= Math.ceil(total / (CHUNK_BYTES - 8192)), `${sizes.length} chunks`);
  });

  it('passes long contents on as they are', async () => {
    const contents = Buffer.alloc(CHUNK_BYTES * 3 + 5, 'contents');
    const chunks: Uint8Array[] = [];
    const events: NarEvent[] = [file(null, contents.length), { type: 'contents', data: contents }];
    for await (const chunk of writeNar(events)) chunks.push(chunk);
    assert.ok(chunks.includes(contents));
    const [, read] = await eventsOf(Buffer.concat(chunks), 4096);
    assert.ok(read?.type === 'contents' && read.hex === contents.toString('hex'));
  });
});
