// decompress beside the programs that people compress with: all that they can unpack comes out whole,
// however the line cut it, and what is cut short or followed by other bytes is refused, never shortened.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { describe, it } from 'node:test';
import { zstdCompressSync } from 'node:zlib';
import { isFleetError } from '../../src/errors.ts';
import { decompress } from '../../src/nix/decompress.ts';
import type { Compression } from '../../src/nix/narinfo.ts';
import { bytesOf, inChunks } from '../helpers/nar.ts';

type Kind = Extract<Compression, 'xz' | 'zstd'>;

function run(program: string, args: readonly string[], input: Uint8Array): Buffer {
  return execFileSync(program, args, { input, maxBuffer: 1 << 28 });
}

const unpack = (bytes: Uint8Array, kind: Compression, chunk?: number) =>
  bytesOf(decompress(inChunks(bytes, chunk), kind));

const badStream =
  (kind: Kind, what = /./) =>
  (error: unknown) =>
    isFleetError(error, 'E_NAR_BAD') &&
    error.message.startsWith(`not a${kind === 'xz' ? 'n' : ''} ${kind} stream: `) &&
    what.test(error.message);

const texts = Buffer.alloc(700_000, 'text that repeats, ');
const noise = randomBytes(300_000);
const short = Buffer.from('short');
/** Parts that are compressed one by one, and with what. */
const PACKERS: readonly [Kind, string, (bytes: Uint8Array) => Buffer][] = [
  ['zstd', 'Node', (bytes) => zstdCompressSync(bytes)],
  ['zstd', 'zstd -19, with checksums', (bytes) => run('zstd', ['-19', '-c'], bytes)],
  ['zstd', 'zstd -1, without checksums', (bytes) => run('zstd', ['-1', '--no-check', '-c'], bytes)],
  ['xz', 'xz -6', (bytes) => run('xz', ['-6', '-c'], bytes)],
  ['xz', 'xz -0, CRC32', (bytes) => run('xz', ['-0', '--check=crc32', '-c'], bytes)],
  ['xz', 'xz in blocks', (bytes) => run('xz', ['-T2', '--block-size=65536', '-c'], bytes)],
];
/** What zstd's and pzstd's files may hold between frames, which means nothing. */
const skippable = (content: string) => {
  const head = Buffer.alloc(8);
  head.writeUInt32LE(0x184d2a57, 0);
  head.writeUInt32LE(content.length, 4);
  return Buffer.concat([head, Buffer.from(content)]);
};

