// The reader against every hostile NAR of the list (rows 1-13, 17; the numbers are the list's),
// each whole and byte by byte.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { type ErrorCode, isFleetError } from '../../src/errors.ts';
import { readNar } from '../../src/nix/nar-read.ts';
import { writeNar } from '../../src/nix/nar-write.ts';
import {
  bytesOf,
  directory,
  entry,
  eventsOf,
  eventsOfTree,
  file,
  inChunks,
  length,
  nar,
  nested,
  raw,
  rewritten,
  symlink,
  token,
  treeArbitrary,
} from '../helpers/nar.ts';

async function refused(bytes: Buffer, message?: RegExp, code: ErrorCode = 'E_NAR_BAD') {
  for (const size of [bytes.length, 1]) {
    await assert.rejects(
      eventsOf(bytes, size),
      (error) =>
        isFleetError(error, code) && (message === undefined || message.test(error.message)),
    );
  }
}

async function accepted(bytes: Buffer) {
  assert.deepEqual(await eventsOf(bytes, 1), await eventsOf(bytes));
  assert.ok((await rewritten(bytes)).equals(bytes));
  assert.ok((await rewritten(bytes, 1)).equals(bytes));
}

const leaf = file('x');
const inRoot = (...entries: Buffer[]) => nar(directory(...entries));
const regular = (...rest: (string | Buffer)[]) => nar('(', 'type', 'regular', ...rest);
const LONG_LENGTHS = [2n ** 64n - 1n, 2n ** 63n, 2n ** 53n, 6n * 2n ** 30n];

