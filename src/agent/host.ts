// What an activation works on: this host's memory, where its system lies and which boot this is; and a
// run of a system's own switch program there.
import type { StorePath } from '../nix/storepath.ts';
import { type Memory, memoryFiles } from './memory.ts';
import type { Place } from './place.ts';
import { runSwitch, type SwitchAction, type SwitchResult } from './switch.ts';

export type Host = {
  readonly memory: Memory;
  readonly place: Place;
  /** Which boot of the machine this is. */
  readonly bootId: string;
  /** Whether systemd runs there, and can be asked about units. */
  readonly hasSystemd: boolean;
  /** POSIX seconds, as far as this run knows. */
  readonly now: () => number;
};

/** @throws FleetError E_NAMESPACE, E_TOOL_MISSING, E_DISK_FULL */
export async function switchTo(
  { memory, place }: Host,
  toplevel: StorePath,
  action: SwitchAction,
): Promise<SwitchResult> {
  const dir = memoryFiles(memory.dir).switches;
  return await runSwitch({ toplevel, action, place, dir, seconds: memory.config.switchSeconds });
}
