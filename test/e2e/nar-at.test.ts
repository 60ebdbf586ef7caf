// NarAt beside `nix-store --dump`: the whole NAR, and any piece of it, over trees with many files and with large ones.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { chmodSync, mkdirSync, rmSync, symlinkSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, test } from 'node:test';
import fc from 'fast-check';
import { NarAt } from '../../src/nix/nar-at.ts';
import { restoreNar } from '../../src/nix/nar-restore.ts';
import { writeNar } from '../../src/nix/nar-write.ts';
import { bytesOf, eventsOfTree, treeArbitrary } from '../helpers/nar.ts';
import { temporaryDirectory } from '../helpers/temporary.ts';

const temporary = await temporaryDirectory();
after(() => temporary[Symbol.asyncDispose]());

const dump = (path: string): Buffer =>
  execFileSync('nix-store', ['--dump', path], {
    maxBuffer: 1 << 28,
    stdio: ['ignore', 'pipe', 'ignore'],
  });

/** Small files by the thousand, a large one, links, an empty file and an empty directory. */
function plant(root: string): void {
  for (let i = 0; i < 3000; i++) {
    const dir = join(root, `dir-${i % 60}`);
    mkdirSync(dir, { recursive: true });
    writeFileSync(join(dir, `file-${i}`), Buffer.alloc((i * 37) % 1500, `contents of ${i} `));
  }
  mkdirSync(join(root, 'empty'));
  writeFileSync(Buffer.from(`${root}/\xff\xfe`, 'latin1'), 'a name that is no text');
  writeFileSync(join(root, 'large'), Buffer.alloc(5_000_011, '0123456789abcdef-'));
  writeFileSync(join(root, 'program'), '#!/bin/sh\n');
  chmodSync(join(root, 'program'), 0o755);
  symlinkSync('../nowhere', join(root, 'link'));
}

const big = join(temporary.path, 'big');
plant(big);

test('a big tree: all of it, and pieces at random places', async () => {
  const expected = dump(big);
  using nar = await NarAt.open(big);
  assert.equal(nar.size, expected.length);
  const whole = Buffer.alloc(nar.size);
  nar.read(0, whole);
  assert.ok(whole.equals(expected));
  for (let i = 0; i < 5000; i++) {
    const length = Math.floor(Math.random() ** 4 * 300_000);
    const offset = Math.floor(Math.random() * (nar.size - length));
    const piece = Buffer.alloc(length, 0xaa);
    nar.read(offset, piece);
    assert.ok(piece.equals(expected.subarray(offset, offset + length)), `${length} at ${offset}`);
  }
});

test('a byte at a time, forwards and backwards, over the end of every file', async () => {
  const dir = join(big, 'dir-7');
  const expected = dump(dir);
  using nar = await NarAt.open(dir);
  const byte = Buffer.alloc(1);
  for (let at = 0; at < expected.length; at++) {
    nar.read(at, byte);
    assert.equal(byte[0], expected[at], `at ${at}`);
  }
  for (let at = expected.length - 1; at >= 0; at -= 3) {
    nar.read(at, byte);
    assert.equal(byte[0], expected[at], `at ${at}`);
  }
});

test('a file, a link and an empty file by themselves', async () => {
  for (const name of ['large', 'program', 'link', 'empty']) {
    const expected = dump(join(big, name));
    using nar = await NarAt.open(join(big, name));
    const whole = Buffer.alloc(nar.size);
    nar.read(0, whole);
    assert.ok(whole.equals(expected), name);
    nar.read(nar.size, Buffer.alloc(0));
  }
});

test('random trees', async () => {
  let count = 0;
  await fc.assert(
    fc.asyncProperty(treeArbitrary, async (tree) => {
      const expected = await bytesOf(writeNar(eventsOfTree(tree)));
      const path = join(temporary.path, `random-${count++}`);
      await restoreNar(writeNar(eventsOfTree(tree)), path);
      using nar = await NarAt.open(path);
      const whole = Buffer.alloc(nar.size);
      nar.read(0, whole);
      assert.ok(whole.equals(expected));
    }),
    { numRuns: 60 },
  );
});

test('a read outside of it', async () => {
  using nar = await NarAt.open(join(big, 'program'));
  assert.throws(() => nar.read(nar.size - 1, Buffer.alloc(2)), { code: 'E_PATCH_BAD' });
  assert.throws(() => nar.read(-1, Buffer.alloc(2)), { code: 'E_PATCH_BAD' });
});

const changes: [string, (file: string) => void][] = [
  ['grew', (file) => writeFileSync(file, 'before and after')],
  ['was written to', (file) => utimesSync(file, 5, 5)],
  ['vanished', (file) => rmSync(file)],
  [
    'became a link',
    (file) => {
      rmSync(file);
      symlinkSync('other', file);
    },
  ],
];
for (const [name, change] of changes) {
  test(`a file that ${name}`, async () => {
    const root = join(temporary.path, name);
    mkdirSync(root);
    for (const one of ['file', 'other']) writeFileSync(join(root, one), 'before');
    using nar = await NarAt.open(root);
    change(join(root, 'file'));
    assert.throws(() => nar.read(0, Buffer.alloc(nar.size)), { code: 'E_NAR_CHANGED' });
  });
}

test('what a NAR cannot hold', async () => {
  const pipe = join(temporary.path, 'pipe');
  execFileSync('mkfifo', [pipe]);
  await assert.rejects(NarAt.open(pipe), { code: 'E_NAR_BAD' });
  await assert.rejects(NarAt.open(join(temporary.path, 'absent')), { code: 'ENOENT' });
});