describe('readNar', () => {
  for (const name of ['', '.', '..', 'x/y', '/', 'a\0b', '\0']) {
    it(`1: refuses an entry named ${JSON.stringify(name)}`, () =>
      refused(inRoot(entry(name, leaf))));
  }
  it('2: refuses a directory that takes the place of a symlink', () =>
    refused(
      inRoot(entry('zzz', symlink('../out')), entry('zzz', directory(entry('f', leaf)))),
      /two entries/,
    ));
  it('3: refuses the same name twice', async () => {
    await refused(inRoot(entry('a', leaf), entry('a', leaf)), /two entries/);
    await refused(inRoot(entry('a', directory()), entry('a', leaf)), /two entries/);
    await refused(inRoot(entry('a', directory()), entry('a', directory())), /two entries/);
  });
  it('3: refuses names that do not increase bytewise', async () => {
    await refused(inRoot(entry('b', leaf), entry('a', leaf)), /after/);
    await refused(inRoot(entry('ab', leaf), entry('a', leaf)), /after/);
    await refused(inRoot(entry('\xff', leaf), entry('\x7f', leaf)), /after/);
    await refused(inRoot(entry('a', directory(entry('z', leaf))), entry('A', leaf)), /after/);
  });
  it('3: bytes decide, not UTF-16 units', () =>
    // U+FF5E before U+1F600 in UTF-8; UTF-16 would have them the other way round.
    accepted(inRoot(entry('\xef\xbd\x9e', leaf), entry('\xf0\x9f\x98\x80', leaf))));
  it('4: refuses an entry below a symlink', async () => {
    await refused(inRoot(entry('m', symlink('/etc')), entry('m/x', leaf)), /slash/);
    await refused(
      inRoot(
        raw('entry', '(', 'name', 'm', 'node', '(', 'type', 'symlink', 'target', 'x', 'entry'),
      ),
    );
  });
  it('5: refuses a leaf below 64 directories, accepts it below 63', async () => {
    await refused(nar(nested(64, leaf)), /too deep/);
    await accepted(nar(nested(63, leaf)));
    await refused(nar(nested(64, directory())), /too deep/);
    await accepted(nar(nested(63, directory())));
  });
  it('5: a hundred thousand directories do not exhaust the stack', () =>
    assert.rejects(eventsOf(nar(nested(100_000, leaf))), /too deep/));

  for (const claimed of LONG_LENGTHS) {
    it(`6: refuses a token of ${claimed} bytes without allocating`, async () => {
      const before = process.memoryUsage().arrayBuffers;
      await refused(length(claimed), /bytes where magic should be/);
      await refused(nar(length(claimed)), /where node should be/);
      await refused(
        nar('(', 'type', 'directory', 'entry', '(', 'name', length(claimed)),
        /name text/,
      );
      await refused(nar('(', 'type', 'symlink', 'target', length(claimed)), /target text/);
      assert.ok(process.memoryUsage().arrayBuffers - before < 1 << 20);
    });
  }
  it('6: refuses a file of 2^53 bytes or more', async () => {
    for (const claimed of LONG_LENGTHS.slice(0, 3)) {
      await refused(regular('contents', length(claimed)), /2\^53/);
    }
  });
  it('6: a file that claims gigabytes allocates nothing and is cut short', async () => {
    const before = process.memoryUsage().arrayBuffers;
    const bytes = regular('contents', length(2n ** 53n - 1n), Buffer.from('x'));
    await refused(bytes, undefined, 'E_NAR_TRUNCATED');
    assert.ok(process.memoryUsage().arrayBuffers - before < 1 << 20);
  });
  it('6: caps are 32 for a tag, 255 for a name, 4095 for a target', async () => {
    await refused(nar('('.repeat(33)), /33 bytes/);
    await refused(nar('('.repeat(32)), /should be/);
    await refused(inRoot(entry('n'.repeat(256), leaf)), /256 bytes/);
    await accepted(inRoot(entry('n'.repeat(255), leaf)));
    await accepted(nar(symlink('t'.repeat(4095))));
  });
  it('7: refuses a target that is empty, of 4096 bytes, or with a NUL', async () => {
    await refused(nar(symlink('')), /empty/);
    await refused(nar(symlink('t'.repeat(4096))), /4096 bytes/);
    await refused(nar(symlink('a\0b')), /NUL/);
  });
  it('8: refuses padding that is not zero', async () => {
    await refused(Buffer.concat([token('nix-archive-1', 1), leaf]), /padding/);
    await refused(nar(token('(', 0xff)), /padding/);
    await refused(nar('(', 'type', 'directory', 'entry', '(', 'name', token('n', 1)), /padding/);
    await refused(nar('(', 'type', 'symlink', 'target', token('t', 1)), /padding/);
    await refused(regular('contents', token('x', 1)), /padding/);
    await refused(regular('contents', length(1), Buffer.from('x\0\0\0\0\0\0\x01'), ')'), /padding/);
  });
  it('8: padding after contents is checked when it comes in a chunk of its own', async () => {
    const head = regular('contents', length(3), Buffer.from('abc'));
    for (const padding of ['\x01\0\0\0\0', '\0\0\0\0\x01']) {
      const chunks = [head, Buffer.from(padding, 'latin1'), token(')')];
      await assert.rejects(bytesOf(writeNar(readNar(inTurn(chunks)))), /padding/);
    }
  });
  it('9: refuses words in the wrong place', async () => {
    await refused(regular('executable', 'yes', 'contents', 'x', ')'));
    await refused(regular('contents', 'x', 'executable', '', ')'));
    await refused(regular('executable', '', 'executable', '', 'contents', 'x', ')'));
    await refused(regular(')'));
    await refused(regular('executable', '', ')'));
    await refused(nar('(', 'type', 'directory', 'entry', '(', 'node', leaf, 'name', 'a', ')', ')'));
    await refused(nar('(', 'type', 'directory', 'entry', '(', 'name', 'a', ')', ')'));
    await refused(nar('(', 'type', 'directory', 'entry', 'name', 'a', 'node', leaf, ')'));
    await refused(nar('(', 'type', 'fifo', ')'), /unknown type "fifo"/);
    await refused(nar('(', 'type', '', ')'), /unknown type/);
    await refused(nar('(', 'type', 'symlink', 'executable', '', 'target', 'x', ')'));
    await refused(nar('type', 'regular'));
    await refused(raw('nix-archive-2', leaf), /nix-archive-1/);
    await refused(raw('(', 'type', 'regular'), /nix-archive-1/);
  });
  it('10: refuses every NAR that is cut short, wherever', async () => {
    const bytes = inRoot(
      entry('file', file('contents')),
      entry('link', symlink('x')),
      entry(
        'sub',
        directory(
          entry('exe', raw('(', 'type', 'regular', 'executable', '', 'contents', 'y', ')')),
        ),
      ),
    );
    await accepted(bytes);
    for (let end = 0; end < bytes.length; end++) {
      await assert.rejects(eventsOf(bytes.subarray(0, end), 13), { code: 'E_NAR_TRUNCATED' });
    }
  });
  it('11: refuses bytes after the end', async () => {
    await refused(Buffer.concat([nar(leaf), Buffer.alloc(1)]), /after its end/);
    await refused(Buffer.concat([nar(leaf), nar(leaf)]), /after its end/);
    await refused(nar(directory(), ')'), /after its end/);
  });
  it("12: refuses names with Nix's case-hack suffix", () =>
    refused(inRoot(entry('a~nix~case~hack~1', leaf)), /case~hack/));
  it('13: keeps NFC and NFD spellings of one name apart', async () => {
    const [nfd, nfc] = ['e\u0301', '\u00e9'].map((name) => Buffer.from(name).toString('latin1'));
    const bytes = inRoot(entry(nfd ?? '', leaf), entry(nfc ?? '', leaf));
    await accepted(bytes);
    const names = (await eventsOf(bytes)).flatMap((event) => ('name' in event ? [event.name] : []));
    assert.deepEqual(names, [null, nfd, nfc]);
  });
  it('17: the root may be a file, an executable or a symlink', async () => {
    await accepted(nar(leaf));
    await accepted(nar(file('')));
    await accepted(regular('executable', '', 'contents', 'x', ')'));
    await accepted(nar(symlink('/nix/store')));
    await accepted(nar(directory()));
  });

  it('any tree comes back as the same events and bytes, in chunks of any size', async () => {
    await fc.assert(
      fc.asyncProperty(treeArbitrary, fc.integer({ min: 1, max: 40 }), async (tree, chunk) => {
        const bytes = await bytesOf(writeNar(eventsOfTree(tree)));
        const joined = [...eventsOfTree(tree, null, 1 << 20)].map((event) =>
          event.type === 'contents'
            ? { type: 'contents', hex: Buffer.from(event.data).toString('hex') }
            : event,
        );
        assert.deepEqual(await eventsOf(bytes, chunk), joined);
        assert.ok((await rewritten(bytes, chunk)).equals(bytes));
      }),
      { numRuns: 200 },
    );
  });
  it('a NAR with one byte changed is refused or is another NAR', async () => {
    await fc.assert(
      fc.asyncProperty(
        treeArbitrary,
        fc.nat(),
        fc.integer({ min: 1, max: 255 }),
        async (tree, at, flip) => {
          const bytes = await bytesOf(writeNar(eventsOfTree(tree)));
          const index = at % bytes.length;
          bytes[index] = (bytes[index] ?? 0) ^ flip;
          try {
            assert.ok((await rewritten(bytes)).equals(bytes));
          } catch (error) {
            assert.ok(isFleetError(error, 'E_NAR_BAD', 'E_NAR_TRUNCATED'));
          }
        },
      ),
      { numRuns: 1000 },
    );
  });
  it('contents are views of the chunk, not copies', async () => {
    const bytes = nar(file('abcdefgh'));
    for await (const event of readNar(inChunks(bytes))) {
      if (event.type === 'contents') assert.equal(event.data.buffer, bytes.buffer);
    }
  });
});

async function* inTurn(chunks: Uint8Array[]): AsyncGenerator<Uint8Array> {
  yield* chunks;
}
