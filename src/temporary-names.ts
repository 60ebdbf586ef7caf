// Names of temporary files that tell whether the process that writes them still lives:
// `<pid namespace>-<pid>-<start time>-<random>`. The start time (proc(5), stat field 22) tells a
// process from a later one with its pid, such as a container's pid 1 after a crash.
import { randomBytes } from 'node:crypto';
import { readFileSync, readlinkSync } from 'node:fs';
import { readFile } from 'node:fs/promises';

const NAME = /^(\d+)-(\d+)-(\d+)-[0-9a-f]{16}$/;

let own: string | undefined;

/** A new name for a temporary file of this process. */
export function temporaryName(): string {
  own ??= `${pidNamespace()}-${process.pid}-${startTime(readFileSync('/proc/self/stat', 'utf8'))}`;
  return `${own}-${randomBytes(8).toString('hex')}`;
}

/**
 * Whose the temporary file is: `live` while its process runs, `dead` when it is gone, `foreign`
 * when that cannot be seen from here (another pid namespace, or not such a name at all).
 */
export async function ownerOf(name: string): Promise<'live' | 'dead' | 'foreign'> {
  const [, namespace, pid, started] = NAME.exec(name) ?? [];
  if (pid === undefined || namespace !== pidNamespace()) return 'foreign';
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => null);
  return stat !== null && startTime(stat) === started ? 'live' : 'dead';
}

function pidNamespace(): string {
  return readlinkSync('/proc/self/ns/pid').replace(/\D/g, '');
}

function startTime(stat: string): string {
  // Field 2 is the program's name in parentheses and may hold spaces and parentheses itself.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return fields[19] ?? '';
}
