// A state directory → the lock of its agent, held, and what a run works on: the memory, the machine, the time, the chain of
// receipts. Refuses what is no agent's, and where another run works.
import { rm } from 'node:fs/promises';
import { FleetError } from '../errors.ts';
import type { Activation } from '../manifest/activation.ts';
import { waitBeforeReboot } from './begin.ts';
import type { Host } from './host.ts';
import { isUnderWay } from './journal.ts';
import { type HeldLock, takeLock, tryLock } from './lock.ts';
import { memoryFiles, readMemory } from './memory.ts';
import type { OnceOptions } from './once-options.ts';
import { unitAt } from './own-unit.ts';
import { placeAt, readBootId } from './place.ts';
import { type Chain, readChain } from './receipts.ts';
import { RunTime } from './time.ts';
import { hasSystemd } from './units.ts';

export type OpenRun = {
  readonly lock: HeldLock;
  readonly host: Host;
  readonly time: RunTime;
  readonly chain: Chain;
};

/** @throws FleetError E_AGENT_BUSY, E_AGENT_NOT_ENROLLED, E_AGENT_STATE_CORRUPT, E_STATE_ACCESS, E_TOOL_MISSING */
export async function openRun(options: OnceOptions): Promise<OpenRun> {
  const { dir } = options;
  // Read before the lock is taken: a directory that is no agent's gets no lock file.
  await readMemory(dir);
  const file = memoryFiles(dir).lock;
  const { expired, waits } = options;
  const isOurs = expired === undefined || waits === true;
  const lock = await (isOurs ? tryLock(file) : takeLock(file, () => isUnderWay(dir, expired)));
  if (lock === null) throw new FleetError('E_AGENT_BUSY', `another agent works in ${dir}`);
  try {
    const time = new RunTime(options);
    return { lock, time, host: await openHost(options, time), chain: await readChain(dir) };
  } catch (error) {
    await lock[Symbol.asyncDispose]();
    throw error;
  }
}

async function openHost(options: OnceOptions, time: RunTime): Promise<Host> {
  const { dir, program, unitFile } = options;
  const memory = await readMemory(dir);
  const { scratch, bundle } = memoryFiles(dir);
  // What an agent left that was killed. Where it cannot be removed it is used as it is.
  for (const left of [scratch, bundle]) {
    await rm(left, { recursive: true, force: true }).catch(() => {});
  }
  const place = placeAt(memory.config.root, scratch);
  const now = () => time.now(memory.trust);
  return {
    memory,
    place,
    bootId: options.bootId ?? (await readBootId(place)),
    hasSystemd: options.hasSystemd ?? (await hasSystemd(place)),
    unit: unitFile === undefined ? null : { file: unitFile, was: await unitAt(unitFile) },
    program,
    now,
    mayBoot: async (rules: Activation) =>
      (await waitBeforeReboot({ memory, now }, rules, null))?.attempt ?? null,
  };
}
