// Ingest of what the real Nix has in its store, judged by the real Nix; and a disk that is too small.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { cp, mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { ingestClosure } from '../../src/cache/ingest.ts';
import { formatNarUrl } from '../../src/cache/nar-url.ts';
import { narInfoFor } from '../../src/cache/narinfo-view.ts';
import { queryClosure, queryPathInfos } from '../../src/nix/query.ts';
import { formatNixPublicKey, generateNixKey, nixPublicKeyOf } from '../../src/nix/signature.ts';
import { hashPartOf, parseStorePath } from '../../src/nix/storepath.ts';
import { createFileBlobs, openFileBlobs } from '../../src/storage/file-blobs.ts';
import { createState, openState } from '../../src/storage/sqlite.ts';
import { nix, openScratch, register, storeArguments, writeFiles } from '../helpers/nix-scratch.ts';
import { storePath } from '../helpers/paths.ts';
import { stored } from '../helpers/rows.ts';

test('Nix substitutes from the blobs and narinfos of its own store, signatures demanded', async () => {
  await using scratch = await openScratch();
  const { dir } = scratch;
  const root = join(dir, 'root');
  await writeFiles(dir, { 'tree/bin/run': '#!/bin/sh\n', 'tree/share/text': 'x'.repeat(5000) });
  const added = (await nix(storeArguments(root, '--add', join(dir, 'tree')))).trim();
  const top = storePath('top', 'top');
  await register(root, top, `needs ${added}`, [parseStorePath(added)]);

  const infos = await queryPathInfos(await queryClosure([top], { root }), { root });
  assert.equal(infos.length, 2);
  await createState(join(dir, 'fleet.db'));
  await createFileBlobs(join(dir, 'blobs'));
  await using state = await openState(join(dir, 'fleet.db'), { writer: 'inline' });
  const blobs = await openFileBlobs(join(dir, 'blobs'));
  await ingestClosure(infos, { state, blobs, storeDir: join(root, 'nix/store') });

  const cache = join(dir, 'cache');
  const key = generateNixKey('test-1');
  await mkdir(join(cache, 'nar'), { recursive: true });
  await writeFile(join(cache, 'nix-cache-info'), 'StoreDir: /nix/store\n');
  for (const row of await state.cachedPaths(infos.map((info) => info.path))) {
    const narinfo = join(cache, `${hashPartOf(row.path)}.narinfo`);
    await writeFile(narinfo, narInfoFor(row, [key]));
    const { blob } = stored(row);
    await cp(join(dir, 'blobs', blob.slice(0, 2), blob.slice(2)), join(cache, formatNarUrl(blob)));
  }

  const target = join(dir, 'target');
  const copy = (trusted: string) => [
    ...['nix', '--extra-experimental-features', 'nix-command', 'copy', '--from', `file://${cache}`],
    ...['--to', `local?root=${target}`, '--option', 'trusted-public-keys', trusted, top],
  ];
  const stranger = formatNixPublicKey(nixPublicKeyOf(generateNixKey('test-1')));
  await assert.rejects(nix(copy(stranger)), /signature|trusted/);
  await nix(copy(formatNixPublicKey(nixPublicKeyOf(key))));
  await nix(storeArguments(target, '--verify', '--check-contents'));
  const copied = await queryPathInfos(await queryClosure([top], { root: target }), {
    root: target,
  });
  assert.deepEqual(
    copied.map((info) => [info.path, info.narHash]),
    infos.map((info) => [info.path, info.narHash]),
  );
});

test('a full disk stops the ingest, keeps what is whole, and goes on when there is room', async () => {
  await using scratch = await openScratch();
  const program = fileURLToPath(new URL('../fixtures/ingest-on-a-small-disk.ts', import.meta.url));
  // A mount namespace of its own: the small disk is gone with the process.
  const user = process.getuid?.() === 0 ? [] : ['--map-root-user'];
  const args = ['--mount', ...user, process.execPath, program, scratch.dir];
  const said = JSON.parse(execFileSync('unshare', args, { encoding: 'utf8' }));
  assert.equal(said.full.code, 'E_DISK_FULL');
  assert.match(said.full.hint, /free some space/);
  assert.ok(said.kept > 0 && said.kept < 24, `${said.kept} kept`);
  assert.equal(said.rowsWithoutBlob, 0);
  assert.equal(said.blobs, said.kept);
  assert.deepEqual(said.temporaries, []);
  assert.equal(said.enlarged.reused, said.kept);
  assert.equal(said.enlarged.ingested, 24 - said.kept);
  // SQLite says "I/O error" to both: which one it is, the file system knows.
  const [[whenFull], [otherwise, hint]] = said.ioErrors;
  assert.deepEqual([whenFull, otherwise], ['E_DISK_FULL', 'E_STATE_ACCESS']);
  assert.match(hint, /disk and file system/);
});
