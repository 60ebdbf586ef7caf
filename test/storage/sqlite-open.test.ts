// Creating and opening the database: nothing precious by accident, nothing that is not understood.
import assert from 'node:assert/strict';
import { mkdir, readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import Sqlite from 'better-sqlite3';
import { createState, openState } from '../../src/storage/sqlite.ts';
import { SCHEMA_VERSION } from '../../src/storage/sqlite-schema.ts';
import type { State } from '../../src/storage/state.ts';
import { refused } from '../helpers/nix-scratch.ts';
import { cachedPath, emptyState } from '../helpers/rows.ts';
import { temporaryDirectory } from '../helpers/temporary.ts';

const WRITERS = ['inline', 'thread'] as const;

describe('createState', () => {
  test('makes one private file that needs no other', async () => {
    await using dir = await temporaryDirectory();
    const file = join(dir.path, 'fleet.db');
    await createState(file);
    assert.deepEqual(await readdir(dir.path), ['fleet.db']);
    assert.equal((await stat(file)).mode & 0o777, 0o600);
    await using state = await openState(file, { writer: 'inline' });
    assert.deepEqual(await state.status(), []);
  });

  test('never replaces what is there', async () => {
    await using made = await emptyState();
    await made.state.addCachedPaths([cachedPath('a')], 1000);
    await assert.rejects(createState(made.file), refused('E_STATE_EXISTS', /fleet\.db/));
    assert.equal((await made.state.cachedPaths([cachedPath('a').path])).length, 1);
  });
});

for (const writer of WRITERS) {
  describe(`openState, writer ${writer}`, () => {
    test('refuses a missing file and does not make it', async () => {
      await using dir = await temporaryDirectory();
      const file = join(dir.path, 'fleet.db');
      await assert.rejects(openState(file, { writer }), refused('E_STATE_MISSING', /fleet\.db/));
      assert.deepEqual(await readdir(dir.path), []);
    });

    test('refuses a database of a newer fleet and leaves it alone', async () => {
      await using dir = await temporaryDirectory();
      const file = join(dir.path, 'fleet.db');
      await createState(file);
      alter(file, `PRAGMA user_version = ${SCHEMA_VERSION + 1}`);
      await assert.rejects(openState(file, { writer }), refused('E_STATE_NEWER', /version/));
    });

    test('refuses what is not a database of fleet', async () => {
      await using dir = await temporaryDirectory();
      const file = join(dir.path, 'fleet.db');
      for (const content of ['', 'x'.repeat(5000)]) {
        await writeFile(file, content);
        await assert.rejects(openState(file, { writer }), refused('E_STATE_DAMAGED', /fleet\.db/));
      }
      const other = join(dir.path, 'other.db');
      new Sqlite(other).exec('CREATE TABLE t (x); PRAGMA user_version = 1').close();
      await assert.rejects(
        openState(other, { writer }),
        refused('E_STATE_DAMAGED', /not a database/),
      );
    });

    test('names what it may not open', async () => {
      await using dir = await temporaryDirectory();
      await mkdir(join(dir.path, 'fleet.db'));
      const opening = openState(join(dir.path, 'fleet.db'), { writer });
      await assert.rejects(opening, refused('E_STATE_ACCESS', /fleet\.db/));
    });

    test('damage found while it is used has its own code', async () => {
      await using dir = await temporaryDirectory();
      const file = join(dir.path, 'fleet.db');
      await createState(file);
      // The first page, which opening reads, stays as it is.
      await writeFile(file, (await readFile(file)).fill(0xff, 4096));
      // Some of it is read when it is opened.
      const using = async (question: (state: State) => Promise<unknown>): Promise<void> => {
        await using state = await openState(file, { writer });
        await question(state);
      };
      const damaged = refused('E_STATE_DAMAGED', /is damaged/);
      await assert.rejects(
        using((state) => state.recordLease(1, 1)),
        damaged,
      );
      await assert.rejects(
        using((state) => state.status()),
        damaged,
      );
    });

    test('keeps what it acknowledged', async () => {
      await using dir = await temporaryDirectory();
      const file = join(dir.path, 'fleet.db');
      await createState(file);
      {
        await using state = await openState(file, { writer });
        await state.addCachedPaths([cachedPath('a')], 1000);
      }
      await using state = await openState(file, { writer });
      assert.deepEqual(await state.cachedPaths([cachedPath('a').path]), [cachedPath('a')]);
    });
  });
}

function alter(file: string, sql: string): void {
  new Sqlite(file).exec(sql).close();
}
