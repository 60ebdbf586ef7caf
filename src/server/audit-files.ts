// Everything that an auditor needs of a state, as the files of a bundle (SPEC §11.1): the same state, the same
// files. Read while others publish: what came after the checkpoint that it begins with is left out.
import { buffer } from 'node:stream/consumers';
import { BUNDLE_FILES } from '../audit/source.ts';
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
  const checkpoint = await store.checkpoint();
  if (checkpoint === null) throw new FleetError('E_LOG_DAMAGED', 'the log: it has no checkpoint');
  const { size } = parseCheckpoint(parseNote(checkpoint).text);
  const log = logNumber(dir.root);
  yield fileOf(BUNDLE_FILES.readme, VERIFY);
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
  for (const { record } of await state.status()) {
    const lines = (envelopes: readonly string[]) => envelopes.map((one) => `${one}\n`).join('');
    const receipts = await state.receipts(record.host);
    if (receipts.length > 0) yield fileOf(BUNDLE_FILES.receipts(record.host), lines(receipts));
    const conflicts = await state.conflicts(record.host);
    const refused = conflicts.filter(({ kind }) => kind !== 'token');
    if (refused.length === 0) continue;
    const text = lines(refused.map(({ envelope }) => envelope));
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

const VERIFY = `This bundle holds a whole transparency log of a fleet, and what belongs to it.

  root/N.root.json       the fleet's roots. Trust none of them for being here: take 1.root.json from elsewhere
  batch/N.txt            the digests that the approval at entry N of the log is about
  closure/SHA256.fp      closures that manifests name (where they were asked for)
  log/checkpoint         the log's signed checkpoint (C2SP tlog-checkpoint)
  log/tile/entries/...   its entries, 256 in each (C2SP tlog-tiles)
  receipts/HOST.jsonl    what the host reported, one signed envelope a line
  conflicts/HOST.jsonl   what its key signed besides, and contradicts that (where there is any)

All of it at once:       fleet audit --bundle FILE --root 1.root.json
An envelope by hand:     its payload, base64-decoded, is P; the bytes that are signed are
                         "DSSEv1 <length of payloadType> <payloadType> <length of P> <P>"
                         openssl pkeyutl -verify -rawin -pubin -inkey KEY.pem -in SIGNED -sigfile SIGNATURE
The log by other tools:  any program for C2SP tlog-tiles reads log/ as it reads a log's address.
`;
