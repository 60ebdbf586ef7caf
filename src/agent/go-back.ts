// Somebody at the machine wants the system of before → that runs and boots, and what they left is held (SPEC §5.8). To the
// last good system only, and never below the manifest's minSequence. It is an activation like any other: by exact path,
// journalled, undone when it fails. The wish stays in local.json until it has come to an end, so a run that dies on the
// way is followed by one that goes on.
import { FleetError } from '../errors.ts';
import { DEFAULT_ACTIVATION } from '../manifest/activation.ts';
import { makeReason } from '../manifest/receipt.ts';
import { invalidPaths } from '../nix/query.ts';
import type { StorePath } from '../nix/storepath.ts';
import { activate } from './activate.ts';
import type { Host } from './host.ts';
import { type Good, type Journal, readJournal, writeJournal } from './journal.ts';
import { changeLocal, type Held, readLocal, type WayBack } from './local.ts';
import { type Attempt, idOf } from './outcome.ts';
import { canSwitchTo, type Place, readSystems } from './place.ts';
import { NO_UNITS } from './units.ts';
import { COMMIT_WAITS, isCommitting } from './verdict.ts';
import { BACK_SECONDS, hold } from './wishes.ts';

/** The reason's code of a host that was taken back by hand. */
export const USER_ROLLBACK = 'user-rollback';

/** What a host tells that was taken back and stays there. */
export function heldAttempt({ reason, who }: Held): Attempt {
  return { phase: 'held', reason: makeReason(USER_ROLLBACK, reason), exitCode: null, who };
}

/** The system to go back to. @throws FleetError E_NO_WAY_BACK */
export async function wayBackOf(
  place: Place,
  { lastGood, least, running }: Pick<Journal, 'lastGood' | 'least' | 'running'>,
): Promise<Good> {
  if (lastGood === null) throw none('no system is known that ran well before this one');
  const { toplevel, manifest } = lastGood;
  if (least !== null && (manifest === null || isBelow(manifest, least))) {
    const number =
      manifest === null ? 'has no known sequence' : `is of sequence ${manifest.sequence}`;
    throw none(`${toplevel} ${number}, and the admin allows none below ${least.sequence}`);
  }
  // A new epoch is what an admin begins after a disaster: nothing of before it is good.
  if (manifest !== null && manifest.epoch < (running?.manifest?.epoch ?? 0)) {
    throw none(`${toplevel} is of an epoch before this one`);
  }
  const gone = await invalidPaths([toplevel], { ...place.nix, isolated: true });
  if (gone.length > 0 || !(await canSwitchTo(place, toplevel))) {
    throw none(`${toplevel} is no longer in the store`);
  }
  return lastGood;
}

/**
 * Does what local.json says of a way back. null: nobody wants one. What it came to is told by the caller; where the wish
 * cannot be granted it is dropped.
 * @throws FleetError E_NO_WAY_BACK
 */
export async function goBackAsWished(host: Host): Promise<Attempt | null> {
  const { dir } = host.memory;
  const { back } = await readLocal(dir);
  if (back === null) return null;
  if (back.begun === null) {
    const age = host.now() - back.at;
    if (age > BACK_SECONDS || age < -BACK_SECONDS) {
      await drop(dir);
      return null;
    }
  }
  const journal = await readJournal(dir);
  // What could not be finished when this run began is to be finished first.
  if (journal.transaction !== null && isCommitting(journal.transaction)) return COMMIT_WAITS;
  if (back.begun !== null && (await hasFailed(host, back.begun.to, journal))) {
    await drop(dir);
    return null;
  }
  let to: Good;
  try {
    to = await begunOr(host, back, journal);
  } catch (error) {
    await drop(dir);
    throw error;
  }
  const { floor } = host.memory.trust;
  const held = floor?.digest ?? null;
  const begun = { to: to.toplevel, manifest: back.begun?.manifest ?? held };
  await changeLocal(dir, (local) => ({ ...local, back: { ...back, begun } }));
  const attempt = await switchBack(host, to, journal);
  // `verifying`: the agent of the system of before finds out whether it stays, and goes on from here.
  if (attempt.phase === 'awaiting-lock' || attempt.phase === 'verifying') return attempt;
  const isBack = ['in-sync', 'in-sync-degraded', 'reboot-pending'].includes(attempt.phase);
  if (!isBack) {
    await drop(dir);
    // It says nothing about any manifest.
    const { rejected, lost } = journal;
    await writeJournal(dir, { ...(await readJournal(dir)), rejected, lost });
    return { ...attempt, who: back.who };
  }
  // There is no system before that one any more: what was left is none to go back to.
  await writeJournal(dir, { ...(await readJournal(dir)), running: to, lastGood: null });
  const { reason, who, at } = back;
  const sha256 = begun.manifest;
  await changeLocal(dir, (local) =>
    sha256 === null ? { ...local, back: null } : hold(local, { sha256, reason, who, at }),
  );
  const later = attempt.phase === 'reboot-pending' ? '; from the next boot on' : '';
  const { failedUnits = NO_UNITS, exitCode } = attempt;
  const text = makeReason(USER_ROLLBACK, `${reason}${later}`);
  return { phase: 'held', reason: text, exitCode, failedUnits, who };
}

/**
 * Whether one that was begun was undone meanwhile, as by an agent that it was handed over to, or is being: it is not tried
 * again, and nothing is kept against a manifest.
 */
async function hasFailed(
  { memory }: Host,
  to: StorePath,
  { lastGood, transaction, rejected }: Journal,
): Promise<boolean> {
  if (transaction?.step === 'undoing') return transaction.target === to;
  if (transaction !== null || rejected === null || lastGood?.toplevel !== to) return false;
  const of = lastGood.manifest?.sha256 ?? memory.trust.floor?.digest;
  if (rejected.manifest.sha256 !== of) return false;
  await writeJournal(memory.dir, { ...(await readJournal(memory.dir)), rejected: null });
  return true;
}

/** One that was begun goes on to where it was going, as long as that is what is known. */
async function begunOr(host: Host, { begun }: WayBack, journal: Journal): Promise<Good> {
  const { running } = journal;
  if (begun !== null && running?.toplevel === begun.to) {
    // The commit named the newest manifest where none was known.
    return running.manifest?.sha256 === begun.manifest ? { ...running, manifest: null } : running;
  }
  return await wayBackOf(host.place, journal);
}

async function switchBack(host: Host, to: Good, journal: Journal): Promise<Attempt> {
  const { current, profile } = await readSystems(host.place);
  const isThere = current === to.toplevel && profile === to.toplevel;
  if (isThere && journal.transaction === null) {
    return { phase: 'in-sync', reason: null, exitCode: null };
  }
  const { floor } = host.memory.trust;
  const manifest = to.manifest ?? (floor === null ? null : idOf(floor, floor.digest));
  if (manifest === null) throw none('this host never accepted a manifest');
  return await activate(host, {
    manifest,
    target: to.toplevel,
    // The checks of the newer system's manifest are not about this one, and it has been well before.
    rules: DEFAULT_ACTIVATION,
    // The person at the machine decides, not whoever has the line.
    needsServer: false,
    unfinished: journal.transaction,
  });
}

async function drop(dir: string): Promise<void> {
  await changeLocal(dir, (local) => ({ ...local, back: null }));
}

function isBelow(
  a: { readonly epoch: number; readonly sequence: number },
  b: { readonly epoch: number; readonly sequence: number },
): boolean {
  return a.epoch < b.epoch || (a.epoch === b.epoch && a.sequence < b.sequence);
}

function none(why: string): FleetError {
  return new FleetError('E_NO_WAY_BACK', why);
}
