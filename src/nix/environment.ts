// What a nix program is given besides its arguments: its environment and its settings (NIX_CONFIG).
// On the build box the caller's own environment and NIX_CONFIG count, ours are added. `isolated` (the
// agent) starts from nothing: neither the host's nix.conf, nor its user's, nor proxies, NIX_REMOTE or
// a cache of earlier answers (Nix remembers "missing" for an hour) can reach the program.
// Settings travel in NIX_CONFIG, not as `--option`: the environment of root's processes is readable by
// root alone, their arguments by everybody. nix.conf(5): later lines win, NIX_CONFIG wins over files.
// What an isolated program writes besides the store goes to a directory of its own, or to one that the
// caller keeps for that: a shared /tmp can be filled by anyone.
// Refuses settings that NIX_CONFIG cannot carry (line breaks, comments).
import { readFileSync } from 'node:fs';
import { lstat, mkdir, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { asDiskFull } from '../durable.ts';
import { ownerOf, temporaryName } from '../temporary-names.ts';

/** Environment of a child process. */
export type Environment = ReadonlyMap<string, string>;

/** An environment that may own a directory; disposing removes it. */
export type NixEnvironment = AsyncDisposable & { readonly variables: Environment };

export type EnvironmentOptions = {
  readonly settings?: ReadonlyMap<string, string>;
  readonly isolated?: boolean;
  readonly env?: Environment;
  /** With `isolated`: a directory for what Nix writes, which the caller clears when it likes; made if need be. */
  readonly scratch?: string;
};

// Flakes and the `nix` command are still experimental, in 2.36 as in 2.8; the user is never asked to
// enable them. "extra-" adds to what the user enabled.
const FEATURES = 'extra-experimental-features = nix-command flakes';

const KEPT_IN_ISOLATION = ['PATH', 'TMPDIR', 'LANG', 'LC_ALL', 'LOCALE_ARCHIVE', 'TZ'];

/** `key = value` lines; a RangeError for what a nix.conf line cannot hold. */
export function formatSettings(settings: ReadonlyMap<string, string>): string {
  let text = '';
  for (const [key, value] of settings) {
    if (!/^[a-z0-9-]+$/.test(key)) throw new RangeError(`not a Nix setting: ${key}`);
    if (/[\n\r#\0]/.test(value)) throw new RangeError(`Nix setting ${key} holds a break or a #`);
    text += `${key} = ${value}\n`;
  }
  return text;
}

/**
 * The environment for one call of a nix program; dispose it when the program has ended.
 * @throws FleetError E_DISK_FULL
 */
export async function openNixEnvironment(options: EnvironmentOptions): Promise<NixEnvironment> {
  const own = formatSettings(options.settings ?? new Map());
  return options.isolated === true
    ? await openIsolated(own, options)
    : { variables: inherited(own, options.env), [Symbol.asyncDispose]: async () => {} };
}

function inherited(own: string, extra: Environment = new Map()): Environment {
  const variables = new Map<string, string>();
  for (const [name, value] of Object.entries(process.env)) {
    if (value !== undefined) variables.set(name, value);
  }
  for (const [name, value] of extra) variables.set(name, value);
  const callers = variables.get('NIX_CONFIG') ?? '';
  const files = [callers, systemConfig(variables.get('NIX_CONF_DIR') ?? '/etc/nix')];
  const lines = [missingBuildGroup(variables, files), callers, FEATURES, own];
  return variables.set('NIX_CONFIG', lines.filter((text) => text !== '').join('\n'));
}

async function openIsolated(own: string, options: EnvironmentOptions): Promise<NixEnvironment> {
  const scratch = await makeScratch(options.scratch);
  const variables = new Map<string, string>();
  for (const name of KEPT_IN_ISOLATION) {
    const value = process.env[name];
    if (value !== undefined) variables.set(name, value);
  }
  if (options.scratch !== undefined) variables.set('TMPDIR', scratch);
  variables.set('NIX_CONF_DIR', join(scratch, 'conf'));
  // A file that does not exist: an empty value means "the current directory" to some versions.
  variables.set('NIX_USER_CONF_FILES', join(scratch, 'conf', 'none'));
  variables.set('XDG_CACHE_HOME', join(scratch, 'cache'));
  // nix-env creates ~/.nix-defexpr, whatever it is asked for.
  variables.set('HOME', join(scratch, 'home'));
  for (const [name, value] of options.env ?? []) variables.set(name, value);
  // Nix has a substituter built in; here there are only those that the caller names.
  const lines = [missingBuildGroup(variables, []), FEATURES, 'substituters =', own];
  variables.set('NIX_CONFIG', lines.filter((text) => text !== '').join('\n'));
  return {
    variables,
    [Symbol.asyncDispose]: async () => {
      if (options.scratch === undefined) await rm(scratch, { recursive: true, force: true });
    },
  };
}

async function makeScratch(given: string | undefined): Promise<string> {
  try {
    const scratch = given ?? (await newScratch(tmpdir()));
    for (const name of ['conf', 'cache', 'home']) {
      await mkdir(join(scratch, name), { recursive: true, mode: 0o700 });
    }
    return scratch;
  } catch (error) {
    throw asDiskFull(error, given ?? tmpdir());
  }
}

const SCRATCH = 'fleet-nix-';
/** Looking through a directory that everybody uses once is enough. */
let isCleared = false;

/** A directory of its own, which only this user may enter. */
async function newScratch(dir: string): Promise<string> {
  if (!isCleared) await clearScratches(dir);
  isCleared = true;
  const scratch = join(dir, SCRATCH + temporaryName());
  await mkdir(scratch, { mode: 0o700 });
  return scratch;
}

/** Removes what processes of this user left that were killed. What cannot be removed stays. */
async function clearScratches(dir: string): Promise<void> {
  const names = await readdir(dir).catch(() => []);
  for (const name of names.filter((one) => one.startsWith(SCRATCH))) {
    if ((await ownerOf(name.slice(SCRATCH.length))) !== 'dead') continue;
    const found = await lstat(join(dir, name)).catch(() => null);
    if (found?.isDirectory() !== true || found.uid !== process.geteuid?.()) continue;
    await rm(join(dir, name), { recursive: true, force: true }).catch(() => {});
  }
}

/**
 * As root and without a daemon, Nix refuses to build, and to evaluate what builds, when the group
 * `nixbld` does not exist (Debian's nix-bin makes none): then it is told to build as root itself. Who
 * configured another group is left alone.
 */
function missingBuildGroup(variables: Environment, configs: readonly string[]): string {
  if (process.getuid?.() !== 0 || variables.get('NIX_REMOTE') === 'daemon') return '';
  if (configs.some((text) => /^\s*(build-users-group|auto-allocate-uids)\s*=/m.test(text)))
    return '';
  return /^nixbld:/m.test(readIfThere('/etc/group')) ? '' : 'build-users-group =';
}

function systemConfig(dir: string): string {
  return readIfThere(join(dir, 'nix.conf'));
}

/** A file that is missing or not ours to read configures nothing, for Nix as for us. */
function readIfThere(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch {
    return '';
  }
}
