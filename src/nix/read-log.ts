// A derivation → the log of its build, as the local Nix kept it.
import { runNix } from './command.ts';
import type { QueryOptions } from './query.ts';
import type { StorePath } from './storepath.ts';

/** @throws FleetError E_NIX_FAILED when there is none, and what runNix throws */
export async function readBuildLog(drv: StorePath, options: QueryOptions = {}): Promise<string> {
  return (await runNix('nix-store', ['--read-log', drv], options)).stdout;
}