describe('decompress', () => {
  for (const [kind, packer, pack] of PACKERS) {
    it(`${packer}: unpacks, whatever the chunks`, async () => {
      for (const part of [Buffer.alloc(0), short, texts, noise]) {
        const packed = pack(part);
        for (const chunk of [1000, 65_536, packed.length]) {
          assert.ok((await unpack(packed, kind, chunk)).equals(part));
        }
      }
      assert.ok((await unpack(pack(short), kind, 1)).equals(short));
    });
    it(`${packer}: several in a row unpack to all they hold, wherever the chunks end`, async () => {
      const parts = [short, texts, Buffer.alloc(0), short];
      const packed = Buffer.concat(parts.map(pack));
      const whole = Buffer.concat(parts);
      for (const chunk of [7, 100, 4096, packed.length]) {
        assert.ok((await unpack(packed, kind, chunk)).equals(whole), `chunks of ${chunk}`);
      }
      const two = pack(short);
      for (let at = 1; at < 2 * two.length; at++) {
        const both = unpack(Buffer.concat([two, two]), kind, at);
        assert.equal((await both).toString(), 'shortshort', `chunks of ${at}`);
      }
    });
    it(`${packer}: an early end is refused, wherever it is`, async () => {
      const one = pack(short);
      for (let end = 0; end < one.length; end++) {
        for (const head of [Buffer.alloc(0), one]) {
          const cut = Buffer.concat([head, one.subarray(0, end)]);
          if (end === 0 && head.length > 0) continue;
          await assert.rejects(unpack(cut, kind), badStream(kind), `${head.length}+${end}`);
          await assert.rejects(unpack(cut, kind, 5), badStream(kind));
        }
      }
      const long = pack(noise);
      await assert.rejects(unpack(long.subarray(0, 200_000), kind, 65_536), badStream(kind));
    });
    it(`${packer}: bytes after the end are refused`, async () => {
      const one = pack(short);
      for (const junk of ['x', '\0', 'junk that is long enough to be looked at']) {
        const packed = Buffer.concat([one, Buffer.from(junk)]);
        for (const chunk of [packed.length, one.length, 1]) {
          await assert.rejects(unpack(packed, kind, chunk), badStream(kind), junk);
        }
      }
    });
    it(`${packer}: a changed byte is refused, or found out by nobody but the reader`, async () => {
      const text = Buffer.from('a text of which every byte counts');
      const one = pack(text);
      const hasCheck = /^xz|with checksums/.test(packer);
      let refused = 0;
      for (let at = 0; at < one.length; at++) {
        const changed = Buffer.from(one);
        changed[at] = (changed[at] ?? 0) ^ 0x10;
        const came = await unpack(changed, kind).catch((error: unknown) => {
          assert.ok(badStream(kind)(error), String(error));
          refused += 1;
          return text;
        });
        if (hasCheck) assert.ok(came.equals(text));
      }
      assert.ok(refused > 4, `${refused} of ${one.length}`);
    });
  }

  it('zstd: skippable frames are skipped, as pzstd writes them', async () => {
    const [a, b] = [zstdCompressSync(short), zstdCompressSync(texts)];
    const packed = Buffer.concat([skippable('size'), a, skippable(''), b, skippable('end')]);
    const whole = Buffer.concat([short, texts]);
    for (const chunk of [1, 9, 13, packed.length]) {
      assert.ok((await unpack(packed, 'zstd', chunk)).equals(whole));
    }
    const cut = Buffer.concat([a, skippable('size').subarray(0, -1)]);
    await assert.rejects(unpack(cut, 'zstd'), badStream('zstd'));
    const parallel = run('pzstd', ['-p', '2', '-1', '-c'], Buffer.concat([texts, noise]));
    assert.ok((await unpack(parallel, 'zstd', 3000)).equals(Buffer.concat([texts, noise])));
  });
  it('zstd: frames without end are refused', async () => {
    const frames = Buffer.concat(Array.from({ length: 16_385 }, () => skippable('')));
    await assert.rejects(unpack(frames, 'zstd', 65_536), badStream('zstd', /over 16384 frames/));
  });
  it('xz: padding between streams and after them is no junk', async () => {
    const one = run('xz', ['-c'], short);
    const padded = Buffer.concat([one, Buffer.alloc(4), one, Buffer.alloc(8)]);
    for (const chunk of [1, 4, padded.length]) {
      assert.equal((await unpack(padded, 'xz', chunk)).toString(), 'shortshort');
    }
    const uneven = Buffer.concat([one, Buffer.alloc(3)]);
    await assert.rejects(unpack(uneven, 'xz'), badStream('xz'));
  });
  it('xz: empty chunks mean nothing', async () => {
    const one = run('xz', ['-c'], short);
    const chunks = async function* () {
      for (const piece of [one, one.subarray(0, 20), one.subarray(20)]) {
        yield Buffer.alloc(0);
        yield piece;
        yield Buffer.alloc(0);
      }
    };
    assert.equal((await bytesOf(decompress(chunks(), 'xz'))).toString(), 'shortshort');
  });
  it('xz: a dictionary over 64 MiB, other filters and checks, and .lzma are refused by name', async () => {
    for (const [args, what] of [
      [['--lzma2=dict=65MiB'], /larger than 64 MiB/],
      [['--x86', '--lzma2'], /filter/],
      [['--check=sha256'], /check/],
      [['--format=lzma'], /no xz header/],
    ] as const) {
      await assert.rejects(unpack(run('xz', [...args, '-c'], short), 'xz'), badStream('xz', what));
    }
    const largest = run('xz', ['--lzma2=dict=64MiB', '-c'], texts);
    assert.ok((await unpack(largest, 'xz')).equals(texts));
  });
  it('xz: many at once, stalled and given up ones too, each get their own bytes', async () => {
    const packed = Array.from({ length: 12 }, (_, i) =>
      run('xz', ['-0', '-c'], Buffer.alloc(200_000, `${i} `)),
    );
    // Given up in the middle: the decoder is another's again.
    for (const each of packed.slice(0, 8)) {
      for await (const _ of decompress(inChunks(each), 'xz')) break;
    }
    const all = await Promise.all(packed.map((each) => unpack(each, 'xz', 50)));
    for (const [i, bytes] of all.entries()) {
      assert.ok(bytes.equals(Buffer.alloc(200_000, `${i} `)), `${i}`);
    }
  });
  it('xz: one that stalls does not hold up another', async () => {
    const one = run('xz', ['-c'], short);
    const { promise, resolve } = Promise.withResolvers<void>();
    const stalled = async function* () {
      yield one.subarray(0, 30);
      await promise;
      yield one.subarray(30);
    };
    const waiting = bytesOf(decompress(stalled(), 'xz'));
    assert.equal((await unpack(one, 'xz')).toString(), 'short');
    resolve();
    assert.equal((await waiting).toString(), 'short');
  });

  for (const kind of ['zstd', 'xz'] as const) {
    it(`${kind}: a reader that stops ends the unpacking and its source`, async () => {
      const packed = run(kind, ['-1', '-c'], randomBytes(4 << 20));
      let [closed, taken] = [false, 0];
      const source = async function* () {
        try {
          for await (const chunk of inChunks(packed, 4096)) {
            taken += chunk.length;
            yield chunk;
          }
        } finally {
          closed = true;
        }
      };
      for await (const chunk of decompress(source(), kind)) {
        assert.ok(chunk.length <= 256 * 1024);
        break;
      }
      // The source hears of it in a later turn.
      for (let turn = 0; turn < 1000 && !closed; turn++) await new Promise(setImmediate);
      assert.ok(closed);
      assert.ok(taken < packed.length / 2, `${taken} of ${packed.length}`);
    });
    it(`${kind}: an error of the source stays what it is`, async () => {
      const source = async function* () {
        yield run(kind, ['-c'], noise).subarray(0, 1000);
        throw new RangeError('line cut');
      };
      await assert.rejects(bytesOf(decompress(source(), kind)), new RangeError('line cut'));
    });
  }
  it('none is handed on as it is; br and bzip2 are refused by name', async () => {
    assert.ok((await unpack(noise, 'none', 999)).equals(noise));
    for (const kind of ['br', 'bzip2'] as const) {
      const error = { code: 'E_UPLOAD_COMPRESSION', message: new RegExp(kind) };
      await assert.rejects(unpack(short, kind), error);
    }
  });
});
