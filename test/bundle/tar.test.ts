// Bundles: equal input, equal bytes; other tar programs read them; hostile ones are refused.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { test } from 'node:test';
import fc from 'fast-check';
import { type Header, pack } from 'tar-stream';
import {
  type BundleFile,
  readBundle,
  readMembers,
  writeBundle,
  writeMembers,
} from '../../src/bundle/tar.ts';

type Fields = Partial<Header> & { name: string };

const LIMITS = { fileBytes: 100_000, totalBytes: 300_000 };

async function bytesOf(files: Iterable<BundleFile>): Promise<Buffer> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of writeBundle(files)) chunks.push(chunk);
  return Buffer.concat(chunks);
}

async function filesOf(bytes: Uint8Array, limits = LIMITS): Promise<BundleFile[]> {
  const files: BundleFile[] = [];
  for await (const file of readBundle([bytes], limits)) files.push(file);
  return files;
}

/** A tar file as its entries say, whatever that is. */
async function tarOf(...entries: (Fields | [Fields, string])[]): Promise<Buffer> {
  const tar = pack();
  for (const entry of entries) {
    if (Array.isArray(entry)) tar.entry(entry[0] as Header, entry[1]);
    else tar.entry(entry as Header);
  }
  tar.finalize();
  const chunks: Uint8Array[] = [];
  for await (const chunk of tar as unknown as AsyncIterable<Uint8Array>) chunks.push(chunk);
  return Buffer.concat(chunks);
}

test('what is written is read back, and always has the same bytes', async () => {
  const name = fc.stringMatching(/^[a-z0-9]{1,20}(\/[a-z0-9][a-z0-9._-]{0,20}){0,2}$/);
  await fc.assert(
    fc.asyncProperty(
      fc.uniqueArray(fc.record({ name, data: fc.uint8Array({ maxLength: 2000 }) }), {
        selector: (file) => file.name,
      }),
      async (files) => {
        const bytes = await bytesOf(files);
        assert.deepEqual(await bytesOf(files), bytes);
        const back = await filesOf(bytes);
        assert.deepEqual(
          back.map((file) => [file.name, Buffer.from(file.data).toString('hex')]),
          files.map((file) => [file.name, Buffer.from(file.data).toString('hex')]),
        );
      },
    ),
    { numRuns: 50 },
  );
});

test('other programs read it, and find nobody’s name, mode or time in it', async () => {
  const bytes = await bytesOf([{ name: 'a/b.json', data: Buffer.from('{}') }]);
  const listed = execFileSync('tar', ['--utc', '-tvf', '-'], { input: bytes }).toString();
  assert.match(listed, /^-rw-r--r-- 0\/0 +2 1970-01-01 00:00 a\/b\.json\n$/);
});

test('links, directories, devices, long or doubled names, and ways out of it are refused', async () => {
  const ok = { name: 'a', size: 1 };
  for (const [bytes, pattern] of [
    [await tarOf({ name: 'a', type: 'symlink', linkname: '/etc/passwd' }), /is a symlink/],
    [await tarOf({ name: 'a', type: 'link', linkname: 'b' }), /is a link/],
    [await tarOf({ name: 'a', type: 'directory' }), /is a directory/],
    [await tarOf({ name: 'a', type: 'fifo' }), /is a fifo/],
    [await tarOf([{ name: '/etc/passwd' }, 'x']), /no name/],
    [await tarOf([{ name: '../a' }, 'x']), /no name/],
    [await tarOf([{ name: 'a/../../b' }, 'x']), /no name/],
    [await tarOf([{ name: 'a//b' }, 'x']), /no name/],
    [await tarOf([{ name: '.hidden' }, 'x']), /no name/],
    [await tarOf([{ name: 'a\u001b[2J' }, 'x']), /no name/],
    [await tarOf([{ name: 'ä' }, 'x']), /extended header|no name/],
    [await tarOf([{ name: `a/${'b'.repeat(120)}` }, 'x']), /extended header|no name/],
    [await tarOf([ok, 'x'], [ok, 'y']), /comes twice/],
    [await tarOf([{ name: 'a' }, 'x'.repeat(100_001)]), /more than 100000 bytes/],
    [
      await tarOf(
        ...['a', 'b', 'c', 'd'].map((name) => [{ name }, 'x'.repeat(90_000)] as [Fields, string]),
      ),
      /it has more than 300000 bytes/,
    ],
  ] as const) {
    await assert.rejects(filesOf(bytes), (error: Error & { code: string }) => {
      assert.equal(error.code, 'E_BUNDLE_FORM');
      assert.match(error.message, pattern);
      return true;
    });
  }
});

