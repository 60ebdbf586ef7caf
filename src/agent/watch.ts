// A watchdog that went off → its activation given up, or finished where only the end of it is missing; tried until that is so, as
// nobody else may be there to do it: the agent of the new system may not work, and another switch, a full disk or a systemd that is
// busy are over some time. Then the agent of what runs now is started anew.
import { basename } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { messageOf } from '../errors.ts';
import { isUnderWay } from './journal.ts';
import { runOnce } from './once.ts';
import type { OnceOptions } from './once-options.ts';
import { systemctl } from './transient.ts';

export type WatchOptions = OnceOptions & {
  /** The transaction. */
  readonly expired: string;
  readonly say: (line: string) => void;
  /** Between two tries, in milliseconds: at first, and at most. */
  readonly pause?: { readonly first: number; readonly most: number };
};

const PAUSE = { first: 30_000, most: 15 * 60_000 };

/** @throws FleetError E_AGENT_STATE_CORRUPT, and its like, where nobody knows what is to be done. */
export async function watch(options: WatchOptions): Promise<void> {
  const { dir, expired, say, unitFile, pause = PAUSE } = options;
  if (!(await isUnderWay(dir, expired))) return;
  for (let wait = pause.first; ; wait = Math.min(2 * wait, pause.most)) {
    let told = false;
    try {
      // One that hangs was killed the first time; one that works then may be at what mends it all.
      const { outcome } = await runOnce({ ...options, waits: wait > pause.first });
      // It waits for a boot, or ended meanwhile.
      if (outcome === null) return;
      told = true;
      say(`${outcome.phase}: ${outcome.reason?.text ?? ''}`);
    } catch (error) {
      say(messageOf(error));
    }
    const isOver = !(await isUnderWay(dir, expired));
    // Not `start` at the end: what runs may be the agent that was given up. Before that, one that works is not to be disturbed.
    const verb = isOver ? 'restart' : 'start';
    if (unitFile !== undefined && (told || !isOver)) await startAgent(unitFile, verb);
    if (isOver) return;
    await sleep(wait);
  }
}

/** Also where it failed too often with the system that was given up. Throws nothing: systemd has rules of its own for it. */
async function startAgent(unitFile: string, verb: 'start' | 'restart'): Promise<void> {
  const unit = basename(unitFile);
  for (const args of [['reset-failed'], [verb, '--no-block']]) {
    await systemctl(...args, unit).catch(() => {});
  }
}
