// What hosts run and what they are told to run → the steps between the two, each once: what packs are made for. A host whose
// report names no system that was ever published has nothing that a pack could build on.
import { parseEnvelope } from '../manifest/dsse.ts';
import { parseReceipt } from '../manifest/receipt.ts';
import { parseStorePath, type StorePath } from '../nix/storepath.ts';
import type { BlobId } from '../storage/blobs.ts';
import type { PackStep } from '../storage/packs.ts';
import type { ReportRecord, State } from '../storage/state.ts';
import { stepKey } from './pack-queue.ts';

/** The steps that are to be made now: none for a host that runs what it should, or was removed. */
export async function currentSteps(
  state: Pick<State, 'status' | 'closuresOf'>,
): Promise<PackStep[]> {
  const steps = new Map<string, PackStep>();
  /** Most hosts of a fleet run one of a few systems. */
  const known = new Map<StorePath, BlobId | null>();
  for (const { manifest, report } of await state.status()) {
    if (manifest === null || manifest.closure === null) continue;
    const running = runningSystem(report);
    if (running === manifest.toplevel) continue;
    if (running !== null && !known.has(running)) {
      known.set(running, await closureOfSystem(state, running));
    }
    const base = running === null ? null : (known.get(running) ?? null);
    if (base === manifest.closure) continue;
    const step = { closure: manifest.closure, base };
    steps.set(stepKey(step), step);
  }
  return [...steps.values()];
}

/** What a host runs, as its last receipt says; null where it says nothing, or an older fleet wrote another form. */
export function runningSystem(report: Pick<ReportRecord, 'envelope'> | null): StorePath | null {
  if (report === null) return null;
  try {
    const { current } = parseReceipt(parseEnvelope(report.envelope).payload);
    return current === null ? null : parseStorePath(current);
  } catch {
    return null;
  }
}

/** The closure that a manifest gave this system last; null: none did. */
export async function closureOfSystem(
  state: Pick<State, 'closuresOf'>,
  system: StorePath,
): Promise<BlobId | null> {
  const [newest = null] = await state.closuresOf(system);
  return newest;
}
