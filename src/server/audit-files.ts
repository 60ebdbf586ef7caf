// Everything that an auditor needs of a state, as the files of a bundle (SPEC §11.1): the same state, the same
// files. Read while others publish and report: what came after the checkpoint that it begins with is left out.
import { buffer } from 'node:stream/consumers';
import { BUNDLE_FILES, RECEIPTS_WIDTH } from '../audit/source.ts';
import type { BundleFile } from '../bundle/tar.ts';
import { FleetError } from '../errors.ts';
import { logNumber } from '../manifest/append.ts';
import { formatBatch } from '../manifest/approval.ts';
import { parseBlobId } from '../storage/blobs.ts';
import { parseCheckpoint } from '../tlog/checkpoint.ts';
import { parseNote } from '../tlog/note.ts';
import { TILE_WIDTH, widthOfTile } from '../tlog/tile.ts';
import { logStoreOf } from './log-writer.ts';
import type { StateDir } from './statedir.ts';
import { VERIFY_TXT } from './verify-txt.ts';

export type AuditContents = {
  /** Also the closure files of every manifest, which are by far the most. */
  readonly closures: boolean;
};

/** @throws FleetError E_LOG_DAMAGED when the log lacks entries. */
export async function* auditFiles(
  dir: StateDir,
  { closures }: AuditContents,
): AsyncGenerator<BundleFile> {
  const { state, roots } = dir;
  const store = logStoreOf(dir);
  // Before the checkpoint is read: what hosts had said by then is of manifests that it covers.
  const mark = await state.recordsMark();
  const checkpoint = await store.checkpoint();
  if (checkpoint === null) throw new FleetError('E_LOG_DAMAGED', 'the log: it has no checkpoint');
  const { size } = parseCheckpoint(parseNote(checkpoint).text);
  const log = logNumber(dir.root);
  yield fileOf(BUNDLE_FILES.readme, VERIFY_TXT);
  for (const { root, envelope } of roots) yield fileOf(BUNDLE_FILES.root(root.version), envelope);
  for (const { logIndex, batch } of await state.approvals(log, 0, size)) {
    yield fileOf(BUNDLE_FILES.batch(logIndex), formatBatch(batch));
  }
  if (closures) yield* closureFiles(dir, log, size);
  yield fileOf(BUNDLE_FILES.checkpoint, checkpoint);
  for (let index = 0; index * TILE_WIDTH < size; index++) {
    const width = widthOfTile('entries', index, size);
    const data = await store.tile({ level: 'entries', index, width });
    if (data === null) {
      throw new FleetError(
        'E_LOG_DAMAGED',
        `the log: entries from ${index * TILE_WIDTH} on are lost`,
      );
    }
    yield { name: BUNDLE_FILES.entries(index, width), data };
  }
  // What a key signed that the log does not tell yet could not be checked: it is left for the next time.
  const told = await state.toldKeys(log, size);
  for (const { record } of await state.status()) {
    const lines = (envelopes: readonly string[]) => envelopes.map((one) => `${one}\n`).join('');
    const bound = { keys: told.get(record.host) ?? [], mark };
    const receipts = await state.receipts(record.host, bound);
    for (let index = 0; index * RECEIPTS_WIDTH < receipts.length; index++) {
      const part = receipts.slice(index * RECEIPTS_WIDTH, (index + 1) * RECEIPTS_WIDTH);
      yield fileOf(BUNDLE_FILES.receipts(record.host, index), lines(part));
    }
    const conflicts = await state.conflicts(record.host, bound);
    if (conflicts.length === 0) continue;
    const text = lines(conflicts.map(({ envelope }) => envelope));
    yield fileOf(BUNDLE_FILES.conflicts(record.host), text);
  }
}

async function* closureFiles(
  { state, blobs }: StateDir,
  log: number,
  size: number,
): AsyncGenerator<BundleFile> {
  for (const sha256 of await state.loggedClosures(log, size)) {
    const id = parseBlobId(sha256);
    const stream = id === null ? null : await blobs.get(id);
    if (stream !== null) yield { name: BUNDLE_FILES.closure(sha256), data: await buffer(stream) };
  }
}

function fileOf(name: string, text: string): BundleFile {
  return { name, data: Buffer.from(text) };
}
