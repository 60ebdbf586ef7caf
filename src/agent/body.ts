// A response's body → its bytes, under two limits that need no trust in the sender: never more than
// `maxBytes`, and never slower than a least rate. Together they
// bound how long any transfer can take: patience + maxBytes / least rate.
import { FleetError } from '../errors.ts';

export type BodyLimits = {
  readonly maxBytes: number;
  /** Averaged over each stretch of `patience` ms spent waiting for the sender. */
  readonly leastBytesPerSecond: number;
  readonly patience: number;
  /** Names the document in errors. */
  readonly what: string;
};

/**
 * Passes `chunks` on. Only time spent waiting for the sender counts: a consumer that is slow to write to its disk is not
 * the server's fault. Closes `chunks` whenever it ends.
 * @throws FleetError E_BODY_LIMIT, E_SERVER_SLOW
 */
export async function* limitBody(
  chunks: AsyncIterable<Uint8Array>,
  limits: BodyLimits,
): AsyncGenerator<Uint8Array> {
  const { maxBytes, patience, leastBytesPerSecond, what } = limits;
  const leastBytes = (leastBytesPerSecond * patience) / 1000;
  const iterator = chunks[Symbol.asyncIterator]();
  let total = 0;
  let waited = 0;
  let arrived = 0;
  try {
    while (true) {
      const next = iterator.next();
      let settled = false;
      while (!settled) {
        const start = performance.now();
        settled = await within(next, patience - waited);
        waited += performance.now() - start;
        if (settled && waited < patience) break;
        // A stretch is over: did it bring enough?
        if (arrived < leastBytes) {
          throw new FleetError(
            'E_SERVER_SLOW',
            `${what}: ${arrived} bytes in ${patience / 1000} s, less than ${leastBytesPerSecond} bytes/s`,
          );
        }
        waited = 0;
        arrived = 0;
      }
      const { done, value } = await next;
      if (done === true) return;
      total += value.length;
      arrived += value.length;
      if (total > maxBytes) {
        throw new FleetError('E_BODY_LIMIT', `${what}: more than ${maxBytes} bytes`);
      }
      yield value;
    }
  } finally {
    // Not awaited: while a read is pending, a stream's iterator would only return after it.
    void iterator.return?.().catch(() => {});
  }
}

/** True when `promise` settles within `ms`; it never throws and leaves no timer behind. */
export async function within(promise: Promise<unknown>, ms: number): Promise<boolean> {
  const { promise: late, resolve } = Promise.withResolvers<boolean>();
  const timer = setTimeout(() => resolve(false), Math.max(0, ms));
  try {
    return await Promise.race([promise.then(settled, settled), late]);
  } finally {
    clearTimeout(timer);
  }
}

const settled = (): boolean => true;
