// journal.json ↔ what the agent is in the middle of, and which manifest it does not try again. What an
// activation may have touched is journalled before it is touched, and forgotten only once it is known to
// be right again: from that, undoing (undo.ts) knows what is left to do, however often it was cut short.
import { writeDurable } from '../durable.ts';
import type { FailedUnits, Reason } from '../manifest/receipt.ts';
import { parseStorePath, type StorePath } from '../nix/storepath.ts';
import type { Lost } from './lost.ts';
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
export type Done = Omit<Attempt, 'failedUnits' | 'who'>;

/** An activation under way. Each step is written before it is done. */
export type Transaction = {
  readonly step: 'activating' | 'verifying' | 'committing' | 'undoing';
  readonly manifest: ManifestId;
  readonly target: StorePath;
  /** What ran before, and what to go back to; null on a machine that ran none of ours. */
  readonly previous: StorePath | null;
  readonly previousProfile: StorePath | null;
  /** The boot it began in. */
  readonly bootId: string;
  readonly touched: Touched;
  /** Units that were failed before it was begun. */
  readonly failedBefore: readonly string[];
  /** How that had changed when it was looked at. */
  readonly failedUnits: FailedUnits;
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
  /** How often the newest manifest was undone because the server was not heard. */
  readonly lost: Lost | null;
  /** What was committed last, and what ran before that: the one to go back to by hand (go-back.ts). */
  readonly running: Good | null;
  readonly lastGood: Good | null;
  /** The `minSequence` of the newest manifest, and its epoch; null: none has one. */
  readonly least: Least | null;
};

/** What nobody may go back below. */
export type Least = { readonly epoch: number; readonly sequence: number };

/** Whether the new system may run, and nothing says yet that it stays. */
export function isOpen({ step }: Transaction): boolean {
  return step === 'activating' || step === 'verifying';
}

const REASON = record<Reason>({ code: string, text: string });

const GOOD = record<Good>({
  toplevel: parsedBy(parseStorePath),
  manifest: nullable(MANIFEST_ID),
});

export const JOURNAL: Fields<Journal> = {
  transaction: nullable(
    record<Transaction>({
      step: oneOf(['activating', 'verifying', 'committing', 'undoing']),
      manifest: MANIFEST_ID,
      target: parsedBy(parseStorePath),
      previous: nullable(parsedBy(parseStorePath)),
      previousProfile: nullable(parsedBy(parseStorePath)),
      bootId: string,
      touched: record<Touched>({ system: boolean, boot: boolean }),
      failedBefore: since([], list(string)),
      failedUnits: since(
        NO_UNITS,
        record<FailedUnits>({ added: list(string), removed: list(string) }),
      ),
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
  running: since(null, nullable(GOOD)),
  lastGood: since(null, nullable(GOOD)),
  least: since(null, nullable(record<Least>({ epoch: integer(1), sequence: integer(1) }))),
};

export const EMPTY_JOURNAL: Journal = {
  transaction: null,
  rejected: null,
  lost: null,
  running: null,
  lastGood: null,
  least: null,
};

/** The journal as it is now. @throws FleetError E_AGENT_STATE_CORRUPT */
export async function readJournal(dir: string): Promise<Journal> {
  const file = memoryFiles(dir).journal;
  return parseRecord(await requireState(file), file, JOURNAL);
}

export async function writeJournal(dir: string, journal: Journal): Promise<void> {
  await writeDurable(memoryFiles(dir).journal, formatRecord(journal));
}

/** Records the step that is about to be done, or (null) that nothing is under way any more. */
export async function journalStep(dir: string, transaction: Transaction | null): Promise<void> {
  await writeJournal(dir, { ...(await readJournal(dir)), transaction });
}
