// Ingest: what becomes servable, what is not done twice, and what a failure leaves.
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { chmod, mkdir, readdir, rm, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { buffer } from 'node:stream/consumers';
import { test } from 'node:test';
import { zstdDecompressSync } from 'node:zlib';
import { SMALL_NAR } from '../../src/cache/compress.ts';
import { WHOLE_NAR } from '../../src/cache/dump-pool.ts';
import {
  type IngestInfo,
  type IngestProgress,
  ingestClosure,
  WORTH_THREADS,
} from '../../src/cache/ingest.ts';
import { FleetError } from '../../src/errors.ts';
import { baseNameOf, hashPartOf } from '../../src/nix/storepath.ts';
import { createFileBlobs, openFileBlobs } from '../../src/storage/file-blobs.ts';
import type { NewPath, StoredPath } from '../../src/storage/state.ts';
import { refused } from '../helpers/nix-scratch.ts';
import { narHash } from '../helpers/paths.ts';
import { emptyState, stored } from '../helpers/rows.ts';
import { addStorePath, narOf } from '../helpers/store.ts';

async function world() {
  const made = await emptyState();
  const { state } = made;
  const dir = join(made.dir, 'blobs');
  await createFileBlobs(dir);
  const blobs = await openFileBlobs(dir);
  const storeDir = join(made.dir, 'store');
  await mkdir(storeDir);
  const options = { state, blobs, storeDir };
  return {
    ...options,
    options,
    ingest: (infos: readonly IngestInfo[]) => ingestClosure(infos, options),
    add: (seed: string, contents: string | Uint8Array = seed, references: IngestInfo[] = []) =>
      addStorePath(
        storeDir,
        seed,
        contents,
        references.map((info) => info.path),
      ),
    row: async (info: IngestInfo): Promise<StoredPath | null> => {
      const row = await state.cachedPath(hashPartOf(info.path));
      return row === null ? null : stored(row);
    },
    file: ({ blob }: StoredPath) => join(dir, blob.slice(0, 2), blob.slice(2)),
    contents: (info: IngestInfo) => join(storeDir, baseNameOf(info.path), 'contents'),
    temporaries: () => readdir(join(dir, 'tmp')),
    [Symbol.asyncDispose]: () => made[Symbol.asyncDispose](),
  };
}

test('paths small and large become rows whose blobs are their NARs', async () => {
  await using made = await world();
  const a = await made.add('a');
  const b = await made.add('b', '', [a]);
  const large = await made.add('large', randomBytes(SMALL_NAR + 100_000), [a, b]);
  const done = await made.ingest([a, b, large, a]);
  const narBytes = a.narSize + b.narSize + large.narSize;
  let blobBytes = 0;
  for (const info of [a, b, large]) {
    const row = await made.row(info);
    assert.ok(row !== null);
    const { blob, blobSize, compression, upstream, sigs, ca, ...rest } = row;
    assert.deepEqual([upstream, sigs, ca], [null, [], null]);
    assert.deepEqual(rest, info);
    assert.equal(compression, 'zstd');
    assert.equal(await made.blobs.size(blob), blobSize);
    blobBytes += blobSize;
    const stream = await made.blobs.get(blob);
    assert.ok(stream !== null);
    const nar = zstdDecompressSync(await buffer(stream));
    assert.deepEqual(nar, await narOf(made.storeDir, info.path));
  }
  assert.deepEqual(done, { ingested: 3, reused: 0, upstream: 0, narBytes, blobBytes });
});

test('paths that threads take come out as those that they do not', async () => {
  await using by = await world();
  await using without = await world();
  const sizes = [0, 1, 100, 70_000, SMALL_NAR, SMALL_NAR + 1, WHOLE_NAR - 4096, WHOLE_NAR];
  const many = Array.from({ length: WORTH_THREADS + sizes.length }, (_, i) => sizes[i] ?? i);
  const make = (made: typeof by) =>
    Promise.all(many.map((size, i) => made.add(`p${i}`, 'words of it '.repeat(size / 12 + 1))));
  const infos = await make(by);
  await make(without);
  assert.ok(infos.some((info) => info.narSize > WHOLE_NAR));
  assert.equal((await by.ingest(infos)).ingested, many.length);
  // One at a time is too few for threads.
  for (const info of infos) await without.ingest([info]);
  for (const info of infos) {
    const row = await by.row(info);
    assert.ok(row !== null);
    const stream = await by.blobs.get(row.blob);
    assert.ok(stream !== null);
    assert.deepEqual(
      zstdDecompressSync(await buffer(stream)),
      await narOf(by.storeDir, info.path),
      info.path,
    );
    const hash = hashPartOf(info.path);
    const listing = await by.state.listing(hash);
    assert.ok(listing !== null);
    assert.deepEqual(listing, await without.state.listing(hash));
  }
});

test('a second time reads nothing, and says the same sizes', async () => {
  await using made = await world();
  const infos = [await made.add('a'), await made.add('b')];
  const first = await made.ingest(infos);
  await rm(made.storeDir, { recursive: true });
  assert.deepEqual(await made.ingest(infos), { ...first, ingested: 0, reused: 2 });
  assert.deepEqual(await made.ingest([]), {
    ingested: 0,
    reused: 0,
    upstream: 0,
    narBytes: 0,
    blobBytes: 0,
  });
});

test('a blob that is gone or short is made anew', async () => {
  await using made = await world();
  const infos = [await made.add('gone'), await made.add('short'), await made.add('well')];
  await made.ingest(infos);
  const rows = await Promise.all(infos.map(made.row));
  const [gone, short] = rows;
  assert.ok(gone && short);
  await made.blobs.delete(gone.blob);
  await truncate(made.file(short), 10);
  assert.equal((await made.ingest(infos)).ingested, 2);
  assert.deepEqual(await Promise.all(infos.map(made.row)), rows);
  assert.equal(await made.blobs.size(gone.blob), gone.blobSize);
  assert.equal(await made.blobs.size(short.blob), short.blobSize);
});

test('what a collection takes while the rest is stored is stored again', async () => {
  await using made = await world();
  const a = await made.add('a');
  const [b, c] = [await made.add('b', 'b', [a]), await made.add('c')];
  await made.ingest([a]);
  let goes = true;
  const addCachedPaths: typeof made.state.addCachedPaths = async (rows, now) => {
    // One path that was there already, and one that has just come.
    if (goes) await made.state.dropPath(a.path, now);
    await made.state.addCachedPaths(rows, now);
    if (goes) await made.state.dropPath(c.path, now);
    goes = false;
  };
  const state = { ...made.state, addCachedPaths };
  await ingestClosure([a, b, c], { ...made.options, state });
  for (const info of [a, b, c]) {
    const row = await made.row(info);
    assert.ok(row !== null && (await made.blobs.size(row.blob)) === row.blobSize, info.path);
  }
});

test('a path that was built anew with other bytes keeps those that were there first', async () => {
  await using made = await world();
  const old = await made.add('a', 'one');
  await made.ingest([old]);
  const anew = await made.add('a', 'another');
  assert.equal(old.path, anew.path);
  assert.notEqual(old.narHash, anew.narHash);
  assert.equal((await made.ingest([anew])).ingested, 0);
  const row = await made.row(anew);
  assert.equal(row?.narHash, old.narHash);
  // Only what cannot be served any more is replaced.
  await made.blobs.delete(row.blob);
  assert.equal((await made.ingest([anew])).ingested, 1);
  assert.equal((await made.row(anew))?.narHash, anew.narHash);
});

test('a path that was built anew with other references replaces its row', async () => {
  await using made = await world();
  const library = await made.add('library');
  const old = await made.add('a', 'one');
  await made.ingest([library, old]);
  const anew = await made.add('a', 'another', [library]);
  assert.equal((await made.ingest([library, anew])).ingested, 1);
  assert.deepEqual((await made.row(anew))?.references, [library.path]);
});

test('no row comes before its blob', async () => {
  await using made = await world();
  const infos = await Promise.all(Array.from({ length: 150 }, (_, i) => made.add(`p${i}`)));
  const seen: string[] = [];
  const state = {
    cachedPaths: made.state.cachedPaths,
    touchPaths: made.state.touchPaths,
    async addCachedPaths(rows: readonly NewPath[], now: number) {
      for (const row of rows) {
        assert.equal(await made.blobs.size(stored(row).blob), row.blobSize);
        seen.push(row.path);
      }
      await made.state.addCachedPaths(rows, now);
    },
  };
  await ingestClosure(infos, { ...made.options, state });
  assert.deepEqual(seen.sort(), infos.map((info) => info.path).sort());
});

const DAMAGES: [string, (file: string) => Promise<void>, RegExp][] = [
  ['another byte', (file) => writeFile(file, 'X'.repeat(100)), /has the hash sha256:\w+ and not/],
  ['more bytes', (file) => writeFile(file, 'x'.repeat(200)), /is larger than \d+ bytes/],
  ['fewer bytes', (file) => writeFile(file, 'x'.repeat(10)), /has \d+ bytes instead of/],
  ['an executable bit', (file) => chmod(file, 0o755), /is larger than/],
  ['no files', (file) => rm(join(file, '..'), { recursive: true }), /lacks files/],
];
for (const [name, damage, message] of DAMAGES) {
  test(`a store path with ${name} than Nix registered is never served`, async () => {
    await using made = await world();
    const [good, bad] = [await made.add('good'), await made.add('bad', 'x'.repeat(100))];
    await damage(made.contents(bad));
    const more = await Promise.all(
      Array.from({ length: WORTH_THREADS }, (_, i) => made.add(`p${i}`)),
    );
    // By threads, and by none.
    for (const infos of [
      [bad, good, ...more],
      [bad, good],
    ]) {
      await assert.rejects(made.ingest(infos), (error) => {
        assert.ok(error instanceof FleetError);
        assert.match(error.hint, /nix-store --verify-path .*-bad.* nix-store --repair-path/);
        return refused('E_STORE_CORRUPT', new RegExp(`-bad .*${message.source}`))(error);
      });
      assert.equal(await made.row(bad), null);
    }
    assert.deepEqual(await made.temporaries(), []);
    // The next run goes on with the rest.
    await made.ingest([good]);
    assert.notEqual(await made.row(good), null);
  });
}

test('a large path that is damaged is refused as well', async () => {
  await using made = await world();
  const bytes = randomBytes(2 * SMALL_NAR);
  const bad = await made.add('bad', bytes);
  await writeFile(made.contents(bad), bytes.fill(0, 100, 101));
  const liar = { ...(await made.add('liar', bytes)), narHash: narHash('another') };
  for (const info of [bad, liar]) {
    await assert.rejects(made.ingest([info]), refused('E_STORE_CORRUPT', /has the hash/));
  }
  const long = { ...liar, narSize: SMALL_NAR + 5 };
  await assert.rejects(made.ingest([long]), refused('E_STORE_CORRUPT', /is larger/));
  const short = { ...liar, narSize: 3 * SMALL_NAR };
  await assert.rejects(made.ingest([short]), refused('E_STORE_CORRUPT', /instead of/));
  assert.deepEqual(await made.temporaries(), []);
  assert.equal((await made.blobs.list()[Symbol.asyncIterator]().next()).done, true);
});

test('a failure keeps what was finished', async () => {
  await using made = await world();
  const infos = await Promise.all(Array.from({ length: 40 }, (_, i) => made.add(`p${i}`)));
  // The smallest comes last.
  const bad = await made.add('bad', '');
  await rm(join(made.contents(bad)));
  await assert.rejects(made.ingest([...infos, bad]), refused('E_STORE_CORRUPT', /-bad/));
  const kept = await made.state.cachedPaths(infos.map((info) => info.path));
  assert.ok(kept.length > 30, `${kept.length} kept`);
  const next = await made.ingest(infos);
  assert.equal(next.reused, kept.length);
  assert.equal(next.ingested, infos.length - kept.length);
});

test('progress counts paths and bytes up to the totals', async () => {
  await using made = await world();
  const infos = await Promise.all(Array.from({ length: 10 }, (_, i) => made.add(`p${i}`)));
  await made.ingest(infos.slice(0, 4));
  const told: IngestProgress[] = [];
  await ingestClosure(infos, { ...made.options, onProgress: (progress) => told.push(progress) });
  assert.deepEqual(
    told.map((progress) => progress.paths),
    [1, 2, 3, 4, 5, 6, 7, 8, 9, 10],
  );
  const totalNarBytes = infos.reduce((sum, info) => sum + info.narSize, 0);
  assert.deepEqual(told.at(-1), {
    paths: 10,
    totalPaths: 10,
    narBytes: totalNarBytes,
    totalNarBytes,
  });
});

test('an aborted ingest stops soon and leaves no temporary file', async () => {
  await using made = await world();
  const infos = await Promise.all(
    Array.from({ length: 20 }, (_, i) => made.add(`p${i}`, randomBytes(SMALL_NAR + 1))),
  );
  const off = new AbortController();
  const ingest = ingestClosure(infos, {
    ...made.options,
    signal: off.signal,
    onProgress: () => off.abort(new Error('called off')),
  });
  await assert.rejects(ingest, /called off/);
  assert.deepEqual(await made.temporaries(), []);
  const kept = await made.state.cachedPaths(infos.map((info) => info.path));
  assert.ok(kept.length >= 1 && kept.length < 20, `${kept.length} kept`);
  await assert.rejects(ingestClosure(infos, { ...made.options, signal: off.signal }), /called off/);
});
