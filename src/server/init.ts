// Creates the server's state directory: configuration, keys (one per purpose), version 1 of the root,
// an empty database and blob store. Refuses a directory that holds anything. fleet.json comes last:
// without it nothing opens the state, so an init that was cut short is seen as such.
import { chmod, readdir } from 'node:fs/promises';
import { hostname } from 'node:os';
import { type Config, formatConfig, parseConfig, parseFleetName } from '../config.ts';
import { asNoPlace, createDurable, makeDirectoryDurable } from '../durable.ts';
import { generateSecretKey } from '../ed25519.ts';
import { errnoOf, FleetError, messageOf } from '../errors.ts';
import { formatSecretKey, keyId, type PublicKey, publicKeyOfSecret } from '../keyfile.ts';
import { appendEntries } from '../manifest/append.ts';
import { signEnvelope } from '../manifest/dsse.ts';
import { formatRoot, makeInitialRoot, ROOT_PAYLOAD_TYPE, type Root } from '../manifest/root.ts';
import {
  formatNixPublicKey,
  formatNixSecretKey,
  generateNixKey,
  nixPublicKeyOf,
} from '../nix/signature.ts';
import { createFileBlobs } from '../storage/file-blobs.ts';
import { acquireLease } from '../storage/lease.ts';
import { createState, openState } from '../storage/sqlite.ts';
import { openLogWriter } from './log-writer.ts';
import { stateLayout } from './statedir.ts';

export type InitResult = {
  readonly config: Config;
  readonly root: Root;
  /** The line for `trusted-public-keys` in a Nix client's nix.conf. */
  readonly cacheKey: string;
  readonly rootKeyId: string;
};

/** The keys kept as PEM, each for one purpose (spec: "Keys, one purpose each"). */
export const KEY_FILES = ['root', 'release', 'director', 'log', 'freshness', 'nonce'] as const;

/**
 * @param origin the fleet's name; this machine's host name where null.
 * @throws FleetError E_STATE_EXISTS, E_USAGE for a name that cannot be a fleet's.
 */
export async function initStateDir(
  dir: string,
  options: { origin: string | null; url: string | null; now: number },
): Promise<InitResult> {
  const layout = stateLayout(dir);
  const fleet = fleetName(options.origin ?? hostname().toLowerCase());
  const config = parseConfig(
    JSON.stringify({ version: 1, fleet, url: options.url }),
    layout.config,
  );
  await requireEmpty(layout.top);
  await makeDirectoryDurable(layout.top, 0o750);
  // Also one that was there, made by someone else for this.
  await chmod(layout.top, 0o750);
  for (const [path, mode] of [
    [layout.keys, 0o700],
    [layout.roots, 0o755],
    [layout.gcroots, 0o755],
  ] as const) {
    await makeDirectoryDurable(path, mode);
  }

  const secrets = new Map(KEY_FILES.map((name) => [name, generateSecretKey()]));
  const publicKey = (name: (typeof KEY_FILES)[number]): PublicKey =>
    publicKeyOfSecret(secrets.get(name) ?? new Uint8Array());
  for (const [name, secret] of secrets) {
    await createDurable(layout.key(`${name}.pem`), formatSecretKey(secret), 0o600);
  }
  const cache = generateNixKey(`${fleet}-1`);
  await createDurable(layout.key('cache.sec'), `${formatNixSecretKey(cache)}\n`, 0o600);
  const cacheKey = formatNixPublicKey(nixPublicKeyOf(cache));

  const root = makeInitialRoot({
    fleet,
    now: options.now,
    keys: {
      root: [publicKey('root')],
      release: [publicKey('release')],
      director: [publicKey('director')],
      log: publicKey('log'),
      freshness: publicKey('freshness'),
      nonce: publicKey('nonce'),
      cache: [cacheKey],
    },
  });
  const signer = secrets.get('root') ?? new Uint8Array();
  const envelope = signEnvelope(ROOT_PAYLOAD_TYPE, formatRoot(root), [signer]);
  await createDurable(layout.root(1), envelope);

  // Whoever may read it could hold its lock, and publication up.
  await createDurable(layout.publishLock, '', 0o600);
  await createFileBlobs(layout.blobs);
  await createState(layout.database);
  await beginLog(dir, root, envelope, options.now);
  await createDurable(layout.config, formatConfig(config), 0o640);
  return { config, root, cacheKey, rootKeyId: keyId(publicKey('root')) };
}

/** The log's first entries: the root, and a snapshot of no hosts. */
async function beginLog(dir: string, root: Root, envelope: string, now: number): Promise<void> {
  const layout = stateLayout(dir);
  await using state = await openState(layout.database, { writer: 'inline' });
  await using lease = await acquireLease({ file: layout.publishLock, state, now: () => now });
  const log = await openLogWriter({ layout, root, roots: [{ root, envelope }], state });
  await appendEntries(log, [], { fence: lease.holder.fence, now });
}

function fleetName(text: string): string {
  try {
    return parseFleetName(text);
  } catch (cause) {
    throw new FleetError(
      'E_USAGE',
      `"${text}" cannot be the fleet's name: it ${messageOf(cause)}`,
      {
        hint: 'name it with: fleet init --origin fleet.example.org',
        cause,
      },
    );
  }
}

async function requireEmpty(dir: string): Promise<void> {
  const names = await readdir(dir).catch((cause): string[] => {
    if (errnoOf(cause) === 'ENOENT') return [];
    const known = asNoPlace(cause, dir);
    if (known !== cause) throw known;
    throw new FleetError('E_STATE_ACCESS', `cannot use ${dir}: ${messageOf(cause)}`, { cause });
  });
  if (names.length === 0) return;
  const hint = names.includes('fleet.json')
    ? 'use it as it is, or choose another directory with --state'
    : 'it may be of an init that was cut short: if nothing in it matters, remove it and try again';
  throw new FleetError('E_STATE_EXISTS', `${dir} is not empty`, { hint });
}
