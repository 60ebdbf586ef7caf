// A host's receipts, in the order in which it wrote them → what it ran, from when to when, and what in them does not
// fit: a key that the log does not tell, a chain with gaps or two ends, a manifest that the log does not have, a
// checkpoint of another log than this one. Times are the host's own word.
import { type ErrorCode, FleetError, isFleetError } from '../errors.ts';
import type { PublicKey } from '../keyfile.ts';
import { parseEnvelope } from '../manifest/dsse.ts';
import { verifyReceipt } from '../manifest/receipt.ts';
import { headOf } from '../manifest/verify-offer.ts';
import { equalHashes, type MemoryTree } from '../tlog/merkle.ts';
import type { HostHistory } from './replay.ts';

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
  /** What does not fit: code, and words. */
  readonly wrong: readonly { readonly code: ErrorCode; readonly message: string }[];
};

/** `envelopes`: texts, in order. `tree`: of the whole log, whose origin this is. */
export function auditReceipts(
  envelopes: readonly string[],
  history: HostHistory,
  { fleet, origin, tree }: { fleet: string; origin: string; tree: MemoryTree },
): ReceiptsVerdict {
  const wrong: { code: ErrorCode; message: string }[] = [];
  const tell = (code: ErrorCode, message: string) => void wrong.push({ code, message });
  const told = new Set(history.told.map(({ digest }) => digest));
  const keys = history.keys.map(({ key }) => key).reverse();
  const ran: { toplevel: string | null; from: number; to: number }[] = [];
  let last: { key: PublicKey; counter: number; digest: string } | null = null;
  let phase: string | null = null;
  for (const [place, text] of envelopes.entries()) {
    const name = `receipt ${place + 1}`;
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
  return { receipts: envelopes.length, ran, phase, wrong };
}

/** Receipts that a server did not take: each that a key of the host signed shows two machines, or a lost memory. */
export function auditConflicts(
  envelopes: readonly string[],
  history: HostHistory,
  fleet: string,
): ReceiptsVerdict['wrong'] {
  const keys = history.keys.map(({ key }) => key).reverse();
  return envelopes.map((text, place) => {
    const name = `refused receipt ${place + 1}`;
    try {
      const { receipt } = verify(text, keys, fleet, history.host);
      const what = `${name}, of counter ${receipt.counter}, contradicts the others`;
      return {
        code: 'E_RECEIPT_CHAIN',
        message: `${what}: the machine was cloned, or lost its state`,
      };
    } catch (error) {
      if (!isFleetError(error)) throw error;
      return { code: error.code, message: `${name}: ${error.message}` };
    }
  });
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
function isOther(text: string, origin: string, tree: MemoryTree): boolean {
  const seen = headOf(text);
  if (seen.origin !== origin) return false;
  // One that is longer says what came after this copy was made.
  if (seen.size > tree.size) return false;
  return !equalHashes(seen.root, tree.rootAt(seen.size));
}
