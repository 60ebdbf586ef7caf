// A bundle's files (SPEC §11.1), from a tar file or straight from a state → what an audit reads from. Files
// come in one order, so that nothing need be kept but what is being looked at. Refuses any other order, what does
// not belong there, and a closure file that is not what its name says.
import { createHash } from 'node:crypto';
import type { BundleFile, BundleLimits } from '../bundle/tar.ts';
import { FleetError } from '../errors.ts';
import { MAX_BATCH } from '../manifest/approval.ts';
import { parseCheckpoint } from '../tlog/checkpoint.ts';
import { parseNote } from '../tlog/note.ts';
import { formatTilePath, MAX_ENTRY_BYTES, TILE_WIDTH } from '../tlog/tile.ts';
import type { HostReceipts, LogSource } from './audit.ts';

/** Receipts in one file of a bundle. */
export const RECEIPTS_WIDTH = 256;

/** Names of a bundle's files, in the order in which they come. */
export const BUNDLE_FILES = {
  readme: 'VERIFY.txt',
  root: (version: number): string => `root/${version}.root.json`,
  /** Of the approval at this entry. */
  batch: (index: number): string => `batch/${index}.txt`,
  closure: (sha256: string): string => `closure/${sha256}.fp`,
  checkpoint: 'log/checkpoint',
  entries: (index: number, width: number): string =>
    `log/${formatTilePath({ level: 'entries', index, width })}`,
  /** The first of them is 0. */
  receipts: (host: string, index: number): string => `receipts/${host}/${index}.jsonl`,
  /** What contradicts those. */
  conflicts: (host: string): string => `conflicts/${host}.jsonl`,
};

/** 256 entries, as many receipts (which are shorter): nothing of a log is larger. */
const MOST = TILE_WIDTH * (MAX_ENTRY_BYTES + 2);
/** A digest and the end of its line, as often as they may be there. */
const MOST_BATCH = MAX_BATCH * 65;
/** Of all batches, which are held until their approvals come: 2 million digests. */
export const MOST_BATCHES = 128 * 2 ** 20;
/** What each is counted as besides what it holds: a million empty ones are much, too. */
const BATCH_ROOM = 512;
/** Closures are as large as a root's limits let them be. */
const MOST_CLOSURE = 128 * 2 ** 20;

/** Of files that an audit reads. */
export const AUDIT_LIMITS: BundleLimits = {
  fileBytes: (name) => {
    if (name.startsWith('batch/')) return MOST_BATCH;
    return name.startsWith('closure/') ? MOST_CLOSURE : MOST;
  },
  totalBytes: Number.MAX_SAFE_INTEGER,
};

/** @throws FleetError E_BUNDLE_FORM. */
export async function openBundleSource(files: AsyncIterable<BundleFile>): Promise<LogSource> {
  const iterator = files[Symbol.asyncIterator]();
  const next = async (): Promise<BundleFile | null> => {
    const { value, done } = await iterator.next();
    return done === true ? null : (value as BundleFile);
  };
  // As bytes: as the strings that they are of they would take twice the room.
  const batches = new Map<number, Uint8Array>();
  let room = 0;
  let checkpoint: string | null = null;
  while (checkpoint === null) {
    const file = await next();
    if (file === null) return refuse(`it has no ${BUNDLE_FILES.checkpoint}`);
    const { name, data } = file;
    const batch = /^batch\/(0|[1-9]\d{0,14})\.txt$/.exec(name)?.[1];
    if (name === BUNDLE_FILES.checkpoint) checkpoint = Buffer.from(data).toString('utf8');
    else if (batch !== undefined) {
      room += data.length + BATCH_ROOM;
      if (room > MOST_BATCHES) refuse(`its batches are more than ${MOST_BATCHES} bytes`);
      if (data.length > MOST_BATCH) refuse(`${name} has more than ${MOST_BATCH} bytes`);
      batches.set(Number(batch), data);
    } else requireOther(file);
  }
  parseCheckpoint(parseNote(checkpoint).text);
  return {
    checkpoint,
    async bundle(index, width) {
      const file = await next();
      if (file === null) return null;
      const expected = BUNDLE_FILES.entries(index, width);
      if (file.name === expected) return file.data;
      return refuse(`${JSON.stringify(file.name)} is where ${expected} belongs`);
    },
    async batch(index) {
      const data = batches.get(index);
      batches.delete(index);
      return data === undefined ? null : linesOf(data);
    },
    receipts: () => receiptsOf(next),
  };
}

/** What comes before the log and is not read: trust comes from the auditor's own root. */
function requireOther({ name, data }: BundleFile): void {
  const closure = /^closure\/([0-9a-f]{64})\.fp$/.exec(name)?.[1];
  if (closure !== undefined) {
    if (createHash('sha256').update(data).digest('hex') === closure) return;
    refuse(`${name} is not the file that it is named as`);
  }
  if (/^(VERIFY\.txt|root\/[1-9]\d{0,14}\.root\.json)$/.test(name)) return;
  refuse(`${JSON.stringify(name)} does not belong before the log`);
}

async function* receiptsOf(next: () => Promise<BundleFile | null>): AsyncGenerator<HostReceipts> {
  let file = await next();
  while (file !== null) {
    const { host, contradict } = seriesOf(file, 0);
    const envelopes = (async function* () {
      for (let index = 0; file !== null; index++) {
        if (index > 0 && !isOfSeries(file, host, contradict)) return;
        seriesOf(file, index);
        yield* linesOf(file.data);
        file = await next();
      }
    })();
    yield { host, envelopes, contradict };
    // What nobody asked for is passed over.
    for await (const _ of envelopes);
  }
}

/** Whether a file goes on with what the one before it began: else it is of another host, or of the other kind. */
function isOfSeries({ name }: BundleFile, host: string, contradict: boolean): boolean {
  return !contradict && name.startsWith(`receipts/${host}/`);
}

function seriesOf({ name }: BundleFile, index: number): { host: string; contradict: boolean } {
  const refused = /^conflicts\/([a-z0-9-]{1,63})\.jsonl$/.exec(name)?.[1];
  if (refused !== undefined) return { host: refused, contradict: true };
  const host = /^receipts\/([a-z0-9-]{1,63})\//.exec(name)?.[1];
  if (host !== undefined && name === BUNDLE_FILES.receipts(host, index)) {
    return { host, contradict: false };
  }
  return refuse(`${JSON.stringify(name)} does not belong after the log`);
}

function linesOf(data: Uint8Array): string[] {
  const text = Buffer.from(data).toString('utf8');
  if (text === '') return [];
  return text.endsWith('\n') ? text.slice(0, -1).split('\n') : text.split('\n');
}

function refuse(what: string): never {
  throw new FleetError('E_BUNDLE_FORM', `bundle: ${what}`);
}
