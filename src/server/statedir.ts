// The server's state directory: what lies where, and opening all of it.
// Keys, root, configuration and database are either all there or it is an error: a default is
// never invented for something precious (ARCHITECTURE, "State on the server").
import { readdir, readFile, stat } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { type Config, parseConfig } from '../config.ts';
import { errnoOf, FleetError, isFleetError } from '../errors.ts';
import { keyId, type PublicKey, parseSecretKey, publicKeyOfSecret } from '../keyfile.ts';
import { parseEnvelope } from '../manifest/dsse.ts';
import { type Root, roleOfKey, verifyInitialRoot, verifyRootUpdate } from '../manifest/root.ts';
import { keyUses } from '../manifest/root-form.ts';
import {
  formatNixPublicKey,
  type NixSecretKey,
  nixPublicKeyOf,
  parseNixSecretKey,
} from '../nix/signature.ts';
import type { Blobs } from '../storage/blobs.ts';
import { openFileBlobs } from '../storage/file-blobs.ts';
import { openState } from '../storage/sqlite.ts';
import type { State } from '../storage/state.ts';

/** Where things lie below STATE. */
export type StateLayout = ReturnType<typeof stateLayout>;

export function stateLayout(dir: string) {
  const top = resolve(dir);
  return {
    top,
    config: join(top, 'fleet.json'),
    database: join(top, 'fleet.db'),
    publishLock: join(top, 'publish.lock'),
    blobs: join(top, 'blobs'),
    blobTemporary: join(top, 'blobs', 'tmp'),
    keys: join(top, 'keys'),
    roots: join(top, 'root'),
    gcroots: join(top, 'gcroots'),
    gcLock: join(top, 'gc.lock'),
    log: (number: number) => join(top, 'log', String(number)),
    key: (name: string) => join(top, 'keys', name),
    root: (version: number) => join(top, 'root', `${version}.root.json`),
  };
}

/** A root and the signed bytes it came in, as they are served. */
export type SignedRoot = { readonly root: Root; readonly envelope: string };

/** An open state directory; disposing of it closes the database. */
export type StateDir = AsyncDisposable & {
  readonly layout: StateLayout;
  readonly config: Config;
  readonly state: State;
  readonly blobs: Blobs;
  /** All roots, oldest first; never empty. Another list after `refreshRoots` found a newer one. */
  readonly roots: readonly SignedRoot[];
  /** The newest root. */
  readonly root: Root;
  /** Reads roots that were imported since, by another process. */
  readonly refreshRoots: () => Promise<void>;
  /** Nix cache keys that narinfos are signed with. Another list after `refreshRoots` found a newer root. */
  readonly cacheKeys: readonly NixSecretKey[];
};

/**
 * Opens STATE. `writer: 'thread'` keeps a foreign lock from stalling this process's event loop.
 * @throws FleetError E_STATE_MISSING, E_STATE_INCOMPLETE, E_STATE_NEWER, E_CONFIG.
 */
export async function openStateDir(
  dir: string,
  options: { writer: 'inline' | 'thread' },
): Promise<StateDir> {
  const layout = stateLayout(dir);
  const config = parseConfig(await readConfig(layout), layout.config);
  let roots = await readRoots(layout);
  const newest = (): Root => {
    const last = roots.at(-1);
    if (last === undefined) throw incomplete(layout, layout.root(1));
    return last.root;
  };
  let cacheKeys = await readCacheKeys(layout, newest());
  if ((await stat(layout.blobs).catch(() => null)) === null) throw incomplete(layout, layout.blobs);
  if ((await stat(layout.database).catch(() => null)) === null) {
    throw incomplete(layout, layout.database);
  }
  const blobs = await openFileBlobs(layout.blobs, options.writer === 'thread');
  const state = await openState(layout.database, options);
  return {
    layout,
    config,
    state,
    blobs,
    get roots() {
      return roots;
    },
    get root() {
      return newest();
    },
    async refreshRoots() {
      const next = layout.root(roots.length + 1);
      if ((await stat(next).catch(() => null)) === null) return;
      const found = await readRoots(layout);
      // Before the root counts: hosts that have it believe no other keys than those it names.
      const newestFound = found.at(-1);
      if (newestFound !== undefined) cacheKeys = await readCacheKeys(layout, newestFound.root);
      roots = found;
    },
    get cacheKeys() {
      return cacheKeys;
    },
    [Symbol.asyncDispose]: () => state[Symbol.asyncDispose](),
  };
}

/**
 * `cache.sec` and every `cache-NAME.sec` beside it, by name. Agents trust those that the root names, so one
 * of them must be; others are for clients that are told of them by hand.
 */
async function readCacheKeys(layout: StateLayout, root: Root): Promise<NixSecretKey[]> {
  const others = (await readdir(layout.keys)).filter((name) => /^cache-.+\.sec$/.test(name)).sort();
  // The first one may have been removed when another took its place.
  const hasFirst = (await stat(layout.key('cache.sec')).catch(() => null)) !== null;
  const names = hasFirst ? ['cache.sec', ...others] : others;
  const keys: NixSecretKey[] = [];
  for (const name of names) keys.push(await readCacheKey(layout, name));
  const isNamed = keys.some((key) =>
    root.cache.keys.includes(formatNixPublicKey(nixPublicKeyOf(key))),
  );
  if (!isNamed) {
    const wanted = root.cache.keys.map((text) => text.split(':')[0] ?? '');
    throw lackingKey(layout, root, 'cache', { names, wanted });
  }
  const twice = keys.find((key, i) => keys.findIndex(({ name }) => name === key.name) < i);
  if (twice === undefined) return keys;
  throw new FleetError('E_STATE_DAMAGED', `two keys in ${layout.keys} are named ${twice.name}`, {
    hint: 'give each a name of its own, such as fleet.example.org-2',
  });
}

