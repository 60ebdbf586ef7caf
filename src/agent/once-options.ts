// What a run of the agent is given, and what it comes to.
import type { FleetError } from '../errors.ts';
import type { Fetched } from './fetch-missing.ts';
import type { Who } from './local.ts';
import type { Outcome } from './outcome.ts';
import type { Sent } from './receipts.ts';
import type { Clocks } from './time.ts';

export type OnceOptions = Clocks & {
  /** State directory. */
  readonly dir: string;
  /** Which boot of the machine this is; found out when it is not given. */
  readonly bootId?: string;
  /** Whether systemd can be asked about units; found out when it is not given. */
  readonly hasSystemd?: boolean;
  /** The command line that starts this program, without a verb: for the watchdog of a switch. */
  readonly program: readonly string[];
  /** The file of the unit that this run is a service of. */
  readonly unitFile?: string;
  /** The watchdog's run: gives up this transaction if nobody confirmed it, and asks for nothing. */
  readonly expired?: string;
  /** Of the watchdog's: whether an agent that holds the lock is left alone. */
  readonly waits?: boolean;
  /** Root's word: no window, deferral, hold, or memory of what failed keeps the newest manifest from being tried. */
  readonly retry?: boolean;
  /** Accept a checkpoint that is older than the root's maxAge: root's word, which the receipt has. */
  readonly acceptAge?: boolean;
  /** A host's bundle, which is asked in the place of the server; and who brought it, who wants it now. */
  readonly bundle?: { readonly chunks: AsyncIterable<Uint8Array>; readonly who: Who };
  /** Wait before the server is told how far a fetch is, in ms; tests set less. */
  readonly tellAfter?: number;
  /** A line of progress for people. */
  readonly say?: (line: string) => void;
};

export type OnceResult = {
  /** null: the server has no manifest for this host yet. */
  readonly outcome: Outcome | null;
  /** What a person is to be told, and the exit code; null when all is well. */
  readonly error: FleetError | null;
  readonly fetched: Fetched | null;
  readonly receipts: Sent;
  /** When what it waits for is over, POSIX seconds; null: it waits for nothing, or nobody knows. */
  readonly next: number | null;
};
