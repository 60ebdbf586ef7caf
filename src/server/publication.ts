// A state directory → the right to publish, alone, with the keys of now and a log that nobody left half written.
import { finishLog } from '../manifest/append.ts';
import { acquireLease } from '../storage/lease.ts';
import type { LeaseHolder } from '../storage/state.ts';
import { openLogWriter } from './log-writer.ts';
import type { StateDir } from './statedir.ts';

export type Publication = AsyncDisposable & {
  readonly log: Awaited<ReturnType<typeof openLogWriter>>;
  /** Of the lease. */
  readonly fence: LeaseHolder['fence'];
};

/** Waits for whoever publishes now; `onWait` hears for whom. @throws FleetError those of acquireLease and finishLog */
export async function beginPublication(
  dir: StateDir,
  { now, onWait }: { readonly now: number; readonly onWait?: (holder: LeaseHolder | null) => void },
): Promise<Publication> {
  const lease = await acquireLease({
    file: dir.layout.publishLock,
    state: dir.state,
    ...(onWait === undefined ? {} : { onWait }),
  });
  try {
    await dir.refreshRoots();
    const log = await openLogWriter(dir);
    // Also where nothing else is to be done: what one that died had committed is seen now.
    await finishLog(log, now);
    const { fence } = lease.holder;
    return { log, fence, [Symbol.asyncDispose]: () => lease[Symbol.asyncDispose]() };
  } catch (error) {
    await lease[Symbol.asyncDispose]();
    throw error;
  }
}
