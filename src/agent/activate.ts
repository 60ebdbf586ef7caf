// A verified system in the store → the running system and the next boot's, or the old ones again
// (ARCHITECTURE, "The agent"; the steps and what follows from what: machine.ts). `switch-to-configuration switch` is never used: it
// writes the boot loader before it activates, so that a failed switch would boot the bad system. Until a system proved
// healthy, a crash or a power cut returns to the old one by itself.
import { join } from 'node:path';
import { FleetError } from '../errors.ts';
import type { Activation } from '../manifest/activation.ts';
import { makeReason, type Reason } from '../manifest/receipt.ts';
import { invalidPaths } from '../nix/query.ts';
import { addRoot } from '../nix/realise.ts';
import type { StorePath } from '../nix/storepath.ts';
import { BOOT_FIRST } from './check.ts';
import { arrived } from './commit.ts';
import { drive, newId } from './drive.ts';
import type { Host } from './host.ts';
import { isOpen, type Transaction } from './journal.ts';
import { type ManifestId, memoryFiles } from './memory.ts';
import { type Attempt, INTERRUPTED } from './outcome.ts';
import { canSwitchTo, type Place, readSystems } from './place.ts';
import { systemBehind } from './specialisation.ts';
import { type At, backBecause } from './transaction.ts';
import { asOfThisBoot } from './undo.ts';
import { NO_UNITS } from './units.ts';

const WENT_DOWN = makeReason(INTERRUPTED.code, 'the machine went down in the middle of it');

export type Plan = {
  readonly manifest: ManifestId;
  readonly target: StorePath;
  /** `onFailure: keep`: a system that failed is left as it is; it is not booted again. */
  readonly rules: Activation;
  /** Whether the server has to be heard from the new system. */
  readonly needsServer: boolean;
  /** One that an earlier run left unfinished: what was before it is what there is to go back to. */
  readonly unfinished: Transaction | null;
};

/** Switches to `plan.target`. Throws only where nothing was begun that the journal does not tell of. */
export async function activate(host: Host, plan: Plan): Promise<Attempt> {
  const attempt = await required(drive(host, await begin(host, plan), { event: 'deploy' }));
  if (attempt.phase !== 'rolled-back' || attempt.reason?.text !== BOOT_FIRST.text) return attempt;
  // What an earlier run half activated is undone; now it can be set for the next boot.
  const anew = await begin(host, { ...plan, unfinished: null });
  return await required(drive(host, anew, { event: 'deploy' }));
}

/**
 * Deals with what a run that died left behind: finishes a commit, an undoing, a confirmation. One that was still
 * activating stays open, and so does one that waits for a boot (null): the caller tries again, or gives it up.
 */
export async function settle(host: Host, transaction: Transaction): Promise<Attempt | null> {
  const { step, target, touched } = transaction;
  const current = await runningAs(host, target);
  const isSameBoot = transaction.bootId === host.bootId;
  const interrupted = (event: 'missed' | 'abandoned') =>
    drive(host, transaction, backBecause(event, transaction.why ?? INTERRUPTED));
  switch (step) {
    case 'undoing':
      return await drive(host, transaction, { event: 'resumed' });
    case 'checking':
    case 'activating':
    case 'verifying': {
      const now = await asOfThisBoot(host, transaction);
      if (!now.touched.boot && !now.touched.system) {
        const why = touched.system ? WENT_DOWN : null;
        return await drive(host, now, { event: 'forgotten', change: { why } });
      }
      if (step !== 'verifying' || !isSameBoot) return null;
      return current === target
        ? await drive(host, transaction, { event: 'resumed' })
        : await interrupted('abandoned');
    }
    case 'committing':
    case 'setting':
      // A reboot, or someone else's switch, came before the boot loader was finished.
      if (touched.system && current !== target) return await interrupted('missed');
      return await drive(host, transaction, { event: 'resumed' });
    case 'awaiting-boot':
      if (current === target) return await drive(host, transaction, arrived(host, transaction));
      return isSameBoot ? null : await missed(host, transaction, current);
    case 'confirming':
      if (current === target) return await drive(host, transaction, { event: 'resumed' });
      // Somebody switched to another one, which says nothing about this.
      if (isSameBoot) return await interrupted('abandoned');
      return await missed(host, transaction, current);
  }
}

