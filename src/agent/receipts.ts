// What became of a run → receipts: signed with the host's key, chained, kept on disk until the server
// has them, and sent in order (SPEC §6). An outcome that is the same as the one told last is not told
// again. A receipt is durable before it is sent; sending it twice does no harm.
// The queue is bounded: while it is full nothing new is signed, so the chain has no gap, and the first
// outcome after it drained is told as it then is.
import { writeDurable } from '../durable.ts';
import { FleetError, isFleetError } from '../errors.ts';
import {
  EXCEPTIONS,
  type Exception,
  RECEIPT_PAYLOAD_TYPE,
  type Receipt,
  signReceipt,
} from '../manifest/receipt.ts';
import { type Client, errorDocument } from './client.ts';
import type { Plea } from './local.ts';
import { MANIFEST_ID, type ManifestId, type Memory, memoryFiles, requireState } from './memory.ts';
import type { Outcome } from './outcome.ts';
import { TIMED } from './policy.ts';
import {
  digest,
  type Fields,
  formatRecord,
  integer,
  list,
  nullable,
  oneOf,
  parseRecord,
  record,
  since,
  string,
} from './record.ts';
import { NO_UNITS } from './units.ts';
import { MAX_REQUESTS } from './wishes.ts';

/** The outcome that was told last, as far as a later run asks for it. */
export type Told = {
  readonly phase: string;
  readonly code: string | null;
  readonly text: string | null;
  readonly manifest: ManifestId | null;
  readonly current: string | null;
  readonly profile: string | null;
  readonly bootId: string;
  /** POSIX seconds. */
  readonly at: number;
};

/** receipts.json */
export type Chain = {
  /** Number of receipts signed so far. */
  readonly counter: number;
  /** Digest of the newest one. */
  readonly head: string | null;
  readonly told: Told | null;
  /** What root did and no receipt says yet. */
  readonly untold: readonly Exception[];
  /** Envelopes that the server has not acknowledged, oldest first. */
  readonly queue: readonly string[];
  readonly requests: ToldRequests;
};

/** Which requests of people at the machine have their receipt. */
export type ToldRequests = {
  /** How many ever were; the number of the newest. */
  readonly count: number;
  /** The ids of those that may still wait in local.json. */
  readonly ids: readonly string[];
};

export type Sent = {
  readonly sent: number;
  readonly queued: number;
  /** Why the rest could not be sent. */
  readonly problem: FleetError | null;
};

const NO_REQUESTS: ToldRequests = { count: 0, ids: [] };

export const EMPTY_CHAIN: Chain = {
  counter: 0,
  head: null,
  told: null,
  untold: [],
  queue: [],
  requests: NO_REQUESTS,
};

/** More than anyone will have; at about 1.5 KiB each. */
const MAX_QUEUE = 256;
/** As far as requests may fill it: the rest is for what becomes of updates, whatever people here ask for meanwhile. */
const MAX_QUEUE_FOR_REQUESTS = 128;

export const CHAIN: Fields<Chain> = {
  counter: integer(0),
  head: nullable(digest),
  told: nullable(
    record<Told>({
      phase: string,
      code: nullable(string),
      text: nullable(string),
      manifest: nullable(MANIFEST_ID),
      current: nullable(string),
      profile: nullable(string),
      bootId: string,
      at: integer(0),
    }),
  ),
  untold: since([], list(oneOf(EXCEPTIONS))),
  queue: list(string),
  requests: since(NO_REQUESTS, record<ToldRequests>({ count: integer(0), ids: list(string) })),
};

/** @throws FleetError E_AGENT_STATE_CORRUPT */
export async function readChain(dir: string): Promise<Chain> {
  const file = memoryFiles(dir).receipts;
  return parseRecord(await requireState(file), file, CHAIN);
}

export async function writeChain(dir: string, chain: Chain): Promise<void> {
  await writeDurable(memoryFiles(dir).receipts, formatRecord(chain), 0o600);
}

/**
 * Has the next receipt say what root did, durably: before it is acted upon, so that no death, full disk or full
 * queue leaves a deed without its record.
 */
export async function owe(dir: string, chain: Chain, deed: Exception): Promise<Chain> {
  if (chain.untold.includes(deed)) return chain;
  const next: Chain = { ...chain, untold: [...chain.untold, deed] };
  await writeChain(dir, next);
  return next;
}

export type TellContext = {
  readonly bootId: string;
  readonly started: number;
  readonly finished: number;
  /** A checkpoint that contradicts the accepted one. */
  readonly conflict: string | null;
};

/** Signs and queues a receipt of `outcome`, durably, unless it is what was told last. */
export async function tell(
  memory: Memory,
  chain: Chain,
  outcome: Outcome,
  context: TellContext,
): Promise<Chain> {
  const told = toldOf(outcome, context);
  const isNews = chain.untold.length > 0 || chain.told === null || !sameNews(chain.told, told);
  if (!isNews) return chain;
  return await queue(memory, { ...chain, told }, chain, outcome, context, {});
}

