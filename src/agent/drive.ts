// A transaction and what happened to it → what the run ends with: does what the table of machine.ts says, step by step, until
// nothing follows. Every step is journalled, durably, before it is done.
import { randomBytes } from 'node:crypto';
import { messageOf } from '../errors.ts';
import { makeReason } from '../manifest/receipt.ts';
import { check } from './check.ts';
import { commit } from './commit.ts';
import { release } from './generations.ts';
import { callSuccessor } from './hand-over.ts';
import { type Host, runsUnits } from './host.ts';
import { type Journal, readJournal, type Transaction, writeJournal } from './journal.ts';
import { goodAfter, holdLastGood } from './last-good.ts';
import { lostAgain } from './lost.ts';
import { type Effect, type Event, transition } from './machine.ts';
import { type Attempt, INTERRUPTED } from './outcome.ts';
import { prove, test } from './prove.ts';
import { bootMachine } from './reboot.ts';
import { type At, backBecause, type Happened } from './transaction.ts';
import { undo } from './undo.ts';
import { isSystemsFault, isTransient, rebootPending } from './verdict.ts';
import { arm, disarm } from './watchdog.ts';

/**
 * Goes on from `from` with what happened to it; null: there is nothing to tell.
 * @throws FleetError where the journal cannot be written, or a switch cannot be begun; the journal tells what is left.
 */
export async function drive(host: Host, from: At, happened: Happened): Promise<Attempt | null> {
  let at = from;
  let now = happened;
  while (true) {
    const row = transition(at.step, now.event);
    at = { ...at, ...now.change, step: row.to };
    let next: Happened | null = null;
    for (const effect of row.effects) {
      next = await EFFECTS[effect](host, at, now);
      if (next !== null) break;
    }
    if (next === null) return now.told == null ? null : { ...now.told, foretold: at.foretold };
    now = next;
  }
}

export function newId(): string {
  return randomBytes(6).toString('hex');
}

type Do = (host: Host, at: At, now: Happened) => Promise<Happened | null>;

const EFFECTS: { readonly [E in Effect]: Do } = {
  write: async (host, at, now) => await write(host, at, now).then(none),
  // What the journal says without this leads here again.
  note: async (host, at, now) => await write(host, at, now).then(none, none),
  close,
  check,
  arm: async (host, at) =>
    await arm(host, transactionOf(at)).then(none, (error) => {
      // What a boot brings is begun by nobody without one; elsewhere the run that this ends gives up what is open.
      if (at.step !== 'setting') throw error;
      return backBecause('broken', makeReason('E_PREFLIGHT', messageOf(error)));
    }),
  disarm: async (host, { id }) => await disarm(host, id).then(none),
  test,
  prove,
  commit,
  'ask-boot': askBoot,
  boot,
  call: async (host) => await callSuccessor(host).then(none, none),
  undo,
};

const none = (): null => null;

async function write(host: Host, at: At, { event, told }: Happened): Promise<void> {
  const { dir } = host.memory;
  const journal = await readJournal(dir);
  const next = journalAfter(journal, at, event, told ?? null, host.now());
  const before = journal.lastGood?.toplevel;
  const isOther = next.lastGood?.toplevel !== before;
  if (isOther) await holdLastGood(dir, host.place, next.lastGood);
  await writeJournal(dir, next);
  // Its generation may be gone already. What cannot be deleted now, the next collection of garbage finds.
  if (isOther && before !== undefined) await release(host.place, before).catch(() => {});
}

/** What the journal says once `event` led to `at`. */
export function journalAfter(
  journal: Journal,
  at: At,
  event: Event,
  told: Attempt | null,
  now: number,
): Journal {
  if (at.step !== 'idle') return { ...journal, transaction: transactionOf(at) };
  const { manifest, target, why } = at;
  const over: Journal = { ...journal, transaction: null };
  if (event === 'committed' || event === 'healthy') {
    const good = goodAfter(at, journal);
    return { ...over, ...good, rejected: null, lost: null, ours: [target], ready: null };
  }
  // A switch that brings the machine down must not be tried again at each boot.
  if (event === 'forgotten' && why !== null) {
    return { ...over, lost: lostAgain(over.lost, manifest, why, now) };
  }
  const reason = told?.reason ?? null;
  if (reason === null || (event !== 'closed' && event !== 'kept')) return over;
  if (isSystemsFault(reason)) {
    const phase = event === 'kept' ? 'failed' : 'rolled-back';
    const left = [target, at.previous, at.previousProfile].filter((one) => one !== null);
    const ours = event === 'kept' ? left : over.ours;
    return { ...over, rejected: { manifest, phase, reason }, lost: null, ours, ready: null };
  }
  // In the very write that ends it, so that each is counted once, however often this run dies before.
  const lost = isTransient(reason) ? lostAgain(over.lost, manifest, reason, now) : over.lost;
  return { ...over, rejected: null, lost };
}

async function close(host: Host, at: At, { told }: Happened): Promise<Happened> {
  try {
    await write(host, { ...at, step: 'idle' }, { event: 'closed', told: told ?? null });
    return { event: 'closed', told: told ?? null };
  } catch (error) {
    const { code, text } = at.why ?? INTERRUPTED;
    const reason = makeReason(code, `the journal: ${messageOf(error)}; after: ${text}`);
    const failed = { phase: 'failed', reason, exitCode: at.exitCode } as const;
    return { event: 'left', told: { ...failed, failedUnits: at.failedUnits } };
  }
}

/** Boots the machine where the host's rules and the one who sits at it agree. */
async function askBoot(host: Host, at: At, now: Happened): Promise<Happened> {
  const { step, rules, done } = at;
  const waits =
    step === 'undoing' ? (now.told ?? null) : (done ?? rebootPending('mode-boot', 'set'));
  const isOurs = runsUnits(host) && rules.reboot !== 'never';
  if (!isOurs) return { event: 'may-not-boot', told: waits };
  const wait = await host.mayBoot(rules);
  if (wait !== null) return { event: 'may-not-boot', told: step === 'undoing' ? waits : wait };
  return { event: 'may-boot', told: waits };
}

/** `told` is what the machine waits for the boot with. */
async function boot(_host: Host, at: At, { told = null }: Happened): Promise<Happened> {
  const reason = told?.reason ?? null;
  try {
    await bootMachine();
    return { event: 'booting', told: { phase: 'rebooting', reason, exitCode: at.exitCode } };
  } catch (error) {
    const text = `systemd does not boot the machine: ${messageOf(error)}`;
    const after = reason === null ? text : `${reason.text}; ${text}`;
    const waits = { ...(told ?? rebootPending('mode-boot', 'set')) };
    return {
      event: 'may-not-boot',
      told: { ...waits, reason: makeReason(reason?.code ?? 'mode-boot', after) },
    };
  }
}

function transactionOf(at: At): Transaction {
  const { step } = at;
  if (step === 'idle') throw new Error('it is over');
  return { ...at, step };
}
