// dumpNar by itself; that its bytes are Nix's own is shown in test/e2e/nar.test.ts, and files
// that change meanwhile are in nar-hostile.test.ts.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { closeSync, openSync, readdirSync, readlinkSync } from 'node:fs';
import { mkdir, rm, symlink, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { dumpNar } from '../../src/nix/nar-dump.ts';
import { CHUNK_BYTES } from '../../src/nix/nar-write.ts';
import {
  bytesOf,
  directory,
  entry,
  eventsOf,
  file,
  symlink as link,
  nar,
  rewritten,
} from '../helpers/nar.ts';
import { temporaryDirectory } from '../helpers/temporary.ts';

const LONG = 4 * CHUNK_BYTES;

describe('dumpNar', () => {
  it('writes a small tree as the format says', async () => {
    await using temporary = await temporaryDirectory();
    const root = join(temporary.path, 't');
    await mkdir(join(root, 'empty'), { recursive: true });
    await writeFile(join(root, 'a'), 'text');
    await symlink('../nowhere', join(root, 'z'));
    const expected = nar(
      directory(
        entry('a', file('text')),
        entry('empty', directory()),
        entry('z', link('../nowhere')),
      ),
    );
    assert.ok((await bytesOf(dumpNar(root))).equals(expected));
  });

  it('refuses pipes and sockets by name, and does not wait for them', async () => {
    await using temporary = await temporaryDirectory();
    const pipe = join(temporary.path, 'pipe');
    execFileSync('mkfifo', [pipe]);
    const refusal = {
      code: 'E_NAR_BAD',
      message: /neither a file/,
      hint: /socket, pipe or device/,
    };
    await assert.rejects(bytesOf(dumpNar(pipe)), refusal);
    await assert.rejects(bytesOf(dumpNar(temporary.path)), refusal);
    await rm(pipe);
    const server = createServer();
    await new Promise<void>((done) => server.listen(join(temporary.path, 'sock'), done));
    await assert.rejects(bytesOf(dumpNar(temporary.path)), refusal);
    await new Promise((done) => server.close(done));
    await assert.rejects(bytesOf(dumpNar('/dev/null')), refusal);
  });

  it('refuses what its reader would refuse', async () => {
    await using temporary = await temporaryDirectory();
    await writeFile(join(temporary.path, 'x~nix~case~hack~1'), '');
    await assert.rejects(bytesOf(dumpNar(temporary.path)), {
      code: 'E_NAR_BAD',
      message: /case~hack/,
    });
    await rm(join(temporary.path, 'x~nix~case~hack~1'));
    await mkdir(join(temporary.path, 'd/'.repeat(63)), { recursive: true });
    await bytesOf(dumpNar(temporary.path));
    await mkdir(join(temporary.path, 'd/'.repeat(64)), { recursive: true });
    await assert.rejects(bytesOf(dumpNar(temporary.path)), {
      code: 'E_NAR_BAD',
      message: /too deep/,
    });
  });

  it('a path that is not there is the system error, naming it', () =>
    assert.rejects(bytesOf(dumpNar('/nonexistent/path')), { code: 'ENOENT' }));

  it('names and targets are bytes, sorted bytewise', async () => {
    await using temporary = await temporaryDirectory();
    const names = [
      'A',
      'B',
      'a',
      'e\xcc\x81',
      '\x01',
      '\x80',
      '\xc3\xa9',
      '\xff\xfe',
      '\xef\xbd\x9e',
      '\xf0\x9f\x98\x80',
    ];
    for (const name of names) {
      const path = Buffer.from(`${temporary.path}/${name}`, 'latin1');
      await symlink(Buffer.from(`\xff${name}`, 'latin1'), path);
    }
    const expected = nar(
      directory(...[...names].sort().map((name) => entry(name, link(`\xff${name}`)))),
    );
    assert.ok((await bytesOf(dumpNar(temporary.path))).equals(expected));
  });

  it('contents of every length around its buffers come out whole', async () => {
    await using temporary = await temporaryDirectory();
    const sizes = [0, 1, 7, 8, 9, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1];
    for (let size = CHUNK_BYTES - 8600; size < CHUNK_BYTES - 7900; size += 53) sizes.push(size);
    for (const size of sizes) {
      const contents = Buffer.alloc(size, 'contents');
      await writeFile(join(temporary.path, `${size}`), contents);
    }
    const bytes = await bytesOf(dumpNar(temporary.path));
    assert.ok((await rewritten(bytes, 65_537)).equals(bytes));
    const read = (await eventsOf(bytes)).filter((event) => event.type === 'contents');
    assert.deepEqual(
      read.map((event) => event.hex.length / 2),
      [...sizes]
        .map(String)
        .sort()
        .map(Number)
        .filter((size) => size > 0),
    );
    for (const { hex } of read) {
      assert.ok(Buffer.alloc(hex.length / 2, 'contents').equals(Buffer.from(hex, 'hex')));
    }
  });

  it('chunks are at most 256 KiB, and few for many small files', async () => {
    await using temporary = await temporaryDirectory();
    for (let i = 0; i < 2000; i++) closeSync(openSync(join(temporary.path, `${i}`), 'w'));
    await writeFile(join(temporary.path, 'long'), Buffer.alloc(LONG));
    const sizes: number[] = [];
    for await (const chunk of dumpNar(temporary.path)) sizes.push(chunk.length);
    assert.ok(Math.max(...sizes) <= CHUNK_BYTES);
    const total = sizes.reduce((a, b) => a + b);
    assert.ok(sizes.length <= Math.ceil(total / CHUNK_BYTES) + 2, `${sizes}`);
  });

  it('a consumer that stops early leaves no file open', async () => {
    await using temporary = await temporaryDirectory();
    const path = join(temporary.path, 'f');
    await writeFile(path, Buffer.alloc(LONG));
    const isOpen = () => readdirSync('/proc/self/fd').some((fd) => leadsTo(fd) === path);
    for await (const _ of dumpNar(path)) {
      assert.ok(isOpen());
      break;
    }
    assert.ok(!isOpen());
  });

  it('lets the event loop turn while it works', async () => {
    await using temporary = await temporaryDirectory();
    for (let i = 0; i < 3000; i++) await writeFile(join(temporary.path, `${i}`), 'x');
    let turns = 0;
    const ticking = setInterval(() => turns++, 1);
    const start = performance.now();
    for (let i = 0; i < 5; i++) await bytesOf(dumpNar(temporary.path));
    const spent = performance.now() - start;
    clearInterval(ticking);
    assert.ok(turns > spent / 100, `${turns} turns in ${spent} ms`);
  });
});

/** The file behind a descriptor of this process; null: it was closed meanwhile, as others come and go. */
function leadsTo(fd: string): string | null {
  try {
    return readlinkSync(`/proc/self/fd/${fd}`);
  } catch {
    return null;
  }
}
