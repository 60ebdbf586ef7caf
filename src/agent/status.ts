// An agent's state directory and its machine → what a person wants to know of it. Reads only, takes no
// lock, asks no server; while an agent works it shows the step it is at.
import { isFleetError } from '../errors.ts';
import { fingerprint, type PublicKey, publicKeyOfSecret } from '../keyfile.ts';
import type { Floor } from '../manifest/verify.ts';
import type { StorePath } from '../nix/storepath.ts';
import { type ComingChanges, changesOf, NOT_KNOWN } from './coming.ts';
import { wayBackOf } from './go-back.ts';
import { type Journal, type Rejected, readJournal, type Transaction } from './journal.ts';
import {
  type ApplyNow,
  type Coming,
  type Deferred,
  type Held,
  NO_LOCAL,
  readLocal,
} from './local.ts';
import { readMemory } from './memory.ts';
import { type Place, placeAt, readSystems, type Systems } from './place.ts';
import { type FetchProgress, readProgress, secondsLeft } from './progress.ts';
import { readChain, type Told } from './receipts.ts';
import { NO_RENEWAL, type Renewal, readRenewal } from './renew-token.ts';
import { trustedRoot } from './trusted.ts';
import { latestOf } from './wishes.ts';

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
  /** How far a fetch is that goes on; null: none does. */
  readonly fetching: Fetching | null;
  readonly rejected: Rejected | null;
  /** When the token will be followed by the next, POSIX seconds; null: when the server says so. */
  readonly tokenRenewAt: number | null;
  /** Why it will not be, as far as this machine knows; null: nothing is in the way. */
  readonly tokenProblem: string | null;
  /** Receipts that the server has not acknowledged. */
  readonly queued: number;
  readonly local: LocalStatus;
};

export type Fetching = FetchProgress & { readonly secondsLeft: number | null };

/** What people at the machine asked for, and what they may ask for. */
export type LocalStatus = {
  /** null: nothing waits to be activated. */
  readonly coming: (Coming & ComingChanges & { readonly latest: number | null }) | null;
  readonly deferred: Deferred | null;
  readonly now: ApplyNow | null;
  readonly held: Held | null;
  /** Requests that have no receipt yet. */
  readonly requests: number;
  /** The system that `fleet agent rollback` goes back to, or why there is none. */
  readonly wayBack: { readonly toplevel: StorePath | null; readonly problem: string | null };
  /** Why local.json cannot be read; null: it can. The next run sets it aside. */
  readonly problem: string | null;
};

/** @throws FleetError E_AGENT_NOT_ENROLLED, E_AGENT_STATE_CORRUPT, E_STATE_NEWER, E_STATE_ACCESS */
export async function agentStatus(dir: string): Promise<AgentStatus> {
  const memory = await readMemory(dir);
  const journal = await readJournal(dir);
  const { transaction, rejected } = journal;
  const chain = await readChain(dir);
  const { renewal, tokenProblem } = await renewalOf(dir);
  const root = trustedRoot(memory);
  const publicKey = publicKeyOfSecret(memory.hostKey);
  const { fleet, host, system, server } = memory.config;
  const place = placeAt(memory.config.root);
  const systems = await readSystems(place);
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
    systems,
    last: chain.told,
    underWay: transaction,
    fetching: await fetchingIn(dir),
    rejected,
    tokenRenewAt: renewal.renewAt,
    tokenProblem,
    queued: chain.queue.length,
    local: await localStatus(dir, place, systems, journal),
  };
}

async function fetchingIn(dir: string): Promise<Fetching | null> {
  const progress = await readProgress(dir);
  return progress && { ...progress, secondsLeft: secondsLeft(progress) };
}

async function localStatus(
  dir: string,
  place: Place,
  systems: Systems,
  journal: Journal,
): Promise<LocalStatus> {
  const { local, problem } = await readLocal(dir).then(
    (whole) => ({ local: whole, problem: null }),
    (error: unknown) => {
      if (!isFleetError(error, 'E_AGENT_STATE_CORRUPT')) throw error;
      return { local: NO_LOCAL, problem: error.message };
    },
  );
  const { coming, deferred, now, held, requests } = local;
  const changes = coming === null ? null : await changesHere(place, coming, systems);
  return {
    coming: coming && changes && { ...coming, ...changes, latest: latestOf(coming) },
    deferred,
    now,
    held,
    requests: requests.length,
    wayBack: await wayBackOf(place, journal).then(
      ({ toplevel }) => ({ toplevel, problem: null }),
      (error: unknown) => {
        if (!isFleetError(error)) throw error;
        return { toplevel: null, problem: error.message };
      },
    ),
    problem,
  };
}

/** Nothing else of the status needs Nix. */
async function changesHere(
  place: Place,
  { toplevel }: Coming,
  systems: Systems,
): Promise<ComingChanges> {
  return await changesOf(place, toplevel, systems).catch((error: unknown) => {
    if (!isFleetError(error)) throw error;
    return NOT_KNOWN;
  });
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
