// An agent's state directory ↔ what the agent knows: who it is (agent.json, host-key.pem, token; see renew-token.ts), whom
// it trusts and how far it has come (trust.json), what it is in the middle of (journal.json, see
// journal.ts), what it told and has yet to tell (receipts.json, see receipts.ts). Written only through
// durable.ts.
// Absent is not corrupt: without agent.json the host is not enrolled; with it, every other file must be
// there and whole, or the agent refuses and names the file, because a lost floor would let old
// manifests in again. offer.json is a cache that is verified anew each time it is used.
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { parseBaseUrl } from '../config.ts';
import { removeDurable, writeDurable } from '../durable.ts';
import { errnoOf, FleetError, messageOf } from '../errors.ts';
import { parseSecretKey } from '../keyfile.ts';
import type { Floor } from '../manifest/verify.ts';
import { headOf } from '../manifest/verify-offer.ts';
import {
  boolean,
  corrupt,
  digest,
  type Fields,
  formatRecord,
  integer,
  list,
  matching,
  nullable,
  oneOf,
  parsedBy,
  parseRecord,
  record,
  since,
  string,
} from './record.ts';
import { DEFAULT_POLL_SECONDS, GROUP, POLL_SECONDS } from './waiting.ts';

/** agent.json: local configuration, never the server's word. */
export type AgentConfig = {
  /** Base URL of the server, without a final slash. */
  readonly server: string;
  readonly fleet: string;
  readonly host: string;
  /** Nix system, such as x86_64-linux. */
  readonly system: string;
  /** Chroot store (`--root`), or null: the machine itself. */
  readonly root: string | null;
  /** Whether a divergent path that is in use may be replaced by the signed one (nix-store --repair-path). */
  readonly repair: boolean;
  readonly leastBytesPerSecond: number;
  readonly patienceSeconds: number;
  /** How long one run of switch-to-configuration may take. */
  readonly switchSeconds: number;
  /** Base URLs of caches that the server may leave paths to. */
  readonly upstreams: readonly string[];
  /** Whether the machine's clock is believed (SPEC §5.3); `auto`: where somebody keeps it. */
  readonly clock: 'auto' | 'trusted' | 'untrusted';
  /** Between two questions of `fleet agent run`. */
  readonly pollSeconds: number;
  /** Ask at random times, listen to no hints, report phase and manifest alone. */
  readonly privacy: boolean;
  /** Local group whose members may use the control socket; null: root alone. */
  readonly localGroup: string | null;
  /** Whether update packs are asked for (SPEC §12). */
  readonly deltas: boolean;
  /** Bytes per second that packs and NARs may take together; null: as many as come. */
  readonly bandwidth: number | null;
  /** What applying a part of a pack may take; what takes more comes as NARs. */
  readonly memoryMiB: number;
  /** How long a pack is waited for that is being made, in all. */
  readonly packWaitSeconds: number;
  /** Whether fetching leaves processor and disk to others. */
  readonly lowPriority: boolean;
};

/** What agent.json need not say. */
export const FETCH_DEFAULTS = {
  deltas: true,
  bandwidth: null,
  memoryMiB: 64,
  packWaitSeconds: 60,
  lowPriority: true,
} as const satisfies Partial<AgentConfig>;

/** What every NixOS uses anyway. */
export const DEFAULT_UPSTREAMS: readonly string[] = ['https://cache.nixos.org'];

/** trust.json */
export type Trust = {
  /** Text of the newest trusted root's envelope. */
  readonly root: string;
  readonly floor: Floor | null;
  /** True once a verified manifest ended this host's service. */
  readonly decommissioned: boolean;
  /** Text of the checkpoint that was accepted last. */
  readonly checkpoint: string | null;
  /** The last accepted ones of earlier logs, newest first: evidence of what they said. */
  readonly earlier: readonly string[];
  /** POSIX seconds: the latest time that was signed (SPEC §5.3). The machine's clock may be behind it. */
  readonly time: number | null;
};

/** What a receipt calls a manifest by. */
export type ManifestId = {
  readonly epoch: number;
  readonly sequence: number;
  readonly sha256: string;
};

/** offer.json: the last offer as it was received, for when the server says 304. */
export type StoredOffer = { readonly etag: string; readonly root: number; readonly text: string };

/** Who this is: what enrolment gave. */
export type Identity = {
  readonly dir: string;
  readonly config: AgentConfig;
  readonly hostKey: Uint8Array;
  readonly token: string;
};

export type Memory = Identity & { readonly trust: Trust };

const CONFIG: Fields<AgentConfig> = {
  server: parsedBy(parseBaseUrl),
  fleet: string,
  host: matching(/^[a-z0-9-]{1,63}$/, 'a host id'),
  system: string,
  root: nullable(matching(/^\/./, 'an absolute path')),
  repair: boolean,
  leastBytesPerSecond: integer(1),
  patienceSeconds: integer(1, 86400),
  switchSeconds: integer(1, 86400),
  upstreams: since(DEFAULT_UPSTREAMS, list(parsedBy(parseBaseUrl))),
  clock: since('auto', oneOf(['auto', 'trusted', 'untrusted'])),
  pollSeconds: since(DEFAULT_POLL_SECONDS, integer(...POLL_SECONDS)),
  privacy: since(false, boolean),
  localGroup: since(null, nullable(matching(GROUP, 'the name of a group'))),
  deltas: since(FETCH_DEFAULTS.deltas, boolean),
  bandwidth: since<number | null>(FETCH_DEFAULTS.bandwidth, nullable(integer(1))),
  memoryMiB: since<number>(FETCH_DEFAULTS.memoryMiB, integer(16, 65_536)),
  packWaitSeconds: since<number>(FETCH_DEFAULTS.packWaitSeconds, integer(0, 86_400)),
  lowPriority: since(FETCH_DEFAULTS.lowPriority, boolean),
};

