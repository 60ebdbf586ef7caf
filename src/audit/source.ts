// A bundle's files (SPEC §11.1), from a tar file or straight from a state → what an audit reads from. Files
// come in one order, so that nothing need be kept but what is being looked at. Refuses any other order, and
// what does not belong there.
import type { BundleFile } from '../bundle/tar.ts';
import { FleetError } from '../errors.ts';
import { parseCheckpoint } from '../tlog/checkpoint.ts';
import { parseNote } from '../tlog/note.ts';
import { formatTilePath } from '../tlog/tile.ts';
import type { LogSource } from './audit.ts';

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
  receipts: (host: string): string => `receipts/${host}.jsonl`,
  /** What contradicts those. */
  conflicts: (host: string): string => `conflicts/${host}.jsonl`,
};

/** Of files that an audit reads: receipts of one host, or 256 entries. */
export const AUDIT_LIMITS = { fileBytes: 256 * 2 ** 20, totalBytes: Number.MAX_SAFE_INTEGER };

/** @throws FleetError E_BUNDLE_FORM. */
export async function openBundleSource(files: AsyncIterable<BundleFile>): Promise<LogSource> {
  const iterator = files[Symbol.asyncIterator]();
  const batches = new Map<number, readonly string[]>();
  let checkpoint: string | null = null;
  while (checkpoint === null) {
    const { value, done } = await iterator.next();
    if (done === true) return refuse(`it has no ${BUNDLE_FILES.checkpoint}`);
    const { name, data } = value as BundleFile;
    const batch = /^batch\/(0|[1-9]\d{0,14})\.txt$/.exec(name)?.[1];
    const text = () => Buffer.from(data).toString('utf8');
    if (name === BUNDLE_FILES.checkpoint) checkpoint = text();
    else if (batch !== undefined) batches.set(Number(batch), linesOf(text()));
    // Trust comes from the auditor's own root, and closures are for `fleet verify`.
    else if (!/^(VERIFY\.txt|root\/[1-9]\d*\.root\.json|closure\/[0-9a-f]{64}\.fp)$/.test(name)) {
      return refuse(`${JSON.stringify(name)} does not belong before the log`);
    }
  }
  parseCheckpoint(parseNote(checkpoint).text);
  return {
    checkpoint,
    async bundle(index, width) {
      const { value, done } = await iterator.next();
      if (done === true) return null;
      const { name, data } = value as BundleFile;
      const expected = BUNDLE_FILES.entries(index, width);
      return name === expected
        ? data
        : refuse(`${JSON.stringify(name)} is where ${expected} belongs`);
    },
    batch: async (index) => batches.get(index) ?? null,
    async *receipts() {
      for (;;) {
        const { value, done } = await iterator.next();
        if (done === true) return;
        const { name, data } = value as BundleFile;
        const [, folder, host] =
          /^(receipts|conflicts)\/([a-z0-9-]{1,63})\.jsonl$/.exec(name) ?? [];
        if (host === undefined)
          return refuse(`${JSON.stringify(name)} does not belong after the log`);
        const envelopes = linesOf(Buffer.from(data).toString('utf8'));
        yield { host, envelopes, contradict: folder === 'conflicts' };
      }
    },
  };
}

function linesOf(text: string): string[] {
  if (text === '') return [];
  return text.endsWith('\n') ? text.slice(0, -1).split('\n') : text.split('\n');
}

function refuse(what: string): never {
  throw new FleetError('E_BUNDLE_FORM', `bundle: ${what}`);
}
