// A system that runs, by a switch or a boot → whether it stays (SPEC §5.5; machine.ts, `test` and `prove`).
import { makeReason, type Reason } from '../manifest/receipt.ts';
import { bootOnly, NEEDS_REBOOT, needsReboot } from './check.ts';
import { listenForServer } from './fresh.ts';
import { changedUnits, type Proved, proveHealthy } from './health.ts';
import { type Host, switchTo } from './host.ts';
import type { Done } from './journal.ts';
import { unitAt } from './own-unit.ts';
import { readSystems } from './place.ts';
import { systemBehind } from './specialisation.ts';
import { LOCKED, type SwitchResult } from './switch.ts';
import { type At, backBecause, type Happened } from './transaction.ts';
import { trustedRoot } from './trusted.ts';
import { awaitingLock, isSystemsFault, whyOf } from './verdict.ts';

/** Switches to the target. */
export async function test(host: Host, at: At): Promise<Happened> {
  const { target, again, failedBefore } = at;
  const tested = await switchTo(host, target, 'test');
  const exitCode = tested.code;
  if (exitCode === LOCKED) {
    return { event: again ? 'still-locked' : 'locked', told: awaitingLock(tested, 'test') };
  }
  if (exitCode === NEEDS_REBOOT) return bootOnly(at, needsReboot());
  const why = await faultOf(host, at, tested);
  if (why === null) return { event: 'activated', change: { exitCode } };
  const failedUnits = await changedUnits(host, failedBefore);
  return giveUp({ ...at, exitCode, failedUnits }, 'broken', why);
}

/** Finds out whether what runs is healthy, or leaves that to the agent that came with it. */
export async function prove(host: Host, at: At): Promise<Happened> {
  const { step, target, handedOver, exitCode } = at;
  if (step === 'verifying' && !handedOver && host.unit !== null) {
    const unit = await unitAt(host.unit.file);
    if (unit === null && host.unit.was !== null) {
      const text = `it has no ${host.unit.file}: nothing would keep this machine up to date`;
      // Never kept: nobody would ever come and mend it.
      return backBecause('unhealthy', makeReason('E_HEALTH', text));
    }
    if (unit !== host.unit.was) {
      const told = { phase: 'verifying', reason: null, exitCode } as const;
      return { event: 'handed-over', change: { handedOver: true }, told };
    }
  }
  const { why, failedUnits, failedNow } = await proved(host, at);
  if (why !== null) return giveUp({ ...at, failedUnits }, 'unhealthy', why);
  const done = doneBy(at, failedNow, host.hasSystemd);
  const touched = { ...at.touched, boot: true };
  // After a boot there is nothing more to commit: then this is what the run ends with.
  return {
    event: 'healthy',
    change: { failedUnits, done, touched },
    told: { ...done, failedUnits },
  };

  async function proved(
    on: Host,
    { rules, failedBefore, previous, needsServer }: At,
  ): Promise<Proved> {
    // Where there is nothing to go back to, no better line is found there.
    const isOnly = previous === null || previous === target;
    const root = trustedRoot(on.memory);
    const listen = (seconds: number) => listenForServer(on.memory, root, seconds);
    const found = await proveHealthy(on, {
      health: rules.health,
      confirmSeconds: rules.confirmSeconds,
      failedBefore,
      listen: needsServer && !isOnly ? listen : null,
    });
    const { current: running } = await readSystems(on.place);
    const current = await systemBehind(on.place, running, [target]);
    if (found.why !== null || current === target) return found;
    // No fault of this system: the next run tries it again.
    const text = `another switch came before it was confirmed: the current system is ${current}`;
    return { ...found, why: makeReason('E_INTERRUPTED', text) };
  }
}

/** Back to what was before; or, where the host wants to keep what failed, no further. */
function giveUp(at: At, event: 'broken' | 'unhealthy', why: Reason): Happened {
  const { rules, step, touched, exitCode, failedUnits } = at;
  // What an earlier run did to the boot loader is not kept.
  const isWhole = step === 'confirming' || !touched.boot;
  const mayStay = rules.onFailure === 'keep' && isSystemsFault(why) && isWhole;
  if (!mayStay) return backBecause(event, why, { exitCode, failedUnits });
  return { event: 'kept', told: { phase: 'failed', reason: why, exitCode, failedUnits } };
}

/** Why the system that was switched to is none that runs; null: it runs. */
async function faultOf(host: Host, { target }: At, test: SwitchResult): Promise<Reason | null> {
  if (test.code !== 0 && test.code !== 4) return whyOf(test, 'test');
  const { current } = await readSystems(host.place);
  if (current === target) return null;
  const text = `its switch ended with ${test.code}, but the current system is ${current}`;
  return makeReason('E_SWITCH_FAILED', text);
}

/** Exit 4 says that some unit failed. Where all that are failed were so before, it is no news of this system. */
function doneBy(
  { exitCode, rebootFor }: At,
  failedNow: readonly string[],
  knowsUnits: boolean,
): Done {
  if (exitCode === 4 && failedNow.length === 0) {
    const which = knowsUnits ? 'none is failed now' : 'nobody knows which';
    const reason = makeReason('units-failed', `some unit failed with the switch; ${which}`);
    return { phase: 'in-sync-degraded', reason, exitCode };
  }
  if (rebootFor === null) return { phase: 'in-sync', reason: null, exitCode };
  return { phase: 'reboot-pending', reason: makeReason('parts-pending', rebootFor), exitCode };
}
