// Systems that the real Nix builds, in the shape that an agent switches to: a toplevel of links to one
// source tree with a switch-to-configuration that does what the test says.
import { execFileSync } from 'node:child_process';
import { mkdir, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { PathInfo } from '../../src/nix/closure.ts';
import { currentSystem } from '../../src/nix/command.ts';
import { dumpNar } from '../../src/nix/nar-dump.ts';
import { queryClosure, queryPathInfos } from '../../src/nix/query.ts';
import { parseStorePath, type StorePath } from '../../src/nix/storepath.ts';
import { bytesOf } from './nar.ts';

export const SYSTEM = currentSystem();

/** A built system: its closure and the NARs. */
export type BuiltSystem = {
  readonly name: string;
  readonly toplevel: StorePath;
  readonly infos: readonly PathInfo[];
  readonly nars: ReadonlyMap<StorePath, Buffer>;
};

// What happens is decided at run time by files in /run of the host: exit-ACTION-NAME holds the exit
// status, sleep-ACTION-NAME the seconds to wait first, do-ACTION-NAME what else to do (for sh); old-NAME makes it one
// that knows no `check`. `test`
// makes the system the current one unless it ends with 1, 11, 100 or 101. `boot` writes the boot loader's
// entry and may fail after that, as real boot loaders do; not when it ends with 11.
export const SWITCH = `#!/bin/sh
top=\${0%/bin/*}; name=\${top#*-}; action=$1
echo "$action $name" >>/run/log
env >/run/env
if [ "$action" = check ] && [ -f "/run/old-$name" ]; then
  echo "Usage: $0 [switch|boot|test|dry-activate]" >&2
  exit 1
fi
[ ! -f "/run/sleep-$action-$name" ] || sleep "$(cat "/run/sleep-$action-$name")"
[ ! -f "/run/do-$action-$name" ] || sh "/run/do-$action-$name"
code=0
[ ! -f "/run/exit-$action-$name" ] || code=$(cat "/run/exit-$action-$name")
echo "this is $action of $name" >&2
case $action:$code in
  test:1 | test:11 | test:100 | test:101) ;;
  test:*) ln -sfn "$top" /run/current-system ;;
  boot:11) ;;
  boot:*) echo "$top" >/run/boot-entry ;;
esac
exit "$code"
`;

const built = new Map<string, Promise<BuiltSystem>>();

/** Builds system-NAME with the machine's Nix: a toplevel of links to one source tree. */
export function buildSystem(dir: string, name: string, withSwitch = true): Promise<BuiltSystem> {
  const key = `${name} ${withSwitch}`;
  const found = built.get(key) ?? build(dir, name, withSwitch);
  built.set(key, found);
  return found;
}

function build(dir: string, name: string, withSwitch: boolean): Promise<BuiltSystem> {
  const files = new Map([
    ['version', `${name}\n`],
    ['ballast', 'x'.repeat(100_000)],
  ]);
  if (withSwitch) files.set('bin/switch-to-configuration', SWITCH);
  return buildFrom(dir, name, files);
}

/** Builds system-NAME of one source tree with these files, by their paths; what is in `bin` can be run. */
export function buildFrom(
  dir: string,
  name: string,
  files: ReadonlyMap<string, string>,
): Promise<BuiltSystem> {
  return buildTrees(dir, name, new Map([[`files-${name}`, files]]));
}

/** As buildFrom, of several source trees, by their names. */
export async function buildTrees(
  dir: string,
  name: string,
  trees: ReadonlyMap<string, ReadonlyMap<string, string | Uint8Array>>,
): Promise<BuiltSystem> {
  const derivations: string[] = [];
  for (const [tree, files] of trees) {
    const source = join(dir, `source-${name}-${tree}`);
    for (const [path, text] of files) {
      await mkdir(dirname(join(source, path)), { recursive: true });
      const mode = path.startsWith('bin/') ? 0o755 : 0o644;
      await writeFile(join(source, path), text, { mode });
    }
    derivations.push(`"true" 5 1 (builtins.path { path = ${source}; name = "${tree}"; })`);
  }
  const file = join(dir, `${name}.nix`);
  await writeFile(
    file,
    `derivation {
      name = "system-${name}"; system = "${SYSTEM}"; builder = "builtin:buildenv"; manifest = "/none";
      derivations = [ ${derivations.join(' ')} ];
    }`,
  );
  const settings = 'build-users-group =\nsubstituters =\nsandbox = false';
  const out = execFileSync('nix-build', [file, '--out-link', join(dir, `built-${name}`)], {
    env: { ...process.env, NIX_CONFIG: settings },
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  const toplevel = parseStorePath(String(out).trim());
  const infos = await queryPathInfos(await queryClosure([toplevel]));
  const nars = new Map<StorePath, Buffer>();
  for (const { path } of infos) nars.set(path, await bytesOf(dumpNar(path)));
  return { name, toplevel, infos, nars };
}
