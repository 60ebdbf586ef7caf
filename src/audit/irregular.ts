// What is irregular in a log, in the order in which it was found → a list of it, of bounded length: a log of nothing
// but rubbish must not fill an auditor's memory. What is beyond that is counted.
import type { ErrorCode } from '../errors.ts';

export type Irregularity = {
  /** The entry; null for what is no entry's. */
  readonly index: number | null;
  readonly host: string | null;
  readonly code: ErrorCode;
  readonly message: string;
};

const MOST = 10_000;

export class Irregularities {
  readonly #told: Irregularity[] = [];
  /** How many more there are than are listed. */
  more = 0;

  tell(index: number | null, host: string | null, code: ErrorCode, message: string): void {
    if (this.#told.length < MOST) this.#told.push({ index, host, code, message });
    else this.more += 1;
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