async function readCacheKey(layout: StateLayout, name: string): Promise<NixSecretKey> {
  const file = layout.key(name);
  const text = (await readPart(layout, file)).trim();
  return naming(file, () => parseNixSecretKey(text));
}

/** What the server has keys for, beside its cache. */
export const SERVER_ROLES = ['director', 'log', 'freshness', 'nonce'] as const;
type KeyRole = (typeof SERVER_ROLES)[number];

/**
 * The secret key that the root names in this role, and its public key: `ROLE.pem`, or a `ROLE-NAME.pem` that
 * was made for a rotation.
 * @throws FleetError E_STATE_INCOMPLETE when the root names none of them: no agent would believe what they sign.
 */
export async function readServerKey(
  { layout, root }: Pick<StateDir, 'layout' | 'root'>,
  role: KeyRole,
): Promise<{ readonly secret: Uint8Array; readonly publicKey: PublicKey }> {
  const others = new RegExp(`^${role}-.+\\.pem$`);
  const all = await readdir(layout.keys);
  // The first one may have been removed when another took its place.
  const first = all.filter((name) => name === `${role}.pem`);
  const names = [...first, ...all.filter((name) => others.test(name)).sort()];
  for (const file of names.map(layout.key)) {
    const text = await readPart(layout, file);
    const secret = naming(file, () => parseSecretKey(text));
    const publicKey = publicKeyOfSecret(secret);
    if (roleOfKey(root, publicKey) === role) return { secret, publicKey };
  }
  const keys = keyUses(root).filter((use) => use.role === role);
  throw lackingKey(layout, root, role, { names, wanted: keys.map(({ key }) => keyId(key)) });
}

/** What `parse` refuses is told with the name of the file that it was read from. */
function naming<T>(file: string, parse: () => T): T {
  try {
    return parse();
  } catch (error) {
    if (!isFleetError(error)) throw error;
    const { code, message, hint } = error;
    throw new FleetError(code, `${file}: ${message}`, { hint, cause: error });
  }
}

/** `names`: the files that hold other keys of this role. `wanted`: IDs of those that the root names. */
function lackingKey(
  layout: StateLayout,
  { version, fleet }: Root,
  role: KeyRole | 'cache',
  { names, wanted }: { readonly names: readonly string[]; readonly wanted: readonly string[] },
): FleetError {
  const which = `the ${role} key that root version ${version} of fleet ${fleet} names (${wanted.join(', ')})`;
  const first = layout.key(role === 'cache' ? 'cache.sec' : `${role}.pem`);
  const what =
    names.length === 0
      ? `${first} is missing: no file in keys/ is ${which}`
      : `no file in ${layout.keys} is ${which}: other keys are in ${names.join(', ')}`;
  // The state cannot be opened without the cache's key, so none can be made there that a new root could name.
  const lost = `if it is lost for good, have a new root name another: fleet key generate ${role}`;
  const hint =
    role === 'cache'
      ? 'restore it from a backup into keys/'
      : `restore it from a backup into keys/; ${lost}`;
  return new FleetError('E_STATE_INCOMPLETE', what, { hint });
}

async function readConfig(layout: StateLayout): Promise<string> {
  try {
    return await readFile(layout.config, 'utf8');
  } catch (cause) {
    if (errnoOf(cause) === 'ENOENT' || errnoOf(cause) === 'ENOTDIR') {
      throw new FleetError('E_STATE_MISSING', `there is no fleet state in ${layout.top}`, {
        hint: `create it with: fleet init --state ${layout.top}`,
        cause,
      });
    }
    throw unreadable(layout.config, cause);
  }
}

async function readRoots(layout: StateLayout): Promise<SignedRoot[]> {
  const names = await readdir(layout.roots).catch((cause) => {
    if (errnoOf(cause) === 'ENOENT') throw incomplete(layout, layout.roots);
    throw unreadable(layout.roots, cause);
  });
  const versions = names
    .map((name) => /^([1-9]\d*)\.root\.json$/.exec(name)?.[1])
    .filter((text) => text !== undefined)
    .map(Number)
    .sort((a, b) => a - b);
  const roots: SignedRoot[] = [];
  for (const [index, version] of versions.entries()) {
    // Agents step from one version to the next, so a gap would strand those before it.
    if (version !== index + 1) throw incomplete(layout, layout.root(index + 1));
    const envelope = await readPart(layout, layout.root(version));
    const previous = roots.at(-1)?.root;
    // A root that no agent would follow is found out here, not on the hosts.
    const root = naming(layout.root(version), () => {
      const opened = parseEnvelope(envelope);
      return previous ? verifyRootUpdate(previous, opened) : verifyInitialRoot(opened);
    });
    roots.push({ root, envelope });
  }
  return roots;
}

async function readPart(layout: StateLayout, file: string): Promise<string> {
  try {
    return await readFile(file, 'utf8');
  } catch (cause) {
    if (errnoOf(cause) === 'ENOENT') throw incomplete(layout, file);
    throw unreadable(file, cause);
  }
}

function incomplete(layout: StateLayout, file: string): FleetError {
  return new FleetError('E_STATE_INCOMPLETE', `${file} is missing from the state in ${layout.top}`);
}

function unreadable(file: string, cause: unknown): FleetError {
  return new FleetError('E_STATE_ACCESS', `cannot read ${file}: ${errnoOf(cause) ?? cause}`, {
    cause,
  });
}
