// A one-time enrol file → this host's state directory (SPEC §7): the root the file brings is what the
// host trusts from now on; its own key is made here and never leaves. agent.json is written last: until
// then the host is not enrolled, and the same command goes on where it broke off, with the same key.
// Refuses a directory that is enrolled, or that has been; the file of another host; an expired one.
import { dirname, resolve } from 'node:path';
import { createDurable, makeDirectoryDurable, writeDurable } from '../durable.ts';
import { generateSecretKey } from '../ed25519.ts';
import { FleetError } from '../errors.ts';
import { fingerprint, formatSecretKey, type PublicKey, publicKeyOfSecret } from '../keyfile.ts';
import { type EnrolFile, parseEnrolFile, rootOfEnrolFile } from '../manifest/enrol-file.ts';
import { ENROL_REQUEST_PAYLOAD_TYPE, signEnrolRequest } from '../manifest/enrolment.ts';
import { requireHostKey } from '../manifest/root.ts';
import { currentSystem } from '../nix/command.ts';
import { Client } from './client.ts';
import { EMPTY_JOURNAL, writeJournal } from './journal.ts';
import { tryLock } from './lock.ts';
import {
  type AgentConfig,
  DEFAULT_UPSTREAMS,
  FETCH_DEFAULTS,
  memoryFiles,
  readState,
  readTrust,
  secretKey,
  writeConfig,
  writeTrust,
} from './memory.ts';
import { EMPTY_CHAIN, writeChain } from './receipts.ts';
import { expiresInOf, NO_RENEWAL, renewAfter, writeRenewal } from './renew-token.ts';
import { DEFAULT_POLL_SECONDS } from './waiting.ts';

export type EnrollOptions = {
  readonly dir: string;
  /** Text of the enrol file. */
  readonly file: string;
  /** What the admin at the machine says it is; the file must agree. */
  readonly host: string | null;
  readonly system: string | null;
  /** Chroot store, or null: the machine itself. */
  readonly root: string | null;
  /** POSIX seconds. */
  readonly now: number;
};

export type Enrolled = {
  readonly config: AgentConfig;
  readonly publicKey: PublicKey;
  /** What the admin compares with `fleet host show`. */
  readonly fingerprint: string;
};

const DEFAULTS = {
  repair: false,
  leastBytesPerSecond: 200,
  patienceSeconds: 60,
  switchSeconds: 1800,
  clock: 'auto',
  pollSeconds: DEFAULT_POLL_SECONDS,
  privacy: false,
  localGroup: null,
  ...FETCH_DEFAULTS,
} as const satisfies Partial<AgentConfig>;

/**
 * Enrols this host. Safe to run again after any failure, until the file expires.
 * @throws FleetError E_ENROL_…, E_HOST_MISMATCH, E_STATE_EXISTS, E_STATE_INCOMPLETE, E_USAGE, E_SERVER_…
 */
export async function enroll(options: EnrollOptions): Promise<Enrolled> {
  const { dir, now } = options;
  const file = parseEnrolFile(options.file);
  const root = rootOfEnrolFile(file, now);
  const config = configOf(file, options);
  // Only the last one is private: the agent's state may lie in a chroot store's own tree.
  await makeDirectoryDurable(dirname(dir));
  await makeDirectoryDurable(dir, 0o700);
  const files = memoryFiles(dir);
  await using lock = await tryLock(files.lock);
  if (lock === null) throw new FleetError('E_AGENT_BUSY', `another agent works in ${dir}`);
  await requireFresh(dir);
  const secret = await hostKey(files.hostKey);
  const publicKey = publicKeyOfSecret(secret);
  requireHostKey(root, publicKey);
  const { token, expiresIn } = await askForToken(file, config, secret);
  await writeDurable(files.token, `${token}\n`, 0o600);
  const renewAt = expiresIn === null ? null : renewAfter(expiresIn, now);
  await writeRenewal(dir, { ...NO_RENEWAL, renewAt });
  await writeTrust(dir, {
    root: file.root,
    floor: null,
    decommissioned: false,
    checkpoint: null,
    earlier: [],
    time: null,
  });
  await writeJournal(dir, EMPTY_JOURNAL);
  await writeChain(dir, EMPTY_CHAIN);
  await writeConfig(dir, config);
  return { config, publicKey, fingerprint: fingerprint(publicKey) };
}

function configOf(file: EnrolFile, options: EnrollOptions): AgentConfig {
  if (options.host !== null && options.host !== file.host) {
    throw new FleetError(
      'E_HOST_MISMATCH',
      `the file enrols ${file.host}, and --host says ${options.host}`,
      { hint: 'use the file that was made for this host' },
    );
  }
  const system = options.system ?? currentSystem();
  if (!/^[a-z0-9_]{1,32}-[a-z0-9]{1,32}$/.test(system)) {
    throw new FleetError('E_USAGE', `--system ${system} is no Nix system, such as x86_64-linux`);
  }
  const { server, fleet, host } = file;
  const upstreams = [...new Set([...DEFAULT_UPSTREAMS, ...(file.upstreams ?? [])])];
  const root = options.root === null ? null : resolve(options.root);
  return { server, fleet, host, system, root, ...DEFAULTS, upstreams };
}

async function requireFresh(dir: string): Promise<void> {
  if ((await readState(memoryFiles(dir).config)) !== null) {
    throw new FleetError('E_STATE_EXISTS', `an agent is enrolled in ${dir} already`, {
      hint: `to enrol anew, move ${dir} away first`,
    });
  }
  // What was accepted before must not be forgotten by enrolling over it.
  if ((await readTrust(dir))?.floor != null) {
    throw new FleetError('E_STATE_INCOMPLETE', `${dir} was enrolled, but agent.json is missing`, {
      hint: `restore agent.json from a backup, or move ${dir} away`,
    });
  }
}

async function hostKey(file: string): Promise<Uint8Array> {
  const kept = await readState(file);
  if (kept !== null) return secretKey(kept, file);
  const secret = generateSecretKey();
  await createDurable(file, formatSecretKey(secret), 0o600);
  return secret;
}

async function askForToken(
  file: EnrolFile,
  config: AgentConfig,
  hostSecret: Uint8Array,
): Promise<{ readonly token: string; readonly expiresIn: number | null }> {
  await using client = new Client({ ...config, token: file.secret });
  const answer = await client.document('/v1/enroll', 4096, {
    method: 'POST',
    body: signEnrolRequest(file, hostSecret),
    contentType: ENROL_REQUEST_PAYLOAD_TYPE,
  });
  const token = tokenOf(answer.body);
  if (token !== null) return { token, expiresIn: expiresInOf(answer.body) };
  throw new FleetError('E_SERVER_ANSWER', `${config.server}/v1/enroll answered without a token`);
}

function tokenOf(body: Buffer): string | null {
  try {
    const { token } = JSON.parse(body.toString('utf8')) as { token?: unknown };
    return typeof token === 'string' && /^[A-Za-z0-9._~+/=-]{16,512}$/.test(token) ? token : null;
  } catch {
    return null;
  }
}
