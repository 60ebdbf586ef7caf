// A damaged state directory → a whole one again, on the word of root at the machine (SPEC §5.4). Only what is damaged
// is given up, and of that only what cannot be read: a floor that is readable stays. The damaged files are kept
// beside the new ones, and the next receipt says that this was done.
// Refuses where host key, token or agent.json are damaged, which only enrolment gives; a root of another fleet,
// or none where the stored one is lost.
import { basename } from 'node:path';
import { linkDurable } from '../durable.ts';
import { FleetError, isFleetError } from '../errors.ts';
import { publicKeyOfSecret } from '../keyfile.ts';
import { parseEnvelope } from '../manifest/dsse.ts';
import { parseEnrolFile } from '../manifest/enrol-file.ts';
import { verifyCheckpoint } from '../manifest/log-view.ts';
import { type Root, requireHostKey, verifyInitialRoot } from '../manifest/root.ts';
import { rootDigest } from '../manifest/snapshot.ts';
import type { Floor } from '../manifest/verify.ts';
import { EMPTY_JOURNAL, JOURNAL, type Journal, writeJournal } from './journal.ts';
import { LOCAL, type Local, localFile, NO_LOCAL, writeLocal } from './local.ts';
import { tryLock } from './lock.ts';
import {
  type Identity,
  memoryFiles,
  readIdentity,
  readState,
  TRUST,
  type Trust,
  writeTrust,
} from './memory.ts';
import { CHAIN, type Chain, EMPTY_CHAIN, writeChain } from './receipts.ts';
import { type Fields, parseRecord, salvageRecord } from './record.ts';
import { NO_RENEWAL, RENEWAL, type Renewal, writeRenewal } from './renew-token.ts';
import { trustedRoot } from './trusted.ts';

/** A damaged file, why it is taken for that, and what is given up with it, in words. */
export type Damage = {
  readonly file: string;
  readonly why: string;
  readonly lost: readonly string[];
};

/** What is to be done. */
export type ResetPlan = {
  readonly fleet: string;
  readonly host: string;
  /** Empty: nothing is damaged, and nothing is done. */
  readonly damaged: readonly Damage[];
  /** The root that trust begins again from; null: the stored one is whole, and stays. */
  readonly root: { readonly version: number; readonly sha256: string } | null;
  /** The newest manifest that was accepted, which nothing older may follow; null: none is known. */
  readonly floor: Floor | null;
  /** The chain of receipts begins again, of which the server has the beginning: it takes none before an enrolment. */
  readonly enrolAnew: boolean;
};

/** What was done; `kept` are the damaged files' new names. */
export type Reset = ResetPlan & { readonly kept: readonly string[] };

export type ResetOptions = {
  readonly dir: string;
  /** Text of a root, or of an enrolment file, for where the stored root is lost. */
  readonly rootFile: string | null;
  /** POSIX seconds, for the names of the files that are kept. */
  readonly now: number;
  /** Throws unless the plan is to be carried out. */
  readonly confirm: (plan: ResetPlan) => Promise<void>;
};

