// Every row of the list of hostile NARs, under its number: 1 to 13 and 17 against the reader, each input
// whole and byte by byte; 14 against dumping, 15 against unpacking, 16 (and 2, 4) against restoring.
import assert from 'node:assert/strict';
import { appendFileSync, mkdirSync, readFileSync, rmSync, truncateSync, utimesSync } from 'node:fs';
import { mkdir, readdir, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { describe, it } from 'node:test';
import { constants, createZstdCompress } from 'node:zlib';
import { type ErrorCode, isFleetError } from '../../src/errors.ts';
import { decompress } from '../../src/nix/decompress.ts';
import { checkNar } from '../../src/nix/nar-check.ts';
import { dumpNar } from '../../src/nix/nar-dump.ts';
import { readNar } from '../../src/nix/nar-read.ts';
import { restoreNar } from '../../src/nix/nar-restore.ts';
import { CHUNK_BYTES, writeNar } from '../../src/nix/nar-write.ts';
import {
  bytesOf,
  directory,
  entry,
  eventsOf,
  file,
  inChunks,
  length,
  symlink as link,
  nar,
  nested,
  raw,
  rewritten,
  token,
} from '../helpers/nar.ts';
import { narHash } from '../helpers/paths.ts';
import { temporaryDirectory } from '../helpers/temporary.ts';

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

/** Restores a directory of `entries` beside an empty `out`, which must stay empty. */
async function refusedOnDisk(...entries: Buffer[]) {
  await using temporary = await temporaryDirectory();
  await mkdir(join(temporary.path, 'out'));
  const bytes = inChunks(nar(directory(...entries)), 1);
  await assert.rejects(restoreNar(bytes, join(temporary.path, 't')), { code: 'E_NAR_BAD' });
  assert.deepEqual(await readdir(temporary.path), ['out']);
  assert.deepEqual(await readdir(join(temporary.path, 'out')), []);
}

/** Dumps `path` and does `meanwhile` after the first chunk. */
async function dumpDuring(path: string, meanwhile: () => void): Promise<void> {
  let first = true;
  for await (const _ of dumpNar(path)) {
    if (first) meanwhile();
    first = false;
  }
}

/** Compresses `chunks`, all of which are written before anything is read. */
async function zstd(chunks: readonly Uint8Array[], windowLog = 21): Promise<Buffer> {
  const params = { [constants.ZSTD_c_windowLog]: windowLog };
  const compress = createZstdCompress({ params });
  for (const chunk of chunks) compress.write(chunk);
  compress.end();
  return await bytesOf(compress);
}

const leaf = file('x');
const inRoot = (...entries: Buffer[]) => nar(directory(...entries));
const regular = (...rest: (string | Buffer)[]) => nar('(', 'type', 'regular', ...rest);
const LONG_LENGTHS = [2n ** 64n - 1n, 2n ** 63n, 2n ** 53n, 6n * 2n ** 30n];

describe('hostile NARs', () => {
  it('NAR 1: an entry named empty, `.`, `..`, `x/y`, or with a NUL', async () => {
    for (const name of ['', '.', '..', 'x/y', '/', 'a\0b', '\0']) {
      await refused(inRoot(entry(name, leaf)), /an empty name|the name|a slash or a NUL/);
    }
  });

  it('NAR 2: a symlink, then a directory of the same name in its place', async () => {
    const entries = [entry('zzz', link('../out')), entry('zzz', directory(entry('f', leaf)))];
    await refused(inRoot(...entries), /two entries/);
    await refusedOnDisk(...entries);
  });

  it('NAR 3: the same name twice, or names that do not increase bytewise', async () => {
    await refused(inRoot(entry('a', leaf), entry('a', leaf)), /two entries/);
    await refused(inRoot(entry('a', directory()), entry('a', leaf)), /two entries/);
    await refused(inRoot(entry('a', directory()), entry('a', directory())), /two entries/);
    await refused(inRoot(entry('b', leaf), entry('a', leaf)), /after/);
    await refused(inRoot(entry('ab', leaf), entry('a', leaf)), /after/);
    await refused(inRoot(entry('\xff', leaf), entry('\x7f', leaf)), /after/);
    await refused(inRoot(entry('a', directory(entry('z', leaf))), entry('A', leaf)), /after/);
    // U+FF5E before U+1F600 in UTF-8; UTF-16 would have them the other way round.
    await accepted(inRoot(entry('\xef\xbd\x9e', leaf), entry('\xf0\x9f\x98\x80', leaf)));
  });

  it('NAR 4: a symlink, then an entry below it', async () => {
    const entries = [entry('m', link('../out')), entry('m/x', leaf)];
    await refused(inRoot(...entries), /slash/);
    await refusedOnDisk(...entries);
    await refused(
      inRoot(
        raw('entry', '(', 'name', 'm', 'node', '(', 'type', 'symlink', 'target', 'x', 'entry'),
      ),
    );
  });

  it('NAR 5: directories nested 64 deep and a leaf; 63 are accepted', async () => {
    await refused(nar(nested(64, leaf)), /too deep/);
    await accepted(nar(nested(63, leaf)));
    await refused(nar(nested(64, directory())), /too deep/);
    await accepted(nar(nested(63, directory())));
    // Nor is a stack exhausted.
    await assert.rejects(eventsOf(nar(nested(100_000, leaf))), /too deep/);
  });

  it('NAR 6: lengths of 2^64-1, 2^63 or gigabytes, refused without allocating', async () => {
    const before = process.memoryUsage().arrayBuffers;
    for (const claimed of LONG_LENGTHS) {
      await refused(length(claimed), /bytes where magic should be/);
      await refused(nar(length(claimed)), /where node should be/);
      await refused(
        nar('(', 'type', 'directory', 'entry', '(', 'name', length(claimed)),
        /name text/,
      );
      await refused(nar('(', 'type', 'symlink', 'target', length(claimed)), /target text/);
    }
    for (const claimed of LONG_LENGTHS.slice(0, 3)) {
      await refused(regular('contents', length(claimed)), /2\^53/);
    }
    const claimed = regular('contents', length(2n ** 53n - 1n), Buffer.from('x'));
    await refused(claimed, undefined, 'E_NAR_TRUNCATED');
    assert.ok(process.memoryUsage().arrayBuffers - before < 1 << 20);

    await refused(nar('('.repeat(33)), /33 bytes/);
    await refused(nar('('.repeat(32)), /should be/);
    await refused(inRoot(entry('n'.repeat(256), leaf)), /256 bytes/);
    await accepted(inRoot(entry('n'.repeat(255), leaf)));
    await accepted(nar(link('t'.repeat(4095))));
  });

  it('NAR 7: a symlink target that is empty, of 4096 bytes, or with a NUL', async () => {
    await refused(nar(link('')), /empty/);
    await refused(nar(link('t'.repeat(4096))), /4096 bytes/);
    await refused(nar(link('a\0b')), /NUL/);
  });

  it('NAR 8: padding that is not zero, also while contents are skipped', async () => {
    await refused(Buffer.concat([token('nix-archive-1', 1), leaf]), /padding/);
    await refused(nar(token('(', 0xff)), /padding/);
    await refused(nar('(', 'type', 'directory', 'entry', '(', 'name', token('n', 1)), /padding/);
    await refused(nar('(', 'type', 'symlink', 'target', token('t', 1)), /padding/);
    await refused(regular('contents', token('x', 1)), /padding/);
    await refused(regular('contents', length(1), Buffer.from('x\0\0\0\0\0\0\x01'), ')'), /padding/);
    // In a chunk of its own.
    const head = regular('contents', length(3), Buffer.from('abc'));
    for (const padding of ['\x01\0\0\0\0', '\0\0\0\0\x01']) {
      const chunks = [head, Buffer.from(padding, 'latin1'), token(')')];
      await assert.rejects(bytesOf(writeNar(readNar(Readable.from(chunks)))), /padding/);
    }
  });

  it('NAR 9: words in the wrong place, an unknown type, a wrong magic', async () => {
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

  it('NAR 10: cut in contents, in padding, before the end: wherever', async () => {
    const executable = raw('(', 'type', 'regular', 'executable', '', 'contents', 'y', ')');
    const bytes = inRoot(
      entry('file', file('contents')),
      entry('link', link('x')),
      entry('sub', directory(entry('exe', executable))),
    );
    await accepted(bytes);
    for (let end = 0; end < bytes.length; end++) {
      await assert.rejects(eventsOf(bytes.subarray(0, end), 13), { code: 'E_NAR_TRUNCATED' });
    }
  });

  it('NAR 11: bytes after the end', async () => {
    await refused(Buffer.concat([nar(leaf), Buffer.alloc(1)]), /after its end/);
    await refused(Buffer.concat([nar(leaf), nar(leaf)]), /after its end/);
    await refused(nar(directory(), ')'), /after its end/);
  });

  it("NAR 12: names with Nix's case-hack suffix", () =>
    refused(inRoot(entry('a~nix~case~hack~1', leaf)), /case~hack/));

  it('NAR 13: NFC and NFD spellings of one name are both kept', async () => {
    const [nfd, nfc] = ['e\u0301', '\u00e9'].map((name) => Buffer.from(name).toString('latin1'));
    const bytes = inRoot(entry(nfd ?? '', leaf), entry(nfc ?? '', leaf));
    await accepted(bytes);
    const names = (await eventsOf(bytes)).flatMap((event) => ('name' in event ? [event.name] : []));
    assert.deepEqual(names, [null, nfd, nfc]);
  });

  it('NAR 14: a file that shrinks, grows, is overwritten or vanishes while it is dumped', async () => {
    await using temporary = await temporaryDirectory();
    const long = 4 * CHUNK_BYTES;
    const path = join(temporary.path, 'f');
    await writeFile(path, Buffer.alloc(long));
    const error = { code: 'E_NAR_CHANGED', message: /changed while it was read/ };
    for (const change of [
      () => appendFileSync(path, 'x'),
      () => truncateSync(path, long - 1),
      () => truncateSync(path, 0),
    ]) {
      await assert.rejects(dumpDuring(path, change), error);
    }
    const root = join(temporary.path, 'd');
    mkdirSync(root);
    await writeFile(join(root, 'a'), Buffer.alloc(long));
    await writeFile(join(root, 'b'), 'x');
    const touch = () => utimesSync(join(root, 'a'), 1, 1);
    await assert.rejects(dumpDuring(root, touch), error);
    const remove = () => rmSync(join(root, 'b'));
    await assert.rejects(dumpDuring(root, remove), { ...error, message: /\/b/ });
  });

  it('NAR 15: a few KB that unpack to terabytes stop at the signed size', async () => {
    // One file of a terabyte, of which the unpacker never sees more than a few MiB.
    const head = Buffer.concat([regular('contents'), length(1n << 40n)]);
    const zeros = Buffer.alloc(1 << 20);
    const bomb = await zstd([head, ...Array.from({ length: 64 }, () => zeros)]);
    assert.ok(bomb.length < 16_384, `${bomb.length} bytes`);
    const expect = { narSize: (1 << 20) + 5, narHash: narHash('another') };
    let passed = 0;
    await assert.rejects(
      async () => {
        const unpacked = decompress(inChunks(bomb), 'zstd');
        for await (const chunk of checkNar(unpacked, expect)) passed += chunk.length;
      },
      { code: 'E_NAR_LIMIT' },
    );
    assert.ok(passed < expect.narSize);
  });

  it('NAR 15: a huge zstd window', async () => {
    const window = await zstd([Buffer.alloc(1 << 20), Buffer.alloc(1 << 20)], 27);
    await assert.rejects(bytesOf(decompress(inChunks(window), 'zstd')), {
      code: 'E_NAR_BAD',
      message: /too much memory/,
    });
    const admitted = decompress(inChunks(window), 'zstd', { windowLog: 27 });
    assert.equal((await bytesOf(admitted)).length, 2 << 20);
  });

  it('NAR 16: the target of an unpack is there, and stays as it was', async () => {
    await using temporary = await temporaryDirectory();
    const at = (name: string) => join(temporary.path, name);
    await writeFile(at('file'), 'mine');
    await mkdir(at('dir'));
    await symlink('dir', at('link'));
    await symlink('nowhere', at('dangling'));
    const roots = [leaf, link('x'), directory(entry('a', leaf))];
    for (const name of ['file', 'dir', 'link', 'dangling']) {
      for (const root of roots) {
        const error = { code: 'E_NAR_EXISTS', message: new RegExp(`${name} exists`) };
        await assert.rejects(restoreNar(inChunks(nar(root)), at(name)), error);
      }
    }
    assert.equal(readFileSync(at('file'), 'utf8'), 'mine');
    assert.deepEqual(await readdir(at('dir')), []);
    assert.deepEqual((await readdir(temporary.path)).sort(), ['dangling', 'dir', 'file', 'link']);
  });

  it('NAR 17: the root may be a file, an executable or a symlink', async () => {
    await accepted(nar(leaf));
    await accepted(nar(file('')));
    await accepted(regular('executable', '', 'contents', 'x', ')'));
    await accepted(nar(link('/nix/store')));
    await accepted(nar(directory()));
  });
});
