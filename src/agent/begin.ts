// An update that was verified → whether it may begin now (policy.ts), by what its manifest says, what people at the
// machine want, and how things stand there, which is only looked at where a rule asks for it. Since when a system
// that waits is there, whole, is kept in the journal: a person's time to put it off counts from then, and later runs
// need not fetch anything to wait on.
import type { Activation } from '../manifest/activation.ts';
import type { Deployment } from '../manifest/manifest.ts';
import type { Host } from './host.ts';
import { isOpen, readJournal, writeJournal } from './journal.ts';
import type { ManifestId } from './memory.ts';
import {
  type Action,
  NO_WISHES,
  type Plea,
  questionsOf,
  type Wait,
  type Wishes,
  waitByClock,
  waitBySituation,
} from './policy.ts';
import { readSituation } from './situation.ts';

/** A manifest whose system is in the store, and waits. */
export type Ready = {
  /** The manifest's digest. */
  readonly sha256: string;
  /** Since when, POSIX seconds. */
  readonly at: number;
};

/** What is to begin, and who wants what. */
export type Update = {
  readonly manifest: ManifestId;
  readonly deployment: Pick<Deployment, 'activation' | 'emergency'>;
  readonly wishes: Wishes;
};

/** Before anything of it is asked for. null: go on. @throws FleetError E_WINDOW */
export async function waitBeforeFetch(host: Host, update: Update): Promise<Wait | null> {
  const { ready, transaction } = await readJournal(host.memory.dir);
  if (transaction !== null && isThis(transaction.manifest, update) && isOpen(transaction))
    return null;
  // Fetched by an earlier run: what it waits for now is its switch.
  if (isThis(ready, update)) return await waitBeforeSwitch(host, update);
  return await ask(host, 'fetch', update, host.now());
}

/** Once its system is there, whole. null: go on. @throws FleetError E_WINDOW */
export async function waitBeforeSwitch(host: Host, update: Update): Promise<Wait | null> {
  const { dir } = host.memory;
  const journal = await readJournal(dir);
  const { ready, transaction } = journal;
  // One that broke off goes on: to go back would be a switch as well.
  if (transaction !== null && isThis(transaction.manifest, update) && isOpen(transaction))
    return null;
  const now = host.now();
  // Of a clock that was ahead then and is not any more: from now.
  const isKept = ready !== null && isThis(ready, update) && ready.at <= now;
  const at = isKept ? ready.at : now;
  const wait = await ask(host, 'switch', update, at);
  if (wait !== null && !isKept) {
    await writeJournal(dir, { ...journal, ready: { sha256: update.manifest.sha256, at } });
  }
  return wait;
}

/**
 * Before the machine is booted by `rules`, those of a transaction. `update`: what this run was told of, as far as it was.
 * null: go on. @throws FleetError E_WINDOW
 */
export async function waitBeforeReboot(
  { memory, now }: Pick<Host, 'memory' | 'now'>,
  rules: Activation,
  update: Update | null,
): Promise<Wait | null> {
  const { ready } = await readJournal(memory.dir);
  // What nobody was asked about before its switch, nobody is asked about after it.
  const since = update !== null && isThis(ready, update) ? (ready?.at ?? 0) : 0;
  const emergency = update?.deployment.emergency ?? false;
  const wishes = update?.wishes ?? NO_WISHES;
  return await ask(
    { now },
    'reboot',
    { deployment: { activation: rules, emergency }, wishes },
    since,
  );
}

async function ask(
  { now }: Pick<Host, 'now'>,
  action: Action,
  { deployment, wishes }: Omit<Update, 'manifest'>,
  readySince: number,
): Promise<Wait | null> {
  const { activation: rules, emergency } = deployment;
  const plea: Plea = { action, rules, emergency, wishes, readySince, now: now() };
  const wait = waitByClock(plea);
  if (wait !== null) return wait;
  return waitBySituation(plea, await readSituation(questionsOf(plea)));
}

function isThis(other: { readonly sha256: string } | null, { manifest }: Update): boolean {
  return other?.sha256 === manifest.sha256;
}
