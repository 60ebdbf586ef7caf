// A database of an older version, with rows in it, is brought up to date when it is opened.
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import Sqlite from 'better-sqlite3';
import { hashPartOf } from '../../src/nix/storepath.ts';
import { openState } from '../../src/storage/sqlite.ts';
import { APPLICATION_ID, MIGRATIONS } from '../../src/storage/sqlite-schema.ts';
import { storePath } from '../helpers/paths.ts';
import { cachedPath, hex, manifest } from '../helpers/rows.ts';
import { temporaryDir } from '../helpers/temporary.ts';

test('a database of version 1 opens with all that was in it, and collects', async (t) => {
  const file = join(await temporaryDir(t), 'fleet.db');
  const library = cachedPath('library');
  const program = cachedPath('program', [storePath('library'), storePath('program')].sort());
  const db = new Sqlite(file);
  db.exec(MIGRATIONS[0] ?? '');
  db.pragma(`application_id = ${APPLICATION_ID}`);
  db.pragma('user_version = 1');
  const put = db.prepare('INSERT INTO cached_path VALUES (?,?,?,?,?,?,?,?,?)');
  for (const row of [library, program]) {
    const refs = row.references.map((path) => path.slice(11)).join(' ');
    put.run(
      hashPartOf(row.path),
      row.path,
      row.narHash,
      row.narSize,
      refs,
      row.deriver,
      'zstd',
      row.blob,
      row.blobSize,
    );
    db.prepare('INSERT INTO nar VALUES (?, ?)').run(row.blob, row.blobSize);
  }
  db.prepare('INSERT INTO nar VALUES (?, ?)').run(hex('an older NAR'), 5);
  db.prepare("INSERT INTO credential VALUES (?, 'laptop', 'read', NULL, 5, NULL)").run(
    hex('token'),
  );
  db.close();

  await using state = await openState(file, { writer: 'thread' });
  assert.deepEqual(await state.cachedPath(hashPartOf(library.path)), library);
  assert.deepEqual(await state.cachedPath(hashPartOf(program.path)), program);
  assert.equal((await state.credential(hex('token')))?.scope, 'read');
  const admin = { tokenHash: hex('admin'), name: 'admin', scope: 'admin', host: null } as const;
  await state.addCredential({ ...admin, createdAt: 5, expiresAt: null });

  // Used when it was migrated: nothing goes at once. Then referrers go first, by edges that were made.
  const later = Math.floor(Date.now() / 1000) + 1000;
  await state.beginSweep({ roots: [], cutoff: later - 2000, dryRun: false });
  assert.deepEqual(await state.sweepPaths(100, later), { removed: [], done: true });
  await state.beginSweep({ roots: [], cutoff: later, dryRun: false });
  const removed: string[] = [];
  for (let done = false; !done; ) {
    const step = await state.sweepPaths(1, later);
    removed.push(...step.removed.map(({ path }) => path));
    done = step.done;
  }
  assert.deepEqual(removed, [program.path, library.path]);
  // The NAR that no row named counts as released since then.
  const freed = await state.sweepNars(later + 1, 100, false);
  assert.equal(freed.length, 3);
});

test('a sweep that nobody began is refused', async (t) => {
  const file = join(await temporaryDir(t), 'fleet.db');
  const { createState } = await import('../../src/storage/sqlite.ts');
  await createState(file);
  for (const writer of ['inline', 'thread'] as const) {
    await using state = await openState(file, { writer });
    await assert.rejects(state.sweepPaths(1, 1), { code: 'E_GC_INTERRUPTED' });
  }
});

test('a database of version 4 opens with its manifests, published and waiting, and its tokens', async (t) => {
  const file = join(await temporaryDir(t), 'fleet.db');
  const db = new Sqlite(file);
  for (const sql of MIGRATIONS.slice(0, 4)) db.exec(sql);
  db.pragma(`application_id = ${APPLICATION_ID}`);
  db.pragma('user_version = 4');
  const [published, waiting] = [manifest('a', 1, 1), manifest('a', 1, 2)];
  db.exec("INSERT INTO host (host, public_key, enrolled_at) VALUES ('a', 'KEY', 5)");
  for (const [table, one] of [
    ['manifest', published],
    ['pending_manifest', waiting],
  ] as const) {
    db.prepare(
      `INSERT INTO ${table} (host, epoch, sequence, digest, envelope, toplevel, closure, closure_bytes,
         issued_at, expires_at)
       VALUES (@host, @epoch, @sequence, @digest, @envelope, @toplevel, @closure, @closureBytes,
         @issuedAt, @expiresAt)`,
    ).run(one);
  }
  db.prepare("INSERT INTO credential VALUES (?, 'host:a', 'host', 'a', 5, NULL)").run(hex('t'));
  db.close();
  await using state = await openState(file, { writer: 'inline' });
  assert.deepEqual(await state.currentManifest('a'), published);
  assert.deepEqual(await state.pendingManifests(), [waiting]);
  const renewed = await state.renewToken({
    ...{ host: 'a', publicKey: 'KEY', replaces: hex('t'), tokenHash: hex('next') },
    ...{ now: 10, expiresAt: 20, digest: hex('d'), envelope: 'signed' },
  });
  assert.deepEqual(renewed, { outcome: 'renewed', expiresAt: 20 });
  assert.equal(await state.droppedPaths(), 0);
});