test('what is cut short, or no tar at all, is refused', async () => {
  const bytes = await bytesOf([{ name: 'a', data: Buffer.alloc(5000, 1) }]);
  for (const length of [1, 511, 513, 1000, 5000]) {
    await assert.rejects(
      filesOf(bytes.subarray(0, length)),
      { code: 'E_BUNDLE_FORM' },
      `${length}`,
    );
  }
  await assert.rejects(filesOf(Buffer.alloc(2048, 0x41)), { code: 'E_BUNDLE_FORM' });
});

test('a source that fails says so; a writer refuses names that its reader would', async () => {
  async function* failing() {
    yield Buffer.alloc(512);
    throw new Error('the line went dead');
  }
  const reading = async () => {
    for await (const _ of readBundle(failing(), LIMITS));
  };
  await assert.rejects(reading(), /the line went dead/);
  for (const name of ['../a', '/a', '', 'a'.repeat(101)]) {
    await assert.rejects(bytesOf([{ name, data: Buffer.of() }]), { code: 'E_BUNDLE_FORM' });
  }
});

test('an extended header that says it is longer than memory is refused early', async () => {
  const long = pack();
  long.entry({ name: 'x', size: 2 ** 34 } as Header);
  const [header = Buffer.of()] = await Array.fromAsync(
    (async function* () {
      for await (const chunk of long as unknown as AsyncIterable<Uint8Array>) {
        yield Buffer.from(chunk);
        return;
      }
    })(),
  );
  for (const type of ['x', 'g', 'L', 'K']) {
    const block = Buffer.from(header.subarray(0, 512));
    block.write(type, 156);
    block.write('        ', 148);
    const sum = block.reduce((total, byte) => total + byte, 0);
    block.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148);
    await refusedAfter(block, /exceeds max size/);
  }
});

/** What begins with `start` and goes on for ever with zeros. */
async function refusedAfter(start: Buffer, message: RegExp): Promise<void> {
  let given = 0;
  async function* endless(): AsyncGenerator<Uint8Array> {
    yield start;
    for (; ; given += 65_536) yield Buffer.alloc(65_536);
  }
  const read = async () => {
    for await (const { data } of readMembers(endless(), LIMITS)) for await (const _ of data);
  };
  await assert.rejects(read(), { code: 'E_BUNDLE_FORM', message });
  assert.ok(given < 20 * 2 ** 20, `${given}`);
}

test('files larger than memory pass through in pieces, and have the size that was said', async () => {
  const piece = Buffer.alloc(2 ** 20, 7);
  const size = 300 * piece.length;
  async function* pieces(count: number) {
    for (let i = 0; i < count; i++) yield piece;
  }
  const before = process.memoryUsage().rss;
  let [read, most] = [0, 0];
  const written = writeMembers([{ name: 'big', size, data: pieces(300) }]);
  for await (const { name, data } of readMembers(written, { fileBytes: size, totalBytes: size })) {
    assert.equal(name, 'big');
    for await (const chunk of data) {
      read += chunk.length;
      most = Math.max(most, process.memoryUsage.rss());
    }
  }
  assert.equal(read, size);
  assert.ok(most - before < 150 * 2 ** 20, `${(most - before) / 2 ** 20} MiB`);
  for (const count of [299, 301]) {
    const wrong = writeMembers([{ name: 'big', size, data: pieces(count) }]);
    await assert.rejects(async () => {
      for await (const _ of wrong);
    }, /size/i);
  }
  // Whoever stops reading stops the writing.
  for await (const _ of writeMembers([{ name: 'big', size, data: pieces(300) }])) break;
});