/**
 * Signs and queues a receipt of a request of somebody at the machine, durably, in the very write that remembers that
 * it was told. `outcome` is how the host is.
 */
export async function tellRequest(
  memory: Memory,
  chain: Chain,
  { id, text, who }: Plea,
  outcome: Outcome,
  context: TellContext,
): Promise<Chain> {
  if (chain.queue.length >= MAX_QUEUE_FOR_REQUESTS) return chain;
  const number = chain.requests.count + 1;
  const ids = [...chain.requests.ids, id].slice(-2 * MAX_REQUESTS);
  const next: Chain = {
    ...chain,
    told: chain.told ?? toldOf(outcome, context),
    requests: { count: number, ids },
  };
  const request = { request: { number, text } };
  return await queue(memory, next, chain, { ...outcome, who }, context, request);
}

/** `next`: the chain as it is then, but for what the receipt itself adds. */
async function queue(
  memory: Memory,
  next: Chain,
  chain: Chain,
  outcome: Outcome,
  context: TellContext,
  extra: Pick<Receipt, 'request'>,
): Promise<Chain> {
  if (chain.queue.length >= MAX_QUEUE) return chain;
  const exceptions = EXCEPTIONS.filter((one) => chain.untold.includes(one));
  const { fleet, host } = memory.config;
  const receipt: Receipt = {
    fleet,
    host,
    counter: chain.counter + 1,
    previous: chain.head,
    manifest: outcome.manifest,
    checkpoint: memory.trust.checkpoint,
    conflict: context.conflict,
    ...(exceptions.length === 0 ? {} : { exceptions }),
    ...extra,
    phase: outcome.phase,
    ...(memory.config.privacy ? withheld(outcome) : detail(outcome)),
    who: outcome.who ?? (exceptions.length === 0 ? 'policy' : 'root'),
    times: { started: context.started, finished: context.finished },
  };
  const signed = signReceipt(receipt, memory.hostKey);
  const queued: Chain = {
    ...next,
    counter: receipt.counter,
    head: signed.digest,
    untold: [],
    queue: [...chain.queue, signed.envelope],
  };
  await writeChain(memory.dir, queued);
  return queued;
}

function toldOf(outcome: Outcome, { bootId, finished }: TellContext): Told {
  return {
    phase: outcome.phase,
    code: outcome.reason?.code ?? null,
    text: outcome.reason?.text ?? null,
    manifest: outcome.manifest,
    current: outcome.systems.current,
    profile: outcome.systems.profile,
    bootId,
    at: finished,
  };
}

/** Sends what is queued, oldest first, and stops at the first that is not taken. Throws nothing of the server's. */
export async function sendQueued(
  client: Client,
  memory: Memory,
  chain: Chain,
): Promise<{ readonly chain: Chain; readonly report: Sent }> {
  const path = `/v1/hosts/${memory.config.host}/reports`;
  let sent = 0;
  let problem: FleetError | null = null;
  for (const envelope of chain.queue) {
    try {
      await sendOne(client, path, envelope);
      sent++;
    } catch (error) {
      if (!isFleetError(error)) throw error;
      problem = error;
      break;
    }
  }
  const left: Chain = { ...chain, queue: chain.queue.slice(sent) };
  // Not after each one: what is sent again is a duplicate to the server, and harmless.
  if (sent > 0) await writeChain(memory.dir, left);
  return { chain: left, report: { sent, queued: left.queue.length, problem } };
}

async function sendOne(client: Client, path: string, envelope: string): Promise<void> {
  const answer = await client.document(path, 4096, {
    method: 'POST',
    body: envelope,
    contentType: RECEIPT_PAYLOAD_TYPE,
    expect: [409, 422],
  });
  if (answer.status < 300) return;
  const said = errorDocument(answer.body);
  const words = said === null ? '' : `: ${said.message} (${said.error})`;
  throw new FleetError('E_RECEIPT_REFUSED', `the server refuses this host's receipts${words}`);
}

type Detail = Pick<
  Receipt,
  'reason' | 'booted' | 'current' | 'profile' | 'exitCode' | 'failedUnits' | 'foretold'
>;

function detail({ reason, systems, exitCode, failedUnits = NO_UNITS, foretold }: Outcome): Detail {
  const words = foretold == null ? {} : { foretold };
  return { reason, ...systems, exitCode, failedUnits, ...words };
}

/** What a private host says: a phase may need a reason, and has its code. */
function withheld({ reason }: Outcome): Detail {
  const code = reason === null ? null : { code: reason.code, text: '' };
  const none = { booted: null, current: null, profile: null, exitCode: null };
  return { reason: code, ...none, failedUnits: NO_UNITS };
}

// The text may hold what changes from run to run; a host that fails alike tells it once. One that waits until another
// time has news.
function sameNews(a: Told, b: Told): boolean {
  return (
    a.phase === b.phase &&
    a.code === b.code &&
    (a.text === b.text || !TIMED.has(b.code ?? '')) &&
    a.manifest?.sha256 === b.manifest?.sha256 &&
    a.current === b.current &&
    a.profile === b.profile
  );
}
