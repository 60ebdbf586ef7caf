// Connections to fleet.db: opened only where it exists, never created by accident, with the
// settings that every one of them needs. SQLite's errors become FleetErrors here.
import { constants, statfsSync } from 'node:fs';
import { access } from 'node:fs/promises';
import { dirname } from 'node:path';
import Sqlite, { type Database } from 'better-sqlite3';
import { createDurable } from '../durable.ts';
import { errnoOf, FleetError, messageOf } from '../errors.ts';
import { patiently } from './sqlite-patience.ts';
import { checkSchema, migrate, SCHEMA_VERSION } from './sqlite-schema.ts';

// SQLite keeps the write-ahead log below this many bytes once it has been copied back.
const WAL_BYTES_KEPT = 32 * 1024 * 1024;
/** Less room than this is "full", when SQLite says no more than that something failed. */
const LITTLE = 1024 * 1024;

/**
 * Creates an empty database, durably. Its mode is 0600: it names hosts and holds hashes of tokens.
 * @throws FleetError E_STATE_EXISTS, E_DISK_FULL.
 */
export async function createDatabase(file: string): Promise<void> {
  const empty = new Sqlite(':memory:');
  try {
    migrate(empty);
    await createDurable(file, empty.serialize(), 0o600);
  } finally {
    empty.close();
  }
}

/**
 * Opens the writing connection: brings the schema up to date, sets WAL and full durability.
 * @throws FleetError E_STATE_MISSING, E_STATE_NEWER, E_STATE_DAMAGED, E_STATE_ACCESS, E_STATE_BUSY.
 */
export async function openWriter(file: string, deadline: number): Promise<Database> {
  return await opened(file, false, deadline, (db) => {
    const version = checkSchema(db);
    db.pragma('journal_mode = WAL');
    // A commit is fulfilled only when it survives a power cut.
    db.pragma('synchronous = FULL');
    db.pragma(`journal_size_limit = ${WAL_BYTES_KEPT}`);
    db.pragma('foreign_keys = ON');
    if (version < SCHEMA_VERSION) migrate(db);
  });
}

/** Opens a connection that cannot write. @throws as `openWriter`. */
export async function openReader(file: string, deadline: number): Promise<Database> {
  return await opened(file, true, deadline, checkSchema);
}

async function opened(
  file: string,
  readonly: boolean,
  deadline: number,
  prepare: (db: Database) => void,
): Promise<Database> {
  await mustBeThere(file, readonly);
  let db: Database | undefined;
  try {
    db = new Sqlite(file, { readonly, fileMustExist: true, timeout: 0 });
    const connection = db;
    await patiently(file, deadline, () => prepare(connection));
    return db;
  } catch (error) {
    db?.close();
    throw asStateError(error, file);
  }
}

async function mustBeThere(file: string, readonly: boolean): Promise<void> {
  try {
    await access(file, readonly ? constants.R_OK : constants.R_OK | constants.W_OK);
  } catch (error) {
    const errno = errnoOf(error);
    if (errno === 'ENOENT' || errno === 'ENOTDIR') {
      throw new FleetError('E_STATE_MISSING', `there is no ${file}`, { cause: error });
    }
    throw new FleetError('E_STATE_ACCESS', `cannot open ${file}: ${messageOf(error)}`, {
      ...(errno === 'EROFS' ? { hint: 'mount it so that it can be written' } : {}),
      cause: error,
    });
  }
}

/** Gives SQLite's errors the code of what a person can do about them; others stay as they are. */
export function asStateError(error: unknown, file: string): unknown {
  const code = errnoOf(error);
  if (error instanceof FleetError || code === undefined) return error;
  if (code === 'SQLITE_FULL' || (code.startsWith('SQLITE_IOERR') && isFull(file))) {
    return new FleetError('E_DISK_FULL', `no space left while writing ${file}`, { cause: error });
  }
  if (/^SQLITE_(CORRUPT|NOTADB)/.test(code)) {
    return new FleetError('E_STATE_DAMAGED', `${file} is damaged: ${messageOf(error)}`, {
      cause: error,
    });
  }
  if (/^SQLITE_(READONLY|CANTOPEN|PERM|AUTH)/.test(code)) {
    return new FleetError('E_STATE_ACCESS', `cannot use ${file}: ${messageOf(error)}`, {
      cause: error,
    });
  }
  if (code.startsWith('SQLITE_IOERR')) {
    return new FleetError('E_STATE_ACCESS', `${file}: ${messageOf(error)} (${code})`, {
      cause: error,
      hint: 'see what the machine’s log says of its disk and file system',
    });
  }
  return error;
}

/** SQLite tells of no room for its shared memory, and of some writes, as of an error of the device. */
function isFull(file: string): boolean {
  const { bavail, bsize } = statfsSync(dirname(file));
  return bavail * bsize < LITTLE;
}
