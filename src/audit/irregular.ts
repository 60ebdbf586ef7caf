// What is irregular in a log, in the order in which it was found → a list of it, of bounded length: a log of nothing
// but rubbish must not fill an auditor's memory. What is beyond that is counted. What was irregular once and is settled
// has a list of its own.
import type { ErrorCode } from '../errors.ts';

export type Irregularity = {
  /** The entry; null for what is no entry's. */
  readonly index: number | null;
  readonly host: string | null;
  readonly code: ErrorCode;
  readonly message: string;
};

/** What was irregular, and is settled: it is told, and held against nobody. */
export type Settled = {
  readonly host: string;
  readonly code: ErrorCode;
  readonly message: string;
  /** POSIX seconds, by the host's own clock; null where it does not say. */
  readonly saidAt: number | null;
  /** The entry that settled it; null for what is of a log before this one. */
  readonly endedBy: number | null;
};

const MOST = 10_000;

export class Irregularities {
  readonly #told: Irregularity[] = [];
  readonly #settled: Settled[] = [];
  /** How many more there are than are listed. */
  more = 0;

  tell(index: number | null, host: string | null, code: ErrorCode, message: string): void {
    if (this.#told.length < MOST) this.#told.push({ index, host, code, message });
    else this.more += 1;
  }

  /** More of it than any server keeps is irregular in itself. */
  settle(one: Settled): void {
    if (this.#settled.length < MOST) this.#settled.push(one);
    else this.more += 1;
  }

  settled(): readonly Settled[] {
    return this.#settled;
  }

  /** In the order of the log; what is no entry's comes last. */
  list(): Irregularity[] {
    const place = ({ index }: Irregularity) => index ?? Number.POSITIVE_INFINITY;
    // Not by subtraction: infinity less infinity is no number.
    return this.#told.toSorted((one, other) => {
      const [a, b] = [place(one), place(other)];
      return a === b ? 0 : a - b;
    });
  }
}
