// journal.json ↔ what the agent is in the middle of, and which manifest it does not try again. What an
// activation may have touched is journalled before it is touched, and forgotten only once it is known to
// be right again: from that, undoing (undo.ts) knows what is left to do, however often it was cut short.
import { writeDurable } from '../durable.ts';
import { type Activation, DEFAULT_ACTIVATION, parseActivation } from '../manifest/activation.ts';
import type { FailedUnits, Reason } from '../manifest/receipt.ts';
import { parseStorePath, type StorePath } from '../nix/storepath.ts';
import type { Ready } from './begin.ts';
import type { Lost } from './lost.ts';
import { STEPS, type Step } from './machine.ts';
import { MANIFEST_ID, type ManifestId, memoryFiles, requireState } from './memory.ts';
import type { Attempt } from './outcome.ts';
import {
  boolean,
  digest,
  type Fields,
  formatRecord,
  integer,
  list,
  nullable,
  oneOf,
  parsedBy,
  parseRecord,
  record,
  since,
  string,
} from './record.ts';
import { NO_UNITS } from './units.ts';

/** What may not be as it was before. */
export type Touched = {
  /** What runs. A reboot makes that right again, unless the boot loader was touched too. */
  readonly system: boolean;
  /** The profile and the boot loader. */
  readonly boot: boolean;
};

/** What a commit comes to; the units are the transaction's. */
export type Done = Omit<Attempt, 'failedUnits' | 'foretold' | 'who'>;

/** An activation under way. Each step is written before it is done. */
export type Transaction = {
  /** Names its watchdog. */
  readonly id: string;
  readonly step: Exclude<Step, 'idle'>;
  readonly manifest: ManifestId;
  readonly target: StorePath;
  /** What the manifest says of it. */
  readonly rules: Activation;
  /** Whether the server has to be heard before it stays. */
  readonly needsServer: boolean;
  /** What ran before, and what to go back to; null on a machine that ran none of ours. */
  readonly previous: StorePath | null;
  readonly previousProfile: StorePath | null;
  /** The boot it began in. */
  readonly bootId: string;
  /** Whether something of an earlier transaction is still there. */
  readonly again: boolean;
  readonly touched: Touched;
  /** Units that were failed before it was begun. */
  readonly failedBefore: readonly string[];
  /** How that had changed when it was looked at. */
  readonly failedUnits: FailedUnits;
  /** What the system's own program said that it would do; null where it did not say. */
  readonly foretold: string | null;
  /** Why the new system is not all there before the next boot; null: it is. */
  readonly rebootFor: string | null;
  /** Of the switch. */
  readonly exitCode: number | null;
  /** Whether the agent of the new system is to find out whether it stays. */
  readonly handedOver: boolean;
  /** What to tell once it is committed; null before that is begun. */
  readonly done: Done | null;
  /** Why it is being undone; null while it is not. */
  readonly why: Reason | null;
};

/** A manifest that did not activate: not tried again by itself. */
export type Rejected = {
  readonly manifest: ManifestId;
  /** `failed`: it was left running, as the manifest says (`onFailure: keep`). */
  readonly phase: 'rolled-back' | 'failed';
  readonly reason: Reason;
};

/** A system that was committed, and the newest manifest that is known to have named it; null: none of ours. */
export type Good = { readonly toplevel: StorePath; readonly manifest: ManifestId | null };

/** journal.json */
export type Journal = {
  readonly transaction: Transaction | null;
  readonly rejected: Rejected | null;
  /** How often the newest manifest was undone because of something that may be over the next time. */
  readonly lost: Lost | null;
  /** What this agent left running or booting; none before its first commit. */
  readonly ours: readonly StorePath[];
  /** The manifest that waits for its switch, and since when. */
  readonly ready: Ready | null;
  /** What was committed last, and what ran before that: the one to go back to by hand (go-back.ts). */
  readonly running: Good | null;
  readonly lastGood: Good | null;
  /** The `minSequence` of the newest manifest, and its epoch; null: none has one. */
  readonly least: Least | null;
};

/** What nobody may go back below. */
export type Least = { readonly epoch: number; readonly sequence: number };

/** Whether something of the new system may be there, and nothing says yet that it stays. */
export function isOpen({ step }: Pick<Transaction, 'step'>): boolean {
  return ['checking', 'activating', 'verifying', 'confirming'].includes(step);
}

const REASON = record<Reason>({ code: string, text: string });
const JOURNALLED = STEPS.filter((step): step is Exclude<Step, 'idle'> => step !== 'idle');

const GOOD = record<Good>({
  toplevel: parsedBy(parseStorePath),
  manifest: nullable(MANIFEST_ID),
});

export const JOURNAL: Fields<Journal> = {
  transaction: nullable(
    record<Transaction>({
      id: since('', string),
      step: oneOf(JOURNALLED),
      manifest: MANIFEST_ID,
      target: parsedBy(parseStorePath),
      rules: since<Activation>(DEFAULT_ACTIVATION, parseActivation),
      needsServer: since(false, boolean),
      previous: nullable(parsedBy(parseStorePath)),
      previousProfile: nullable(parsedBy(parseStorePath)),
      bootId: string,
      again: since(false, boolean),
      touched: record<Touched>({ system: boolean, boot: boolean }),
      failedBefore: since([], list(string)),
      failedUnits: since(
        NO_UNITS,
        record<FailedUnits>({ added: list(string), removed: list(string) }),
      ),
      foretold: since(null, nullable(string)),
      rebootFor: since(null, nullable(string)),
      exitCode: since(null, nullable(integer(0, 255))),
      handedOver: since(false, boolean),
      done: nullable(
        record<Done>({
          phase: oneOf(['in-sync', 'in-sync-degraded', 'reboot-pending']),
          reason: nullable(REASON),
          exitCode: nullable(integer(0, 255)),
        }),
      ),
      why: nullable(REASON),
    }),
  ),
  rejected: nullable(
    record<Rejected>({
      manifest: MANIFEST_ID,
      phase: oneOf(['rolled-back', 'failed']),
      reason: REASON,
    }),
  ),
  lost: since(
    null,
    nullable(record<Lost>({ sha256: digest, count: integer(1), at: integer(0), reason: REASON })),
  ),
  ours: since([], list(parsedBy(parseStorePath))),
  ready: since(null, nullable(record<Ready>({ sha256: digest, at: integer(0) }))),
  running: since(null, nullable(GOOD)),
  lastGood: since(null, nullable(GOOD)),
  least: since(null, nullable(record<Least>({ epoch: integer(1), sequence: integer(1) }))),
};

export const EMPTY_JOURNAL: Journal = {
  transaction: null,
  rejected: null,
  lost: null,
  ours: [],
  ready: null,
  running: null,
  lastGood: null,
  least: null,
};

/** The journal as it is now. @throws FleetError E_AGENT_STATE_CORRUPT */
export async function readJournal(dir: string): Promise<Journal> {
  const file = memoryFiles(dir).journal;
  return parseRecord(await requireState(file), file, JOURNAL);
}

/** Whether that activation is still under way. @throws FleetError E_AGENT_STATE_CORRUPT */
export async function isUnderWay(dir: string, id: string): Promise<boolean> {
  const { transaction } = await readJournal(dir);
  return transaction?.id === id;
}

export async function writeJournal(dir: string, journal: Journal): Promise<void> {
  await writeDurable(memoryFiles(dir).journal, formatRecord(journal));
}

/** Records the step that is about to be done, or (null) that nothing is under way any more. */
export async function journalStep(dir: string, transaction: Transaction | null): Promise<void> {
  await writeJournal(dir, { ...(await readJournal(dir)), transaction });
}