/** Goes on with what waits for a boot. */
export async function goOnWaiting(host: Host, transaction: Transaction): Promise<Attempt | null> {
  return await drive(host, transaction, { event: 'resumed' });
}

/** Gives up what is open, or (null) leaves what is not. */
export async function abandon(
  host: Host,
  transaction: Transaction,
  why: Reason,
): Promise<Attempt | null> {
  if (!isOpen(transaction)) return null;
  return await drive(host, transaction, backBecause('abandoned', why));
}

/** What its watchdog does: gives up what nobody confirmed, and finishes the rest. */
export async function expire(host: Host, transaction: Transaction): Promise<Attempt | null> {
  const { step, handedOver, bootId, rules, target } = transaction;
  const current = await runningAs(host, target);
  const isSet = step === 'setting' || step === 'awaiting-boot';
  const isSameBoot = bootId === host.bootId;
  if (step === 'awaiting-boot' && isSameBoot) return null;
  const isBooted = step === 'confirming' || (isSet && !isSameBoot && current === target);
  if (!isBooted && !isOpen(transaction)) return await settle(host, transaction);
  const why =
    handedOver || isBooted
      ? makeReason('E_NOT_CONFIRMED', `its agent did not confirm it in ${rules.confirmSeconds} s`)
      : INTERRUPTED;
  const now = await asOfThisBoot(host, transaction);
  return await drive(host, now, backBecause('abandoned', why));
}

/** What runs; `target` also where it is a specialisation of that. */
async function runningAs({ place }: Host, target: StorePath): Promise<StorePath | null> {
  return await systemBehind(place, (await readSystems(place)).current, [target]);
}

async function begin(host: Host, { unfinished, ...plan }: Plan): Promise<At> {
  const { manifest, target, rules, needsServer } = plan;
  const { current, profile } = await readSystems(host.place);
  const before = unfinished ?? {
    // Of a specialisation, the system that it is of: what is begun then comes with a boot (check.ts).
    previous: await keepPrevious(host, await systemBehind(host.place, current, [profile])),
    previousProfile: profile,
    touched: { system: false, boot: false },
    failedBefore: [],
  };
  return {
    id: unfinished?.id ?? newId(),
    step: unfinished?.step ?? 'idle',
    manifest,
    target,
    rules,
    needsServer,
    previous: before.previous,
    previousProfile: before.previousProfile,
    bootId: host.bootId,
    again: unfinished !== null,
    touched: before.touched,
    failedBefore: before.failedBefore,
    failedUnits: NO_UNITS,
    foretold: null,
    rebootFor: null,
    exitCode: null,
    handedOver: false,
    done: null,
    why: null,
  };
}

async function missed(host: Host, transaction: Transaction, current: StorePath | null) {
  const text = `the machine was to boot it, and booted ${current ?? 'something else'}`;
  // What it booted instead is somebody's choice, or a boot loader's: it stays.
  const change = { touched: { ...transaction.touched, system: false }, bootId: host.bootId };
  const happened = backBecause('missed', makeReason('E_NOT_BOOTED', text), change);
  return await drive(host, transaction, happened);
}

async function required(driven: Promise<Attempt | null>): Promise<Attempt> {
  const attempt = await driven;
  if (attempt === null) throw new Error('an activation ended with nothing to tell');
  return attempt;
}

/** The system to go back to, held from the garbage collector; null when there is none that could be. */
async function keepPrevious(host: Host, current: StorePath | null): Promise<StorePath | null> {
  const { memory, place } = host;
  if (current === null || !(await canSwitchTo(place, current))) return null;
  if ((await invalidPaths([current], { ...place.nix, isolated: true })).length > 0) return null;
  await addRoot(current, join(memoryFiles(memory.dir).roots, 'previous'), place.nix);
  return current;
}

/** @throws FleetError E_NOT_NIXOS */
export async function requireSwitchable(place: Place, toplevel: StorePath): Promise<void> {
  if (await canSwitchTo(place, toplevel)) return;
  throw new FleetError('E_NOT_NIXOS', `${toplevel} has no bin/switch-to-configuration`);
}
