// A machine in a directory whose every tool is a script: an activation on it takes milliseconds, so that thousands can be tried. What
// its systems do is said by files below run/: exit-ACTION-NAME holds the exit status of a switch, bad-NAME makes one unhealthy.
import { chmod, mkdir, readFile, readlink, rm, symlink, writeFile } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import type { Host } from '../../src/agent/host.ts';
import { EMPTY_JOURNAL, writeJournal } from '../../src/agent/journal.ts';
import type { Memory } from '../../src/agent/memory.ts';
import { placeAt } from '../../src/agent/place.ts';
import { parseStorePath, type StorePath } from '../../src/nix/storepath.ts';

// It is called as unshare(1) is: what comes after the root is the command in there.
const UNSHARE = `#!/bin/sh
while [ "$1" != fleet-namespace ]; do shift; done
root=$3; shift 3
if [ "$1" = is-healthy ]; then
  now=$(readlink "$root/run/current-system"); [ ! -e "$root/run/bad-\${now#*-}" ]; exit
fi
top=\${1%/bin/*}; name=\${top#*-}; action=$2; code=0
echo "$action $name" >>"$root/run/log"
[ ! -f "$root/run/exit-$action-$name" ] || read -r code <"$root/run/exit-$action-$name"
case $action:$code in
  test:1 | test:11 | test:100) ;;
  test:*) ln -sfn "$top" "$root/run/current-system" ;;
  boot:11) ;;
  boot:*) echo "$top" >"$root/run/boot-entry" ;;
esac
exit "$code"
`;
const NIX_ENV = `#!/bin/sh
[ "$1 $3" = '--profile --set' ] && ln -sfn "$4" "$2"
`;
const NIX_STORE = `#!/bin/sh
exit 0
`;

/** A name of a system → its path. */
export function systemPath(name: string): StorePath {
  const letter = 'abcdfghijklmnpqrsvwxyz'[name.length % 22] ?? 'a';
  return parseStorePath(`/nix/store/${letter.repeat(32)}-${name}`);
}

/** Puts the tools first on PATH, for as long as this process lives. */
export async function useTools(dir: string): Promise<void> {
  const bin = join(dir, 'bin');
  await mkdir(bin);
  for (const [name, text] of Object.entries({
    unshare: UNSHARE,
    'nix-env': NIX_ENV,
    'nix-store': NIX_STORE,
  })) {
    await writeFile(join(bin, name), text);
    await chmod(join(bin, name), 0o755);
  }
  process.env['PATH'] = [bin, process.env['PATH'] ?? ''].join(delimiter);
}

/** Such a machine, which runs and boots `running`. */
export async function sandboxHost(
  dir: string,
  memory: Memory,
  names: readonly string[],
  running: string,
): Promise<Host> {
  const state = join(dir, 'state');
  for (const sub of ['run', 'nix/var/nix/profiles', 'state/switch', 'state/gcroots']) {
    await mkdir(join(dir, sub), { recursive: true });
  }
  for (const name of names) {
    const bin = join(dir, systemPath(name), 'bin');
    await mkdir(bin, { recursive: true });
    await writeFile(join(bin, 'switch-to-configuration'), '');
  }
  await writeJournal(state, EMPTY_JOURNAL);
  await makeCurrent(dir, running);
  await symlink(systemPath(running), join(dir, 'nix/var/nix/profiles/system'));
  await writeFile(join(dir, 'run/boot-entry'), `${systemPath(running)}\n`);
  return {
    memory: { ...memory, dir: state, config: { ...memory.config, root: dir, switchSeconds: 20 } },
    place: placeAt(dir, join(state, 'tmp')),
    bootId: 'boot 0',
    hasSystemd: false,
    unit: null,
    program: ['/bin/false'],
    now: () => 1_800_000_000,
    mayBoot: async () => null,
  };
}

export async function makeCurrent(dir: string, name: string): Promise<void> {
  await rm(join(dir, 'run/current-system'), { force: true });
  await symlink(systemPath(name), join(dir, 'run/current-system'));
}

/** Names of what it runs, has as its profile, and boots. */
export async function namesOf(dir: string) {
  const named = (path: string): string => path.trim().replace(/^.*-/, '');
  return {
    current: named(await readlink(join(dir, 'run/current-system'))),
    profile: named(await readlink(join(dir, 'nix/var/nix/profiles/system'))),
    boot: named(await readFile(join(dir, 'run/boot-entry'), 'utf8')),
  };
}

/**
 * The host whose agent dies at the `count`-th look at it: from then on nothing of it can be reached, so nothing is done. What
 * an agent does, it does with its host.
 */
export function dyingHost(host: Host, count: number): { host: Host; isDead: () => boolean } {
  let left = count;
  const dying = new Proxy(host, {
    get(target, name, receiver) {
      left -= 1;
      if (left < 0) throw new Error('killed');
      return Reflect.get(target, name, receiver);
    },
  });
  return { host: dying, isDead: () => left < 0 };
}
