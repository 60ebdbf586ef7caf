// dumpNar and restoreNar beside `nix-store --dump` and `nix-store --restore`, over trees with all
// that a file system takes.
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  closeSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import fc from 'fast-check';
import { dumpNar } from '../../src/nix/nar-dump.ts';
import { restoreNar } from '../../src/nix/nar-restore.ts';
import { writeNar } from '../../src/nix/nar-write.ts';
import { bytesOf, eventsOfTree, inChunks, rewritten, treeArbitrary } from '../helpers/nar.ts';
import { temporaryDirectory } from '../helpers/temporary.ts';

const nixDump = (path: string) =>
  execFileSync('nix-store', ['--dump', path], {
    maxBuffer: 1 << 28,
    stdio: ['ignore', 'pipe', 'ignore'],
  });
const nixRestore = (bytes: Buffer, target: string) =>
  execFileSync('nix-store', ['--restore', target], {
    input: bytes,
    stdio: ['pipe', 'ignore', 'ignore'],
  });

/** Everything that lstat tells and Nix sets, by path below `root`. */
function modes(root: string): Map<string, string> {
  const found = new Map<string, string>();
  const open = [Buffer.from(root)];
  for (let path = open.pop(); path !== undefined; path = open.pop()) {
    const stat = lstatSync(path);
    const name = path.subarray(Buffer.byteLength(root)).toString('latin1');
    found.set(name, stat.isSymbolicLink() ? 'link' : stat.mode.toString(8));
    if (!stat.isDirectory()) continue;
    for (const child of readdirSync(path, 'buffer')) {
      open.push(Buffer.concat([path, Buffer.from('/'), child]));
    }
  }
  return found;
}

/** A tree with every kind of node, name, mode and size. */
function plant(root: string): void {
  const at = (name: string) => Buffer.from(`${root}/${name}`, 'latin1');
  mkdirSync(at('empty'), { recursive: true });
  mkdirSync(at('deep/'.repeat(62)), { recursive: true });
  writeFileSync(at(`${'deep/'.repeat(62)}leaf`), 'leaf');
  for (const mode of [0o400, 0o444, 0o644, 0o755, 0o700, 0o654, 0o4755, 0o511]) {
    const path = at(`mode-${mode.toString(8)}`);
    writeFileSync(path, 'x');
    chmodSync(path, mode);
  }
  const sizes = [0, 1, 7, 8, 9, 255, 4096, 65_535, 262_143, 262_144, 262_145, 1_000_003];
  for (const size of sizes) writeFileSync(at(`size-${size}`), Buffer.alloc(size, 'contents'));
  const names = [
    ' ',
    '-',
    '...',
    '.hidden',
    'A',
    'a',
    'a b',
    'new\nline',
    'quote"\'',
    'n'.repeat(255),
    '\x01',
    '\x7f',
    '\x80',
    '\xff\xfe',
    'e\xcc\x81',
    '\xc3\xa9',
    '\xef\xbd\x9e',
    '\xf0\x9f\x98\x80',
  ];
  for (const name of names) writeFileSync(at(`names-${name}`.slice(0, 255)), name);
  mkdirSync(at('names'));
  for (const name of names) writeFileSync(at(`names/${name}`), '');
  mkdirSync(at('links'));
  for (const [i, target] of ['.', '..', '/', '/etc/passwd', '\xff', 'x'.repeat(4095)].entries()) {
    symlinkSync(Buffer.from(target, 'latin1'), at(`links/${i}`));
  }
}

describe('NARs beside Nix', () => {
  let temporary: Awaited<ReturnType<typeof temporaryDirectory>>;
  let tree = '';
  let bytes = Buffer.alloc(0);
  before(async () => {
    temporary = await temporaryDirectory();
    tree = join(temporary.path, 'tree');
    plant(tree);
    bytes = nixDump(tree);
  });
  after(async () => {
    await temporary[Symbol.asyncDispose]();
  });

  it('dumpNar writes what nix-store --dump writes, byte for byte', async () => {
    assert.ok((await bytesOf(dumpNar(tree))).equals(bytes));
  });
  it('readNar and writeNar give it back', async () => {
    assert.ok((await rewritten(bytes, 4093)).equals(bytes));
  });
  it('dumpNar and Nix agree on a root that is a file, an executable, a symlink', async () => {
    for (const name of ['size-9', 'mode-755', 'links/3', 'empty']) {
      const path = join(tree, name);
      assert.ok((await bytesOf(dumpNar(path))).equals(nixDump(path)), name);
    }
  });
  it('restoreNar makes what nix-store --restore makes, modes too', async () => {
    const [ours, theirs] = [join(temporary.path, 'ours'), join(temporary.path, 'theirs')];
    await restoreNar(inChunks(bytes, 65_521), ours);
    nixRestore(bytes, theirs);
    assert.deepEqual(modes(ours), modes(theirs));
    assert.ok(nixDump(ours).equals(bytes));
  });
  it('Nix restores what writeNar writes, for any tree', async () => {
    let count = 0;
    await fc.assert(
      fc.asyncProperty(treeArbitrary, async (any) => {
        const written = await bytesOf(writeNar(eventsOfTree(any)));
        const target = join(temporary.path, `any-${count++}`);
        nixRestore(written, target);
        assert.ok(nixDump(target).equals(written));
        assert.ok((await bytesOf(dumpNar(target))).equals(written));
      }),
      { numRuns: 25 },
    );
  });
  it('a file of more than 4 GiB begins as with Nix', async () => {
    // Sparse: it takes no room on disk, and its length needs more than 32 bits.
    const path = join(temporary.path, 'huge');
    closeSync(openSync(path, 'w'));
    truncateSync(path, 2 ** 32 + 12_345);
    const head = async (chunks: AsyncIterable<Uint8Array>) => {
      let bytes = Buffer.alloc(0);
      for await (const chunk of chunks) {
        bytes = Buffer.concat([bytes, chunk]);
        if (bytes.length >= 4096) break;
      }
      return bytes.subarray(0, 4096);
    };
    const nix = spawn('nix-store', ['--dump', path], { stdio: ['ignore', 'pipe', 'ignore'] });
    const closed = once(nix, 'close');
    assert.ok((await head(dumpNar(path))).equals(await head(nix.stdout)));
    nix.kill();
    await closed;
  });
  it('memory is bounded, however long a file is', async () => {
    const path = join(temporary.path, 'long');
    const size = 400 * 2 ** 20 + 1;
    closeSync(openSync(path, 'w'));
    truncateSync(path, size);
    const before = process.memoryUsage.rss();
    let [total, peak] = [0, 0];
    for await (const chunk of dumpNar(path)) {
      total += chunk.length;
      if (total % 64 === 0) peak = Math.max(peak, process.memoryUsage.rss());
    }
    // 96 bytes of words before the contents, 7 of padding and 16 for the parenthesis after them.
    assert.equal(total, 96 + size + 7 + 16);
    assert.ok(peak > 0 && peak - before < 64 * 2 ** 20, `${before} grew to ${peak}`);
  });
});
