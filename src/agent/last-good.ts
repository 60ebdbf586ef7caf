// A committed transaction → what the journal says from then on: what runs, and the system before it, which is the one
// to go back to by hand (go-back.ts) and is held from the garbage collector until there is another.
import { join } from 'node:path';
import type { Manifest } from '../manifest/manifest.ts';
import { addRoot } from '../nix/realise.ts';
import { type Good, type Journal, readJournal, type Transaction, writeJournal } from './journal.ts';
import { type ManifestId, memoryFiles } from './memory.ts';
import type { Place } from './place.ts';

/** What runs once `at` is committed, and what ran before; the same system again is no other. */
export function goodAfter(
  { target, previous, manifest }: Pick<Transaction, 'target' | 'previous' | 'manifest'>,
  { running, lastGood }: Pick<Journal, 'running' | 'lastGood'>,
): Pick<Journal, 'running' | 'lastGood'> {
  const now = { toplevel: target, manifest };
  if (previous === target) return { running: now, lastGood };
  if (previous === null) return { running: now, lastGood: null };
  const before = running?.toplevel === previous ? running : { toplevel: previous, manifest: null };
  return { running: now, lastGood: before };
}

/** Holds the system to go back to. Where it cannot be held, it may be gone when it is wanted, and is refused then. */
export async function holdLastGood(dir: string, { nix }: Place, good: Good | null): Promise<void> {
  if (good === null) return;
  await addRoot(good.toplevel, join(memoryFiles(dir).roots, 'last-good'), nix).catch(() => {});
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
