// An agent's state directory and its machine → what a person wants to know of it. Reads only, takes no
// lock, asks no server; while an agent works it shows the step it is at.
import { isFleetError } from '../errors.ts';
import { fingerprint, type PublicKey, publicKeyOfSecret } from '../keyfile.ts';
import type { Floor } from '../manifest/verify.ts';
import { type Rejected, readJournal, type Transaction } from './journal.ts';
import { readMemory } from './memory.ts';
import { placeAt, readSystems, type Systems } from './place.ts';
import { readChain, type Told } from './receipts.ts';
import { NO_RENEWAL, type Renewal, readRenewal } from './renew-token.ts';
import { trustedRoot } from './trusted.ts';

export type AgentStatus = {
  readonly fleet: string;
  readonly host: string;
  readonly system: string;
  readonly server: string;
  readonly root: string | null;
  readonly publicKey: PublicKey;
  readonly fingerprint: string;
  /** The trusted root. */
  readonly rootVersion: number;
  /** POSIX seconds. */
  readonly rootExpiresAt: number;
  /** The newest manifest that was accepted. */
  readonly accepted: Floor | null;
  readonly decommissioned: boolean;
  readonly systems: Systems;
  /** The outcome of the last run that had news. */
  readonly last: Told | null;
  readonly underWay: Transaction | null;
  readonly rejected: Rejected | null;
  /** When the token will be followed by the next, POSIX seconds; null: when the server says so. */
  readonly tokenRenewAt: number | null;
  /** Why it will not be, as far as this machine knows; null: nothing is in the way. */
  readonly tokenProblem: string | null;
  /** Receipts that the server has not acknowledged. */
  readonly queued: number;
};

/** @throws FleetError E_AGENT_NOT_ENROLLED, E_AGENT_STATE_CORRUPT, E_STATE_NEWER, E_STATE_ACCESS */
export async function agentStatus(dir: string): Promise<AgentStatus> {
  const memory = await readMemory(dir);
  const { transaction, rejected } = await readJournal(dir);
  const chain = await readChain(dir);
  const { renewal, tokenProblem } = await renewalOf(dir);
  const root = trustedRoot(memory);
  const publicKey = publicKeyOfSecret(memory.hostKey);
  const { fleet, host, system, server } = memory.config;
  return {
    fleet,
    host,
    system,
    server,
    root: memory.config.root,
    publicKey,
    fingerprint: fingerprint(publicKey),
    rootVersion: root.version,
    rootExpiresAt: root.expiresAt,
    accepted: memory.trust.floor,
    decommissioned: memory.trust.decommissioned,
    systems: await readSystems(placeAt(memory.config.root)),
    last: chain.told,
    underWay: transaction,
    rejected,
    tokenRenewAt: renewal.renewAt,
    tokenProblem,
    queued: chain.queue.length,
  };
}

/** Runs go on without it, so a damaged one is shown beside all else. */
async function renewalOf(dir: string): Promise<{ renewal: Renewal; tokenProblem: string | null }> {
  try {
    return { renewal: await readRenewal(dir), tokenProblem: null };
  } catch (error) {
    if (!isFleetError(error, 'E_AGENT_STATE_CORRUPT')) throw error;
    return { renewal: NO_RENEWAL, tokenProblem: `${error.message}; ${error.hint}` };
  }
}