/** The keys of agent.json, for the test that compares them with docs/CONFIG.md. */
export const AGENT_CONFIG_KEYS: readonly string[] = Object.keys(CONFIG);

export const TRUST: Fields<Trust> = {
  root: string,
  floor: nullable(record<Floor>({ epoch: integer(0), sequence: integer(0), digest })),
  decommissioned: boolean,
  checkpoint: since(null, nullable(parsedBy(checkpointText))),
  earlier: since([], list(string)),
  time: since(null, nullable(integer(0))),
};

export const MANIFEST_ID = record<ManifestId>({
  epoch: integer(1),
  sequence: integer(1),
  sha256: digest,
});

const OFFER: Fields<StoredOffer> = { etag: string, root: integer(1), text: string };

function checkpointText(text: string): string {
  headOf(text);
  return text;
}

/** The files of a state directory. */
export function memoryFiles(dir: string) {
  return {
    config: join(dir, 'agent.json'),
    hostKey: join(dir, 'host-key.pem'),
    token: join(dir, 'token'),
    renewal: join(dir, 'renewal.json'),
    trust: join(dir, 'trust.json'),
    journal: join(dir, 'journal.json'),
    receipts: join(dir, 'receipts.json'),
    offer: join(dir, 'offer.json'),
    lock: join(dir, 'agent.lock'),
    /** Garbage collector roots: `next` and `previous`. */
    roots: join(dir, 'gcroots'),
    /** Logs of switch-to-configuration, and the lock of the one that runs. */
    switches: join(dir, 'switch'),
    /** What Nix writes besides the store, for the length of one run. */
    scratch: join(dir, 'nix'),
    /** A bundle that is being applied, unpacked, for as long. */
    bundle: join(dir, 'bundle'),
    /** What came of an update pack so far, and NARs that wait for Nix. */
    pack: join(dir, 'pack'),
    /** Which closures the systems here have: what a pack may build on. */
    bases: join(dir, 'bases.json'),
    /** How far a fetch is, while it goes on. */
    progress: join(dir, 'progress.json'),
  };
}

/**
 * Reads who this is and whom it trusts.
 * @throws FleetError E_AGENT_NOT_ENROLLED, E_AGENT_STATE_CORRUPT, E_STATE_NEWER, E_STATE_ACCESS
 */
export async function readMemory(dir: string): Promise<Memory> {
  const identity = await readIdentity(dir);
  const { trust } = memoryFiles(dir);
  return { ...identity, trust: parseRecord(await requireState(trust), trust, TRUST) };
}

/** As readMemory, when it does not matter whom this host trusts. */
export async function readIdentity(dir: string): Promise<Identity> {
  const files = memoryFiles(dir);
  const config = await readState(files.config);
  if (config === null) {
    throw new FleetError('E_AGENT_NOT_ENROLLED', `no agent is enrolled in ${dir}`);
  }
  const hostKey = await requireState(files.hostKey);
  const token = (await requireState(files.token)).trimEnd();
  if (!/^[!-~]{1,512}$/.test(token)) throw corrupt(files.token, 'it holds no token');
  return {
    dir,
    config: parseRecord(config, files.config, CONFIG, true),
    hostKey: secretKey(hostKey, files.hostKey),
    token,
  };
}

export async function writeConfig(dir: string, config: AgentConfig): Promise<void> {
  await writeDurable(memoryFiles(dir).config, formatRecord(config));
}

export async function writeTrust(dir: string, trust: Trust): Promise<void> {
  await writeDurable(memoryFiles(dir).trust, formatRecord(trust));
}

/** The trust.json of a directory that may not be enrolled yet; null when there is none. */
export async function readTrust(dir: string): Promise<Trust | null> {
  const file = memoryFiles(dir).trust;
  const text = await readState(file);
  return text === null ? null : parseRecord(text, file, TRUST);
}

/** Null when there is none, or when it is damaged: then the server is asked unconditionally. */
export async function readOffer(dir: string): Promise<StoredOffer | null> {
  const file = memoryFiles(dir).offer;
  const text = await readState(file);
  if (text === null) return null;
  try {
    return parseRecord(text, file, OFFER);
  } catch {
    return null;
  }
}

/** Replaces the stored offer; null removes it. */
export async function writeOffer(dir: string, offer: StoredOffer | null): Promise<void> {
  const file = memoryFiles(dir).offer;
  if (offer === null) await removeDurable(file);
  else await writeDurable(file, formatRecord(offer), 0o600);
}

/** The host key's secret in `file`. @throws FleetError E_AGENT_STATE_CORRUPT */
export function secretKey(pem: string, file: string): Uint8Array {
  try {
    return parseSecretKey(pem);
  } catch (cause) {
    throw corrupt(file, messageOf(cause), cause);
  }
}

/** The text of a state file, or null when it is absent. @throws FleetError E_STATE_ACCESS */
export async function readState(file: string): Promise<string | null> {
  try {
    return await readFile(file, 'utf8');
  } catch (cause) {
    if (errnoOf(cause) === 'ENOENT') return null;
    if (errnoOf(cause) === 'EACCES' || errnoOf(cause) === 'EPERM') {
      throw new FleetError('E_STATE_ACCESS', `${file} may not be read`, { cause });
    }
    throw cause;
  }
}

/** The text of a state file that must be there once a host is enrolled. */
export async function requireState(file: string): Promise<string> {
  const text = await readState(file);
  if (text === null) throw corrupt(file, 'it is missing, though agent.json is there');
  return text;
}
