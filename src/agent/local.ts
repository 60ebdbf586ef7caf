// local.json ↔ what people at this machine asked for (SPEC §5.8): put off, at once, back, and words for the admin.
// It holds no trust: nothing in it makes a host accept anything. Several write it (the agent that stays, its runs,
// root's commands), each under a lock of its own that is held for no longer than a write takes. Loads no library: run.ts.
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { linkDurable, writeDurable } from '../durable.ts';
import { FleetError, isFleetError } from '../errors.ts';
import { parseStorePath, type StorePath } from '../nix/storepath.ts';
import { tryLock } from './lock.ts';
import {
  digest,
  type Fields,
  formatRecord,
  integer,
  list,
  matching,
  nullable,
  oneOf,
  parsedBy,
  parseRecord,
  record,
  salvageRecord,
  string,
} from './record.ts';
import { readText } from './waiting.ts';

/** Whoever may use the socket is one of the local group; its names are nobody else's business. */
export const PEOPLE = ['local group', 'root'] as const;
export type Who = (typeof PEOPLE)[number];

/** What is to be activated, and is not yet. */
export type Coming = {
  /** Digest of its manifest. */
  readonly sha256: string;
  readonly epoch: number;
  readonly sequence: number;
  readonly toplevel: StorePath;
  /** Of its whole closure. */
  readonly narBytes: number;
  /** When it was ready at first, POSIX seconds. */
  readonly since: number;
  /** For how long after that it may be put off; null: not at all. */
  readonly deferHours: number | null;
};

export type Deferred = {
  readonly sha256: string;
  /** POSIX seconds. */
  readonly until: number;
  readonly who: Who;
};

/** To be applied at once. `force`: root's word, which also passes over what was tried and failed. */
export type ApplyNow = { readonly sha256: string; readonly who: Who };

/** A way back that is wanted, or under way; `to` is known once it is. */
export type WayBack = {
  readonly reason: string;
  readonly who: Who;
  /** POSIX seconds. */
  readonly at: number;
  /** `manifest`: the digest of the manifest that is to be held. */
  readonly begun: { readonly to: StorePath; readonly manifest: string | null } | null;
};

/** Went back by hand: this manifest is not tried again. */
export type Held = {
  readonly sha256: string;
  readonly reason: string;
  readonly who: Who;
  /** POSIX seconds. */
  readonly at: number;
};

/** Words for the admin, that wait to become a receipt. */
export type Plea = {
  /** 16 random hex digits: the chain of receipts remembers which it told. */
  readonly id: string;
  readonly text: string;
  readonly who: Who;
  /** POSIX seconds. */
  readonly at: number;
};

/** local.json */
export type Local = {
  readonly coming: Coming | null;
  readonly deferred: Deferred | null;
  readonly now: ApplyNow | null;
  readonly back: WayBack | null;
  readonly held: Held | null;
  readonly requests: readonly Plea[];
};

export const NO_LOCAL: Local = {
  coming: null,
  deferred: null,
  now: null,
  back: null,
  held: null,
  requests: [],
};

const WHO = oneOf(PEOPLE);

export const LOCAL: Fields<Local> = {
  coming: nullable(
    record<Coming>({
      sha256: digest,
      epoch: integer(1),
      sequence: integer(1),
      toplevel: parsedBy(parseStorePath),
      narBytes: integer(0),
      since: integer(0),
      deferHours: nullable(integer(1)),
    }),
  ),
  deferred: nullable(record<Deferred>({ sha256: digest, until: integer(0), who: WHO })),
  now: nullable(record<ApplyNow>({ sha256: digest, who: WHO })),
  back: nullable(
    record<WayBack>({
      reason: string,
      who: WHO,
      at: integer(0),
      begun: nullable(
        record<NonNullable<WayBack['begun']>>({
          to: parsedBy(parseStorePath),
          manifest: nullable(digest),
        }),
      ),
    }),
  ),
  held: nullable(record<Held>({ sha256: digest, reason: string, who: WHO, at: integer(0) })),
  requests: list(
    record<Plea>({
      id: matching(/^[0-9a-f]{16}$/, '16 lowercase hex digits'),
      text: string,
      who: WHO,
      at: integer(0),
    }),
  ),
};

export function localFile(dir: string): string {
  return join(dir, 'local.json');
}

/** Where nobody ever asked for anything there is no file. @throws FleetError E_AGENT_STATE_CORRUPT, E_STATE_ACCESS */
export async function readLocal(dir: string): Promise<Local> {
  const file = localFile(dir);
  const text = await readText(file);
  return text === null ? NO_LOCAL : parseRecord(text, file, LOCAL);
}

/**
 * Replaces what is there by what `change` makes of it, durably; returns that. Nothing is written where it is the same.
 * @throws FleetError what `change` throws, E_AGENT_STATE_CORRUPT, E_AGENT_BUSY, E_DISK_FULL
 */
export async function changeLocal(
  dir: string,
  change: (local: Local) => Local | Promise<Local>,
): Promise<Local> {
  await using _lock = await lockLocal(dir);
  const before = await readLocal(dir);
  const after = await change(before);
  if (after !== before) await writeLocal(dir, after);
  return after;
}

/**
 * Has a damaged local.json set aside, as what it holds is worth no update: what can be read of it stays. Returns the
 * name that the damaged one has now; null: it is whole.
 */
export async function mendLocal(dir: string, now: number): Promise<string | null> {
  if (await isWhole(dir)) return null;
  await using _lock = await lockLocal(dir);
  // Somebody else was quicker.
  if (await isWhole(dir)) return null;
  const file = localFile(dir);
  const kept = `${file}.damaged-${now}`;
  await linkDurable(file, kept).catch((error) => {
    // Of this second: one is enough to look at.
    if (!isFleetError(error, 'E_STATE_EXISTS')) throw error;
  });
  await writeLocal(dir, { ...NO_LOCAL, ...salvageRecord((await readText(file)) ?? '', LOCAL) });
  return kept;
}

async function isWhole(dir: string): Promise<boolean> {
  try {
    await readLocal(dir);
    return true;
  } catch (error) {
    if (isFleetError(error, 'E_AGENT_STATE_CORRUPT')) return false;
    throw error;
  }
}

/** Under the lock, or of one that is damaged. */
export async function writeLocal(dir: string, local: Local): Promise<void> {
  await writeDurable(localFile(dir), formatRecord(local), 0o600);
}

const LOCK_ATTEMPTS = 200;

/** A write takes milliseconds; whoever holds it longer is stopped in a debugger. */
async function lockLocal(dir: string): Promise<AsyncDisposable> {
  for (let attempt = 0; attempt < LOCK_ATTEMPTS; attempt++) {
    const lock = await tryLock(join(dir, 'local.lock'));
    if (lock !== null) return lock;
    await sleep(25);
  }
  throw new FleetError('E_AGENT_BUSY', `local.json of ${dir} is being written by somebody else`);
}
