// The only writer of precious files: a reader sees the old content or the new, whole, also after
// a power cut. Write to a temporary name, fsync it, rename it over the target, fsync the directory.
// Nothing precious is created by accident: `createDurable` refuses to replace, `writeDurable` replaces.
import { randomBytes } from 'node:crypto';
import { type FileHandle, link, mkdir, open, rename, rm, stat } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { errnoOf, FleetError } from './errors.ts';

/** fsyncs a directory, so that names created or removed in it survive a power cut. */
export async function syncDirectory(dir: string): Promise<void> {
  const handle = await open(dir, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/**
 * Replaces `file` with `data`, durably. `mode` is the new file's mode (default 0644, not cut by umask).
 * @throws FleetError E_DISK_FULL when there is no space; then the old file is untouched.
 */
export async function writeDurable(
  file: string,
  data: string | Uint8Array,
  mode = 0o644,
): Promise<void> {
  await viaTemporary(file, data, mode, (temporary) => rename(temporary, file));
}

/**
 * Creates `file` with `data`, durably.
 * @throws FleetError E_STATE_EXISTS when `file` is there already; it is never replaced.
 */
export async function createDurable(
  file: string,
  data: string | Uint8Array,
  mode = 0o644,
): Promise<void> {
  await viaTemporary(file, data, mode, async (temporary) => {
    try {
      // link(2), unlike rename(2), fails when the target exists.
      await link(temporary, file);
    } catch (error) {
      if (errnoOf(error) !== 'EEXIST') throw error;
      throw new FleetError('E_STATE_EXISTS', `${file} exists already`, {
        hint: 'nothing is overwritten: choose another name, or move that file away',
        cause: error,
      });
    }
    await rm(temporary);
  });
}

/**
 * Gives `file` a second name, durably.
 * @throws FleetError E_STATE_EXISTS when that is taken.
 */
export async function linkDurable(file: string, name: string): Promise<void> {
  try {
    await link(file, name);
    await syncDirectory(dirname(name));
  } catch (cause) {
    if (errnoOf(cause) !== 'EEXIST') throw asAccess(asDiskFull(cause, name), name);
    throw new FleetError('E_STATE_EXISTS', `${name} exists already`, { cause });
  }
}

/** Removes `file` durably; it is no error when it is absent. */
export async function removeDurable(file: string): Promise<void> {
  await rm(file, { force: true });
  await syncDirectory(dirname(file));
}

/**
 * Creates `dir` and its missing parents, durably. One after the other: where the kernel says ENOENT of a place that is
 * there, as in /proc, Node's recursive mkdir goes on for ever.
 */
export async function makeDirectoryDurable(dir: string, mode = 0o755): Promise<void> {
  const missing: string[] = [];
  for (let at = resolve(dir); !(await isThere(at)); at = dirname(at)) missing.unshift(at);
  try {
    for (const one of missing) {
      await mkdir(one, { mode }).catch((error) => {
        // Somebody else made it meanwhile.
        if (errnoOf(error) !== 'EEXIST') throw error;
      });
    }
    if (!(await stat(dir)).isDirectory()) throw Object.assign(new Error(dir), { code: 'ENOTDIR' });
  } catch (error) {
    throw asNoPlace(asAccess(asDiskFull(error, dir), dir), dir);
  }
  for (const one of missing) await syncDirectory(dirname(one));
}

async function isThere(path: string): Promise<boolean> {
  try {
    await stat(path);
    return true;
  } catch (error) {
    // What may not be looked at is there; making something below it says so.
    return !['ENOENT', 'ENOTDIR'].includes(errnoOf(error) ?? '');
  }
}

async function viaTemporary(
  file: string,
  data: string | Uint8Array,
  mode: number,
  place: (temporary: string) => Promise<void>,
): Promise<void> {
  const temporary = `${file}.tmp-${randomBytes(6).toString('hex')}`;
  let handle: FileHandle | undefined;
  try {
    handle = await open(temporary, 'wx', mode);
    await handle.writeFile(data);
    await handle.chmod(mode);
    await handle.sync();
    await handle.close();
    handle = undefined;
    await place(temporary);
    await syncDirectory(dirname(file));
  } catch (error) {
    await handle?.close().catch(() => {});
    await rm(temporary, { force: true });
    throw asAccess(asDiskFull(error, file), file);
  }
}

/** Turns EACCES, EPERM and EROFS into E_STATE_ACCESS naming `what`; returns any other error as it is. */
export function asAccess(error: unknown, what: string): unknown {
  const errno = errnoOf(error);
  if (errno !== 'EACCES' && errno !== 'EPERM' && errno !== 'EROFS') return error;
  const isReadOnly = errno === 'EROFS';
  const who = isReadOnly ? 'a read-only file system holds' : 'this user may not write';
  return new FleetError('E_STATE_ACCESS', `${who} ${what} (${errno})`, {
    ...(isReadOnly ? { hint: 'mount it so that it can be written' } : {}),
    cause: error,
  });
}

/** A file, or a link to what is not there, where `dir` or one of its parents should be: E_STATE_ACCESS. */
export function asNoPlace(error: unknown, dir: string): unknown {
  const errno = errnoOf(error);
  if (!['ENOENT', 'ENOTDIR', 'EEXIST', 'ELOOP', 'ENAMETOOLONG'].includes(errno ?? '')) return error;
  return new FleetError('E_STATE_ACCESS', `${dir} cannot be a directory (${errno})`, {
    hint: 'look at what is there, or choose another --state directory',
    cause: error,
  });
}

/** Turns ENOSPC and EDQUOT into E_DISK_FULL naming `what`; returns any other error as it is. */
export function asDiskFull(error: unknown, what: string): unknown {
  const errno = errnoOf(error);
  if (errno !== 'ENOSPC' && errno !== 'EDQUOT') return error;
  return new FleetError('E_DISK_FULL', `no space left while writing ${what}`, { cause: error });
}
