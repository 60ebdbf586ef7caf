// A checkpoint's text ↔ the head of a log's tree (C2SP tlog-checkpoint, SPEC §9.3): exactly three lines,
// origin, size and root hash. Refuses extension lines, sizes with leading zeros or of 2^53 and more.
// Which keys must have signed it, and how old it may be, is the root's business (manifest/log-view.ts).
import { decodeBase64, encodeBase64 } from '../base64.ts';
import { FleetError } from '../errors.ts';
import { HASH_BYTES, type TreeHead } from './merkle.ts';

export type Checkpoint = TreeHead & {
  /** Which log: not empty, without white space and `+`, as the name of its key. */
  readonly origin: string;
};

/** @throws FleetError E_CHECKPOINT. */
export function parseCheckpoint(text: string): Checkpoint {
  const match = /^([^\s+]+)\n(0|[1-9]\d{0,15})\n([A-Za-z0-9+/]{43}=)\n$/u.exec(text);
  const [, origin, digits, hash] = match ?? [];
  const size = Number(digits);
  const root = decodeBase64(hash ?? '');
  if (origin === undefined || root?.length !== HASH_BYTES || !Number.isSafeInteger(size)) {
    throw new FleetError('E_CHECKPOINT', 'not a checkpoint: three lines are origin, size and root');
  }
  return { origin, size, root };
}

/** The note's text. @throws FleetError E_CHECKPOINT for what parseCheckpoint would not accept. */
export function formatCheckpoint({ origin, size, root }: Checkpoint): string {
  const text = `${origin}\n${size}\n${encodeBase64(root)}\n`;
  parseCheckpoint(text);
  return text;
}
