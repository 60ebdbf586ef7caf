// State on SQLite (fleet.db): reads on a connection of their own in the caller's thread, writes
// through one writer. The file is created only when asked for, and never replaced.
import type { Database } from 'better-sqlite3';
import type { MadeSegment, PackWrites } from './packs.ts';
import { createCacheReads } from './sqlite-cache-reads.ts';
import { createDatabase, openReader } from './sqlite-database.ts';
import { createLogReads } from './sqlite-log.ts';
import { createPackReads } from './sqlite-packs.ts';
import { DEFAULT_PATIENCE } from './sqlite-patience.ts';
import { createReads } from './sqlite-reads.ts';
import { openThreadWriter } from './sqlite-thread.ts';
import { openInlineWriter, type Writer } from './sqlite-writer.ts';
import type { NewPath, State, StateWrites } from './state.ts';

export type OpenStateOptions = {
  /** `thread`: for a process that serves; its event loop never waits for the disk or a lock. */
  readonly writer: 'inline' | 'thread';
  /** How long a call waits for another process's lock, in milliseconds (default 5000). */
  readonly patience?: number;
};

// A transaction of this many rows took 3 to 7 ms, its fsync included, so it stays below 20.
const ROWS_PER_TRANSACTION = 200;
/** Listings are large here and there. */
const BYTES_PER_TRANSACTION = 1024 * 1024;

/**
 * Creates an empty database file, durably; `openState` opens it.
 * @throws FleetError E_STATE_EXISTS, E_DISK_FULL.
 */
export async function createState(file: string): Promise<void> {
  await createDatabase(file);
}

/**
 * Opens the database, bringing an older schema up to date.
 * @throws FleetError E_STATE_MISSING, E_STATE_NEWER, E_STATE_DAMAGED, E_STATE_ACCESS, E_STATE_BUSY.
 */
export async function openState(file: string, options: OpenStateOptions): Promise<State> {
  const patience = options.patience ?? DEFAULT_PATIENCE;
  const open = options.writer === 'thread' ? openThreadWriter : openInlineWriter;
  // The writer comes first: it may migrate what the reader then prepares its statements for.
  const writer = counted(await open(file, patience));
  let reader: Database | undefined;
  try {
    reader = await openReader(file, performance.now() + patience);
    const close = reader.close.bind(reader);
    return {
      ...createReads(reader, patience),
      ...createCacheReads(reader, patience),
      ...createLogReads(reader, patience),
      ...createPackReads(reader, patience),
      ...writesThrough(writer),
      writes: writer.count,
      async [Symbol.asyncDispose]() {
        close();
        await writer.close();
      },
    };
  } catch (error) {
    reader?.close();
    await writer.close();
    throw error;
  }
}

/** A writer that knows how many writes it has done. */
function counted(writer: Writer): Writer & { readonly count: () => number } {
  let count = 0;
  return {
    write: (name, args) =>
      // Before whoever asked for it goes on, and also where it failed: who knows how far it came.
      writer.write(name, args).finally(() => {
        count += 1;
      }),
    close: () => writer.close(),
    count: () => count,
  };
}

/** `rows` in parts that one short transaction can take. */
function* transactionsOf(rows: readonly NewPath[]): Generator<NewPath[]> {
  let part: NewPath[] = [];
  let bytes = 0;
  for (const row of rows) {
    part.push(row);
    bytes += row.contents?.listing?.length ?? 0;
    if (part.length < ROWS_PER_TRANSACTION && bytes < BYTES_PER_TRANSACTION) continue;
    yield part;
    [part, bytes] = [[], 0];
  }
  if (part.length > 0) yield part;
}

function writesThrough(writer: Writer): StateWrites {
  return {
    async addCachedPaths(rows, now) {
      for (const part of transactionsOf(rows)) await writer.write('addCachedPaths', [part, now]);
    },
    async touchPaths(paths, now) {
      let found = 0;
      for (let at = 0; at < paths.length; at += ROWS_PER_TRANSACTION) {
        const part = paths.slice(at, at + ROWS_PER_TRANSACTION);
        found += await writer.write('touchPaths', [part, now]);
      }
      return found;
    },
    confirmPath: (...args) => writer.write('confirmPath', args),
    dropPath: (...args) => writer.write('dropPath', args),
    stageNar: (...args) => writer.write('stageNar', args),
    addUploadedPath: (...args) => writer.write('addUploadedPath', args),
    addBuildLog: (...args) => writer.write('addBuildLog', args),
    addRealisation: (...args) => writer.write('addRealisation', args),
    addPin: (...args) => writer.write('addPin', args),
    removePin: (...args) => writer.write('removePin', args),
    beginSweep: (...args) => writer.write('beginSweep', args),
    sweepPaths: (...args) => writer.write('sweepPaths', args),
    sweepNars: (...args) => writer.write('sweepNars', args),
    sweepLeftovers: (...args) => writer.write('sweepLeftovers', args),
    async changePending(put, drop, fence) {
      const parts = Math.ceil(Math.max(put.length, drop.length, 1) / ROWS_PER_TRANSACTION);
      for (let part = 0; part < parts; part++) {
        const [from, to] = [part * ROWS_PER_TRANSACTION, (part + 1) * ROWS_PER_TRANSACTION];
        const some = [put.slice(from, to), drop.slice(from, to)] as const;
        await writer.write('changePending', [...some, fence]);
      }
    },
    async dropStaged(log, fence) {
      let all = 0;
      for (let some = -1; some !== 0; all += some) {
        some = await writer.write('dropStaged', [log, fence]);
      }
      return all;
    },
    async stageEntries(log, entries, fence) {
      for (let at = 0; at < entries.length; at += ROWS_PER_TRANSACTION) {
        const part = entries.slice(at, at + ROWS_PER_TRANSACTION);
        await writer.write('stageEntries', [log, part, fence]);
      }
    },
    commitLog: (...args) => writer.write('commitLog', args),
    recordLease: (...args) => writer.write('recordLease', args),
    invite: (...args) => writer.write('invite', args),
    enrol: (...args) => writer.write('enrol', args),
    renewToken: (...args) => writer.write('renewToken', args),
    holdHost: (...args) => writer.write('holdHost', args),
    noteProgress: (...args) => writer.write('noteProgress', args),
    endLeaving: (...args) => writer.write('endLeaving', args),
    addCredential: (...args) => writer.write('addCredential', args),
    revokeCredentials: (...args) => writer.write('revokeCredentials', args),
    touchHost: (...args) => writer.write('touchHost', args),
    addReport: (...args) => writer.write('addReport', args),
    ...packWrites(writer),
  };
}

function packWrites(writer: Writer): PackWrites {
  return {
    async useSegments(keys, now) {
      const found = new Map<string, MadeSegment>();
      for (let at = 0; at < keys.length; at += ROWS_PER_TRANSACTION) {
        const part = keys.slice(at, at + ROWS_PER_TRANSACTION);
        for (const [key, made] of await writer.write('useSegments', [part, now])) {
          found.set(key, made);
        }
      }
      return found;
    },
    addSegment: (...args) => writer.write('addSegment', args),
    addPack: (...args) => writer.write('addPack', args),
    dropPack: (...args) => writer.write('dropPack', args),
    sweepPacks: (...args) => writer.write('sweepPacks', args),
    sweepSegments: (...args) => writer.write('sweepSegments', args),
  };
}
