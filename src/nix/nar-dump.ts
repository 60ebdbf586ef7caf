// A file, directory or symlink on disk to its NAR, byte for byte what `nix-store --dump` writes.
// Small files are read straight into the outgoing buffer by synchronous calls (a tenth of the cost
// of asynchronous ones), with a turn for the event loop every few milliseconds; long ones are read
// ahead, off the main thread, while the consumer works on the chunk before.
// Refuses sockets, pipes and devices, names a NAR cannot hold, and what changes while it is read.

import {
  closeSync,
  constants,
  fstatSync,
  lstatSync,
  openSync,
  read,
  readdirSync,
  readlinkSync,
  readSync,
  type Stats,
} from 'node:fs';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { promisify } from 'node:util';
import { errnoOf, FleetError } from '../errors.ts';
import { showBytes } from './nar-format.ts';
import { type NarNode, NarWriter, NODE_ROOM } from './nar-write.ts';

/** How long the event loop may be kept waiting. */
const TURN_MS = 4;
// A pipe that took a file's place must not block the process, nor a symlink be followed.
const OPEN_FLAGS = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK;

const readAsync = promisify(read);

/** A place in the tree: its path and name as byte strings, and what kind of node it is. */
type Place = { readonly path: string; readonly name: string | null; readonly kind: Kind };
type Kind = Pick<Stats, 'isFile' | 'isDirectory' | 'isSymbolicLink'>;
type Entry = { readonly name: string; readonly kind: Kind };
type OpenFile = {
  readonly path: string;
  readonly fd: number;
  readonly size: number;
  readonly mtimeMs: number;
};
type Frame = { readonly path: string; readonly entries: readonly Entry[]; next: number };

/**
 * The NAR of `path` in chunks of at most 256 KiB, or of the length of `buffer`: with NODE_ROOM more than the
 * NAR has, it comes in one chunk. A chunk may be reused as soon as the next one is asked for. `onNode` is
 * told of every node on the way.
 * @throws FleetError E_NAR_CHANGED when a file shrinks, grows, is written to or vanishes meanwhile;
 *   E_NAR_BAD for what a NAR cannot hold; the system's error when `path` cannot be read.
 */
export async function* dumpNar(
  path: string,
  onNode?: (event: NarNode) => void,
  buffer?: Buffer,
): AsyncGenerator<Uint8Array> {
  const writer = new NarWriter(onNode, buffer);
  const root = Buffer.from(path).toString('latin1');
  const frames: Frame[] = [];
  let place: Place | undefined = { path: root, name: null, kind: lstatSync(path) };
  let turn = performance.now();

  for (;;) {
    if (writer.room < NODE_ROOM) yield writer.take();
    if (performance.now() - turn > TURN_MS) {
      await nextTurn();
      turn = performance.now();
    }
    if (place === undefined) writer.node({ type: 'leave' });
    else if (place.kind.isFile()) {
      const file = begin(place, writer);
      if (file.size <= writer.room - NODE_ROOM) copyShort(file, writer);
      else yield* copyLong(file, writer);
    } else if (place.kind.isDirectory()) frames.push(enter(place, writer));
    else if (place.kind.isSymbolicLink()) {
      const target = present(place.path, (bytes) => readlinkSync(bytes, 'latin1'));
      writer.node({ type: 'symlink', name: place.name, target });
    } else {
      throw new FleetError(
        'E_NAR_BAD',
        `${showBytes(place.path)} is neither a file, a directory nor a symlink`,
        { hint: 'remove the socket, pipe or device; a store path cannot hold one' },
      );
    }

    const frame = frames.at(-1);
    if (frame === undefined) break;
    const entry = frame.entries[frame.next++];
    if (entry === undefined) frames.pop();
    place = entry && { ...entry, path: `${frame.path}/${entry.name}` };
  }
  yield writer.take();
}

/** Opens a file and writes what precedes its contents. The caller closes it. */
function begin(place: Place, writer: NarWriter): OpenFile {
  const fd = present(place.path, (bytes) => openSync(bytes, OPEN_FLAGS));
  try {
    const stat = fstatSync(fd);
    if (!stat.isFile()) throw changed(place.path);
    const executable = (stat.mode & constants.S_IXUSR) !== 0;
    writer.node({ type: 'file', name: place.name, executable, size: stat.size });
    return { path: place.path, fd, size: stat.size, mtimeMs: stat.mtimeMs };
  } catch (error) {
    closeSync(fd);
    throw error;
  }
}

function finish(file: OpenFile, writer: NarWriter): void {
  const { size, mtimeMs } = fstatSync(file.fd);
  if (size !== file.size || mtimeMs !== file.mtimeMs) throw changed(file.path);
  writer.endFile();
}

/** The contents of a file for which there is room. */
function copyShort(file: OpenFile, writer: NarWriter): void {
  try {
    for (let done = 0; done < file.size; ) {
      const got = readSync(file.fd, writer.buffer, writer.used, file.size - done, done);
      if (got === 0) throw changed(file.path);
      writer.used += got;
      done += got;
    }
    finish(file, writer);
  } finally {
    closeSync(file.fd);
  }
}

async function* copyLong(file: OpenFile, writer: NarWriter): AsyncGenerator<Uint8Array> {
  try {
    for (let done = 0; done < file.size; ) {
      const full = writer.room === 0 ? writer.take() : undefined;
      const length = Math.min(writer.room, file.size - done);
      const reading = readAsync(file.fd, writer.buffer, writer.used, length, done);
      try {
        if (full !== undefined) yield full;
      } finally {
        // Also when the consumer stops here: nothing may read from a file that is closed.
        await Promise.allSettled([reading]);
      }
      const { bytesRead } = await reading;
      if (bytesRead === 0) throw changed(file.path);
      writer.used += bytesRead;
      done += bytesRead;
    }
    if (writer.room < NODE_ROOM) yield writer.take();
    finish(file, writer);
  } finally {
    closeSync(file.fd);
  }
}

function enter(place: Place, writer: NarWriter): Frame {
  writer.node({ type: 'directory', name: place.name });
  const entries = present(place.path, (bytes) =>
    readdirSync(bytes, { encoding: 'buffer', withFileTypes: true }),
  ).map((entry) => ({ name: entry.name.toString('latin1'), kind: entry }));
  entries.sort((a, b) => (a.name < b.name ? -1 : 1));
  return { path: place.path, entries, next: 0 };
}

/** Does one thing to a path that was there a moment ago. */
function present<T>(path: string, act: (bytes: Buffer) => T): T {
  try {
    return act(Buffer.from(path, 'latin1'));
  } catch (error) {
    const errno = errnoOf(error) ?? '';
    if (['ENOENT', 'ENOTDIR', 'ELOOP', 'ENXIO', 'EINVAL'].includes(errno)) {
      throw changed(path, error);
    }
    throw error;
  }
}

function changed(path: string, cause?: unknown): FleetError {
  return new FleetError('E_NAR_CHANGED', `${showBytes(path)} changed while it was read`, { cause });
}