/** @throws FleetError E_AGENT_NOT_ENROLLED, E_AGENT_STATE_CORRUPT, E_AGENT_BUSY, E_USAGE, and for the root file. */
export async function resetTrust(options: ResetOptions): Promise<Reset> {
  const { dir, confirm } = options;
  const identity = await readIdentity(dir);
  const files = memoryFiles(dir);
  await using lock = await tryLock(files.lock);
  if (lock === null) throw new FleetError('E_AGENT_BUSY', `another agent works in ${dir}`);
  const trust = await lookAt(files.trust, TRUST, (whole) =>
    trustedRoot({ ...identity, trust: whole }),
  );
  const journal = await lookAt(files.journal, JOURNAL);
  const receipts = await lookAt(files.receipts, CHAIN);
  const renewal = await lookAtRenewal(files.renewal);
  const local = await lookAtLocal(localFile(dir));
  const begin = trust.whole === null ? begunFrom(trust.left, identity, options.rootFile) : null;
  const left = begin === null ? trust.left : sound(trust.left, begin.root);
  const damaged = [
    damageOf(trust, lostOfTrust(left, begin)),
    damageOf(journal, lostOf(JOURNAL_WORDS, journal.left)),
    damageOf(receipts, lostOfChain(receipts.left)),
    damageOf(renewal, lostOf(RENEWAL_WORDS, renewal.left)),
    damageOf(local, lostOf(LOCAL_WORDS, local.left)),
  ].filter((one) => one !== null);
  const { fleet, host } = identity.config;
  const floor = (trust.whole ?? left).floor ?? null;
  const enrolAnew = receipts.whole === null && chainOf(receipts.left) === EMPTY_CHAIN;
  const plan = { fleet, host, damaged, root: begin?.given ?? null, floor, enrolAnew };
  if (damaged.length === 0) return { ...plan, kept: [] };
  await confirm(plan);
  // Before anything is put in their place: at no instant is one of them merely missing.
  const kept: string[] = [];
  for (const one of [trust, journal, receipts, renewal, local]) {
    if (one.whole === null && one.isThere) kept.push(await keep(one.file, options.now));
  }
  // First what tells of this: if it breaks off here, the rest is still damaged, and this is done again.
  const chain = receipts.whole ?? chainOf(receipts.left);
  await writeChain(dir, {
    ...chain,
    untold: [...new Set([...chain.untold, 'trust-reset'] as const)],
  });
  if (begin !== null) await writeTrust(dir, trustOf(left, begin.envelope));
  if (journal.whole === null) await writeJournal(dir, { ...EMPTY_JOURNAL, ...journal.left });
  if (renewal.whole === null) await writeRenewal(dir, { ...NO_RENEWAL, ...renewal.left });
  if (local.whole === null) await writeLocal(dir, { ...NO_LOCAL, ...local.left });
  return { ...plan, kept };
}

type Looked<T> = {
  readonly file: string;
  readonly isThere: boolean;
  /** null: it is damaged, or missing. */
  readonly whole: T | null;
  readonly why: string;
  /** What can still be read of it. */
  readonly left: Partial<T>;
};

async function lookAt<T extends object>(
  file: string,
  fields: Fields<T>,
  check: (whole: T) => unknown = () => {},
): Promise<Looked<T>> {
  const text = await readState(file);
  if (text === null) return { file, isThere: false, whole: null, why: 'it is missing', left: {} };
  try {
    const whole = parseRecord(text, file, fields);
    check(whole);
    return { file, isThere: true, whole, why: '', left: {} };
  } catch (error) {
    if (!isFleetError(error, 'E_AGENT_STATE_CORRUPT')) throw error;
    const why = error.message.replace(`${file} is damaged: `, '');
    return { file, isThere: true, whole: null, why, left: salvageRecord(text, fields) };
  }
}

/** Where there is none, none is missing: hosts of an older fleet have no such file. */
async function lookAtRenewal(file: string): Promise<Looked<Renewal>> {
  const looked = await lookAt(file, RENEWAL);
  return looked.isThere ? looked : { ...looked, whole: NO_RENEWAL };
}

/** As with renewals. Whoever writes it meanwhile writes nothing into one that is damaged. */
async function lookAtLocal(file: string): Promise<Looked<Local>> {
  const looked = await lookAt(file, LOCAL);
  return looked.isThere ? looked : { ...looked, whole: NO_LOCAL };
}

type Begin = {
  readonly root: Root;
  readonly envelope: string;
  /** null: it is the stored one. */
  readonly given: ResetPlan['root'];
};

/** The stored root where it can still be read: it is no older than any that is given. */
function begunFrom(left: Partial<Trust>, identity: Identity, rootFile: string | null): Begin {
  const { fleet } = identity.config;
  if (left.root !== undefined) {
    try {
      return { root: openRoot(left.root, fleet), envelope: left.root, given: null };
    } catch (error) {
      if (!isFleetError(error)) throw error;
    }
  }
  if (rootFile === null) {
    throw new FleetError('E_USAGE', 'the root that this host trusted is lost; give one', {
      hint: 'give the newest root of this fleet, or an enrolment file, as it came to you: fleet agent reset-trust --root-file FILE',
    });
  }
  const envelope = envelopeIn(rootFile);
  const root = openRoot(envelope, fleet);
  requireHostKey(root, publicKeyOfSecret(identity.hostKey));
  const sha256 = rootDigest(parseEnvelope(envelope).payload);
  return { root, envelope, given: { version: root.version, sha256 } };
}

/** The root's envelope in a file that holds it alone, or in an enrolment file, however old. */
function envelopeIn(text: string): string {
  let json: unknown = null;
  try {
    json = JSON.parse(text);
  } catch {
    // parseEnvelope says so.
  }
  const isEnrolFile = typeof json === 'object' && json !== null && 'secret' in json;
  return isEnrolFile ? parseEnrolFile(text).root : text;
}

