// A committed transaction → what the journal says from then on: what runs, and the system before it, which is the one
// to go back to by hand (go-back.ts) and is held from the garbage collector until there is another.
import { join } from 'node:path';
import type { Manifest } from '../manifest/manifest.ts';
import { addRoot } from '../nix/realise.ts';
import type { Host } from './host.ts';
import {
  EMPTY_JOURNAL,
  type Good,
  type Journal,
  readJournal,
  type Transaction,
  writeJournal,
} from './journal.ts';
import { type ManifestId, memoryFiles } from './memory.ts';
import type { Place } from './place.ts';

/** The journal without `transaction`, which is committed. */
export async function committed(host: Host, transaction: Transaction): Promise<Journal> {
  const { memory, place } = host;
  const { target, manifest } = transaction;
  const { running, lastGood, least } = await readJournal(memory.dir);
  const before = lastGoodAfter(transaction, running, lastGood);
  if (before !== null && before.toplevel !== lastGood?.toplevel)
    await root(memory.dir, place, before);
  return { ...EMPTY_JOURNAL, least, running: { toplevel: target, manifest }, lastGood: before };
}

/** What ran before `transaction`; the same system again is no other. */
function lastGoodAfter(
  { target, previous }: Transaction,
  running: Good | null,
  lastGood: Good | null,
): Good | null {
  if (previous === target) return lastGood;
  if (previous === null) return null;
  if (running?.toplevel === previous) return running;
  return { toplevel: previous, manifest: null };
}

/** Where it cannot be held, it may be gone when it is wanted, and is refused then. */
async function root(dir: string, { nix }: Place, { toplevel }: Good): Promise<void> {
  await addRoot(toplevel, join(memoryFiles(dir).roots, 'last-good'), nix).catch(() => {});
}

/** Keeps what a verified manifest says about going back: how far, and that what runs has a newer number. */
export async function noteManifest(dir: string, id: ManifestId, manifest: Manifest): Promise<void> {
  const journal = await readJournal(dir);
  const { epoch, minSequence } = manifest;
  const least = minSequence === 0 ? null : { epoch, sequence: minSequence };
  const isNamed =
    manifest.intent !== 'decommission' && journal.running?.toplevel === manifest.toplevel;
  const running = isNamed ? { toplevel: manifest.toplevel, manifest: id } : journal.running;
  const isSame =
    least?.epoch === journal.least?.epoch &&
    least?.sequence === journal.least?.sequence &&
    running?.manifest?.sha256 === journal.running?.manifest?.sha256;
  if (!isSame) await writeJournal(dir, { ...journal, least, running });
}
