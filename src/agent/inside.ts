// A command line → one that runs where a host's system lies: as it is on the machine itself, and for a chroot
// store (`--root DIR`) in a mount namespace of its own where DIR/nix is /nix and DIR/run is /run. This process
// never enters it.
import { spawnSync } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import { mkdir, realpath } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import { FleetError } from '../errors.ts';
import type { Place } from './place.ts';

// /nix last: the programs named here may themselves lie in the machine's /nix.
const NAMESPACE = `
mount=$1; root=$2; shift 2
"$mount" -n --bind "$root/run" /run && "$mount" -n --bind "$root/nix" /nix || exit 125
exec "$@"
`;

/** @throws FleetError E_TOOL_MISSING */
export async function commandInside(place: Place, command: readonly string[]): Promise<string[]> {
  return place.root === null ? [...command] : await namespaceOf(place.root, command);
}

/**
 * Refuses early where a chroot store's system cannot be activated. Nothing to do on the machine itself.
 * @throws FleetError E_NAMESPACE, E_TOOL_MISSING
 */
export async function probeNamespace(place: Place): Promise<void> {
  if (place.root === null) return;
  for (const dir of ['run', 'nix']) await mkdir(join(place.root, dir), { recursive: true });
  const [program = '', ...args] = await namespaceOf(place.root, ['/bin/sh', '-c', 'exit 0']);
  // The chroot store need not hold a /bin/sh in /nix: exec of it only fails where /bin is linked there.
  const run = spawnSync(program, args, { encoding: 'utf8', stdio: ['ignore', 'ignore', 'pipe'] });
  if (run.status === 0 || run.status === 127 || run.status === 126) return;
  const said = run.stderr?.trim().split('\n')[0] || `exit status ${run.status}`;
  throw new FleetError('E_NAMESPACE', `no mount namespace for ${place.root}: ${said}`);
}

/** The real path of a program on PATH, which holds when /run and /nix are others. @throws FleetError E_TOOL_MISSING */
export async function findProgram(name: string): Promise<string> {
  for (const dir of (process.env['PATH'] ?? '').split(delimiter)) {
    if (!dir.startsWith('/')) continue;
    try {
      accessSync(join(dir, name), constants.X_OK);
      // The last name is kept: busybox and its like look at what they are called.
      return join(await realpath(dir), name);
    } catch {}
  }
  throw new FleetError('E_TOOL_MISSING', `the program ${name} is missing`);
}

/** What systemd would give a program: no secret and no Nix setting of ours. */
export function cleanEnvironment(): Record<string, string> {
  const kept = ['PATH', 'HOME', 'LANG', 'LOCALE_ARCHIVE'];
  return Object.fromEntries(
    kept.flatMap((name) => {
      const value = process.env[name];
      return value === undefined ? [] : [[name, value]];
    }),
  );
}

async function namespaceOf(root: string, command: readonly string[]): Promise<string[]> {
  const user = process.getuid?.() === 0 ? [] : ['--map-root-user'];
  const unshare = [await findProgram('unshare'), '--mount', '--propagation', 'private', ...user];
  const mount = await findProgram('mount');
  return [...unshare, '/bin/sh', '-c', NAMESPACE, 'fleet-namespace', mount, root, ...command];
}
