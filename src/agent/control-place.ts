// Where the control socket lies, and who may connect to it (SPEC §5.9): its directory is root's, the socket root's and
// one group's. It is made elsewhere, given its owner and mode, and put in place by one rename: nobody connects before
// that, and what a killed agent left behind is replaced.
import { execFile } from 'node:child_process';
import { chmod, chown, mkdir, mkdtemp, readFile, rename, rm, rmdir } from 'node:fs/promises';
import type { Server } from 'node:net';
import { dirname, join, resolve } from 'node:path';
import { promisify } from 'node:util';
import { FleetError, isFleetError } from '../errors.ts';

/** What the kernel takes for a socket's path, its final zero included. */
const MAX_PATH = 108;

/** `root`: of a chroot store; null: the machine itself. */
export function socketPath(root: string | null): string {
  return join(resolve(root ?? '/'), 'run/fleet-agent/control.sock');
}

/**
 * Listens at `path` for root and `group` (null: root alone).
 * @throws FleetError E_LOCAL_SOCKET
 */
export async function listenAt(server: Server, path: string, group: string | null): Promise<void> {
  const dir = dirname(path);
  const gid = group === null ? null : await groupId(group);
  if (group !== null && gid === null) throw unusable(path, `there is no group ${group}`);
  try {
    await mkdir(dir, { mode: 0o755 }).catch(async (error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') await mkdir(dir, { mode: 0o755, recursive: true });
      else if (error.code !== 'EEXIST') throw error;
    });
    const made = await mkdtemp(join(dir, '.'));
    const temporary = join(made, 's');
    if (Buffer.byteLength(temporary) >= MAX_PATH) {
      await rmdir(made);
      throw unusable(path, 'its path is too long for a socket');
    }
    try {
      const { promise, resolve: listening, reject } = Promise.withResolvers<void>();
      server.once('error', reject);
      server.listen(temporary, listening);
      await promise;
      server.off('error', reject);
      if (gid !== null) await chown(temporary, process.geteuid?.() ?? 0, gid);
      await chmod(temporary, gid === null ? 0o600 : 0o660);
      await rename(temporary, path);
    } finally {
      await rm(made, { recursive: true, force: true });
    }
  } catch (cause) {
    if (isFleetError(cause)) throw cause;
    throw unusable(path, cause instanceof Error ? cause.message : String(cause), cause);
  }
}

/** The number of a group: Node's chown(2) takes no names. */
export async function groupId(name: string): Promise<number | null> {
  const found = (await groupsLike(name)).find(([group]) => group === name);
  return found?.[1] ?? null;
}

/** The name of a group; null: it has none. */
export async function groupName(id: number): Promise<string | null> {
  const found = (await groupsLike(String(id))).find(([, number]) => number === id);
  return found?.[0] ?? null;
}

/** Names and numbers of groups. getent(1) knows those of every name service; without it, /etc/group is read. */
async function groupsLike(key: string): Promise<readonly (readonly [string, number])[]> {
  const text = await promisify(execFile)('getent', ['group', '--', key], { timeout: 5000 })
    .then(({ stdout }) => stdout)
    .catch(async () => await readFile('/etc/group', 'utf8').catch(() => ''));
  return text.split('\n').flatMap((line) => {
    const [group = '', , number = ''] = line.split(':');
    return /^\d{1,10}$/.test(number) ? [[group, Number(number)] as const] : [];
  });
}

function unusable(path: string, why: string, cause?: unknown): FleetError {
  return new FleetError('E_LOCAL_SOCKET', `no control socket at ${path}: ${why}`, { cause });
}
