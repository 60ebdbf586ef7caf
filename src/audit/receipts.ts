// A host's receipts, in the order in which it wrote them → what it ran, from when to when, and what in them does not
// fit: a key that the log does not tell, a chain with gaps or two ends, a manifest that the log does not have, a
// checkpoint of another log than this one. Times are the host's own word.
import { type ErrorCode, FleetError, isFleetError } from '../errors.ts';
import type { PublicKey } from '../keyfile.ts';
import { parseEnvelope } from '../manifest/dsse.ts';
import { verifyReceipt } from '../manifest/receipt.ts';
import { headOf } from '../manifest/verify-offer.ts';
import type { GrowingTree } from '../tlog/growing-tree.ts';
import { equalHashes } from '../tlog/merkle.ts';
import type { HostHistory } from './hosts.ts';

/** A system that a host ran. Times are POSIX seconds. */
export type Ran = {
  readonly toplevel: string | null;
  /** When it first said so, and when it last did. */
  readonly from: number;
  readonly to: number;
};

export type ReceiptsVerdict = {
  readonly receipts: number;
  readonly ran: readonly Ran[];
  readonly phase: string | null;
};

/** The log that receipts are compared with, and its name. */
type Log = { readonly fleet: string; readonly origin: string; readonly tree: Tree };
type Tree = Pick<GrowingTree, 'from' | 'size' | 'rootAt'>;

/** `envelopes`: texts, in order; only one is in memory at a time. `tell`: takes what does not fit. */
export async function auditReceipts(
  envelopes: AsyncIterable<string>,
  history: HostHistory,
  { fleet, origin, tree }: Log,
  tell: (code: ErrorCode, message: string) => void,
): Promise<ReceiptsVerdict> {
  const told = new Set(history.told.map(({ digest }) => digest));
  const keys = history.keys.map(({ key }) => key).reverse();
  const ran: { toplevel: string | null; from: number; to: number }[] = [];
  let last: { key: PublicKey; counter: number; digest: string } | null = null;
  let phase: string | null = null;
  let receipts = 0;
  for await (const text of envelopes) {
    receipts += 1;
    const name = `receipt ${receipts}`;
    try {
      const { receipt, digest, key } = verify(text, keys, fleet, history.host);
      const follows =
        receipt.counter === 1
          ? last === null || last.key !== key
          : last?.key === key &&
            receipt.counter === last.counter + 1 &&
            receipt.previous === last.digest;
      if (!follows) tell('E_RECEIPT_CHAIN', `${name} does not follow the one before it`);
      last = { key, counter: receipt.counter, digest };
      if (receipt.manifest !== null && !told.has(receipt.manifest.sha256)) {
        const { epoch, sequence } = receipt.manifest;
        tell(
          'E_AUDIT_RECEIPT',
          `${name} is of a manifest ${epoch}.${sequence} that is not in the log`,
        );
      }
      for (const seen of [receipt.checkpoint, receipt.conflict]) {
        if (seen !== null && isOther(seen, origin, tree)) {
          tell('E_FORK', `${name} holds a checkpoint of another log of this name`);
        }
      }
      phase = receipt.phase;
      const now = receipt.times.finished;
      const current = ran.at(-1);
      if (current?.toplevel === receipt.current) current.to = now;
      else ran.push({ toplevel: receipt.current, from: now, to: now });
    } catch (error) {
      if (!isFleetError(error)) throw error;
      tell(error.code, `${name}: ${error.message}`);
    }
  }
  return { receipts, ran, phase };
}

/** The newest keys first: most receipts are of the one in use. */
function verify(text: string, keys: readonly PublicKey[], fleet: string, host: string) {
  const envelope = parseEnvelope(text);
  let refusal: unknown = null;
  for (const key of keys) {
    try {
      return { ...verifyReceipt(envelope, { publicKey: key, fleet, host }), key };
    } catch (error) {
      refusal = error;
    }
  }
  if (refusal !== null) throw refusal;
  throw new FleetError('E_AUDIT_RECEIPT', `the log tells no key of ${host}`);
}

/** Whether a signed checkpoint that a host saw is not of the log that was audited. */
function isOther(text: string, origin: string, tree: Tree): boolean {
  const seen = headOf(text);
  if (seen.origin !== origin) return false;
  // One that is longer says what came after this copy was made; of a shorter one than was read, nothing is known.
  if (seen.size > tree.size || seen.size < tree.from) return false;
  return !equalHashes(seen.root, tree.rootAt(seen.size));
}
