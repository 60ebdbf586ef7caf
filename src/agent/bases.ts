// bases.json ↔ the digest of closure.fp of systems that were fetched here: what an update pack may build on (SPEC §12.1). What
// was fetched is not what runs; which of them the host confirmed last, the journal says. A cache: where it is missing or
// damaged, the next update comes as for a host that has nothing to build on.
import { writeDurable } from '../durable.ts';
import { parseStorePath, type StorePath } from '../nix/storepath.ts';
import { readJournal } from './journal.ts';
import { memoryFiles, readState } from './memory.ts';
import {
  digest,
  type Fields,
  formatRecord,
  list,
  parsedBy,
  parseRecord,
  record,
} from './record.ts';

export type Base = {
  readonly toplevel: StorePath;
  /** SHA-256 of its closure file. */
  readonly closure: string;
};

/** Systems whose closure is remembered: what runs, what ran before, and some that were tried. */
const KEPT = 8;

const BASES: Fields<{ readonly bases: readonly Base[] }> = {
  bases: list(record<Base>({ toplevel: parsedBy(parseStorePath), closure: digest })),
};

/** The system that this host confirmed last; null: its closure is not known, or there is none. */
export async function readBase(dir: string): Promise<Base | null> {
  const { running } = await readJournal(dir);
  return (await readBases(dir)).find(({ toplevel }) => toplevel === running?.toplevel) ?? null;
}

/** Remembers the closure of a system that is being fetched; that of the running one stays. */
export async function noteBase(dir: string, base: Base): Promise<void> {
  const before = await readBases(dir);
  const { running, lastGood } = await readJournal(dir);
  const isSame = before.some(
    ({ toplevel, closure }) => toplevel === base.toplevel && closure === base.closure,
  );
  if (isSame) return;
  const others = before.filter(({ toplevel }) => toplevel !== base.toplevel);
  const isGood = ({ toplevel }: Base): boolean =>
    toplevel === running?.toplevel || toplevel === lastGood?.toplevel;
  const kept = [...others.filter(isGood), ...others.filter((one) => !isGood(one))];
  const bases = [base, ...kept.slice(0, KEPT - 1)];
  await writeDurable(memoryFiles(dir).bases, formatRecord({ bases }), 0o600);
}

async function readBases(dir: string): Promise<readonly Base[]> {
  const file = memoryFiles(dir).bases;
  const text = await readState(file);
  if (text === null) return [];
  try {
    return parseRecord(text, file, BASES).bases;
  } catch {
    return [];
  }
}