/** It may have expired: newer ones follow from it. @throws FleetError */
function openRoot(envelope: string, fleet: string): Root {
  const root = verifyInitialRoot(parseEnvelope(envelope));
  if (root.fleet === fleet) return root;
  throw new FleetError('E_FLEET_MISMATCH', `the root is of fleet ${root.fleet}, not ${fleet}`);
}

/** Without a checkpoint that is no longer what its log signed: all that is true would contradict it. */
function sound(left: Partial<Trust>, root: Root): Partial<Trust> {
  if (left.checkpoint == null) return left;
  try {
    verifyCheckpoint(left.checkpoint, root);
  } catch (error) {
    // One of another log, or of a newer root's key, cannot be judged yet.
    if (!isFleetError(error, 'E_NOTE_SIGNATURE')) return left;
    const { checkpoint: _, ...rest } = left;
    return rest;
  }
  return left;
}

function trustOf(left: Partial<Trust>, root: string): Trust {
  const nothing = { floor: null, decommissioned: false, checkpoint: null, earlier: [], time: null };
  return { ...nothing, ...left, root };
}

/** Counter and head are one thing: without either, the chain begins anew. */
function chainOf(left: Partial<Chain>): Chain {
  const { counter, head } = left;
  const isOne = counter !== undefined && head !== undefined && (counter === 0) === (head === null);
  return isOne ? { ...EMPTY_CHAIN, ...left, counter, head } : EMPTY_CHAIN;
}

const TRUST_WORDS: Partial<Record<keyof Trust, string>> = {
  floor: 'the number of its newest manifest: an older one passes, if the log calls that the newest',
  decommissioned: 'whether this host’s service was ended: the server says it again',
  checkpoint: 'how far the log had come: another history is noticed by the root’s anchor alone',
  earlier: 'what earlier logs said last: evidence',
  time: 'the latest time that was signed: a wrong clock may pass for right',
};

const JOURNAL_WORDS: Partial<Record<keyof Journal, string>> = {
  transaction:
    'what an activation that broke off had touched: the newest manifest is activated anew',
  rejected: 'which manifest was rolled back: it is tried again',
  lastGood: 'which system ran before: nobody can go back to it by hand',
};

const RENEWAL_WORDS: Partial<Record<keyof Renewal, string>> = {
  renewAt: 'when the next token is due: the server says when',
  next: 'a token that was asked for and is not in use yet, if any: if the server gave it, this host is enrolled anew',
  previous: 'the token before: a server that was restored from before this one takes neither',
};

const LOCAL_WORDS: Partial<Record<keyof Local, string>> = {
  coming: 'since when an update waits: its time to be put off begins anew',
  deferred: 'until when an update was put off',
  back: 'a way back that was asked for and not gone to its end',
  held: 'which manifest is held since somebody went back by hand: it is tried again',
  requests: 'requests that were not told yet, if any',
};

function lostOfTrust(left: Partial<Trust>, begin: Begin | null): string[] {
  const given = begin?.given;
  const root = given == null ? [] : [`the root: trust begins again with version ${given.version}`];
  return [...root, ...lostOf(TRUST_WORDS, left)];
}

function lostOfChain(left: Partial<Chain>): string[] {
  const begins = 'the chain of receipts: the server takes none until this host is enrolled anew';
  const anew = chainOf(left) === EMPTY_CHAIN ? [begins] : [];
  return left.queue === undefined ? [...anew, 'receipts that waited to be sent, if any'] : anew;
}

function lostOf<T>(words: Partial<Record<keyof T, string>>, left: Partial<T>): string[] {
  const names = Object.keys(words) as (keyof T)[];
  return names.filter((name) => left[name] === undefined).map((name) => words[name] ?? '');
}

function damageOf<T>({ file, whole, why }: Looked<T>, lost: readonly string[]): Damage | null {
  return whole === null ? { file, why, lost } : null;
}

/** Gives a damaged file a second name, which stays when the first one gets another content. */
async function keep(file: string, now: number): Promise<string> {
  for (let count = 1; ; count++) {
    const name = `${file}.damaged-${now}${count === 1 ? '' : `-${count}`}`;
    try {
      await linkDurable(file, name);
      return basename(name);
    } catch (error) {
      if (!isFleetError(error, 'E_STATE_EXISTS') || count === 100) throw error;
    }
  }
}
