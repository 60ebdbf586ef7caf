// What an activation works on: this host's memory, where its system lies, which boot this is, and who else is asked;
// and a run of a system's own switch program there.
import type { Activation } from '../manifest/activation.ts';
import type { StorePath } from '../nix/storepath.ts';
import { type Memory, memoryFiles } from './memory.ts';
import type { Attempt } from './outcome.ts';
import type { Place } from './place.ts';
import { runSwitch, type SwitchAction, type SwitchResult } from './switch.ts';

export type Host = {
  readonly memory: Memory;
  readonly place: Place;
  /** Which boot of the machine this is. */
  readonly bootId: string;
  /** Whether systemd runs there, and can be asked about units. */
  readonly hasSystemd: boolean;
  /** The unit that this agent is a service of, as it was when it began; null: none that is known. */
  readonly unit: OwnUnit | null;
  /** The command line that starts this program, without a verb. */
  readonly program: readonly string[];
  /** POSIX seconds, as far as this run knows. */
  readonly now: () => number;
  /** Why the machine is not to be booted now; null: it may be. */
  readonly mayBoot: (rules: Activation) => Promise<Attempt | null>;
};

export type OwnUnit = {
  /** Where systemd finds it. */
  readonly file: string;
  /** What was there. */
  readonly was: string | null;
};

/** Whether systemd can be given units to run: this machine's does not know what lies in a chroot store. */
export function runsUnits({ hasSystemd, place }: Pick<Host, 'hasSystemd' | 'place'>): boolean {
  return hasSystemd && place.root === null;
}

/** @throws FleetError E_NAMESPACE, E_TOOL_MISSING, E_DISK_FULL */
export async function switchTo(
  host: Host,
  toplevel: StorePath,
  action: SwitchAction,
): Promise<SwitchResult> {
  const { memory, place } = host;
  const dir = memoryFiles(memory.dir).switches;
  const seconds = memory.config.switchSeconds;
  return await runSwitch({ toplevel, action, place, dir, seconds, inUnit: runsUnits(host) });
}
