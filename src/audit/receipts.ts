// A host's receipts, in the order in which it wrote them → what it ran, from when to when, and what in them does not
// fit: a key that the log does not tell, a chain with gaps or two ends, a manifest that the log does not have, a
// checkpoint of another history than this one, which proves a fork where the log's key signed it. What it wrote while
// another log was in force, before this one, is not judged by this one. Times are the host's own word.
import { type ErrorCode, FleetError, isFleetError } from '../errors.ts';
import type { PublicKey } from '../keyfile.ts';
import { parseEnvelope } from '../manifest/dsse.ts';
import { parseReceipt, type Receipt, verifyReceipt } from '../manifest/receipt.ts';
import { headOf } from '../manifest/verify-offer.ts';
import type { GrowingTree } from '../tlog/growing-tree.ts';
import { equalHashes } from '../tlog/merkle.ts';
import { parseNote, verifyNote } from '../tlog/note.ts';
import { NOTE_ED25519, parseVerifierKey } from '../tlog/vkey.ts';
import { isLaterLog } from './earlier-log.ts';
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
  /** How many of them are of an earlier log: of what they say of that, nothing is judged. */
  readonly earlier: number;
  readonly ran: readonly Ran[];
  readonly phase: string | null;
};

/** The log that receipts are compared with. */
export type AuditedLog = {
  readonly origin: string;
  readonly tree: Pick<GrowingTree, 'from' | 'size' | 'rootAt'>;
  /** The keys that ever signed its checkpoints, as roots name them. */
  readonly vkeys: readonly string[];
};

/** `envelopes`: texts, in order; only one is in memory at a time. `tell`: takes what does not fit. */
export async function auditReceipts(
  envelopes: AsyncIterable<string>,
  history: HostHistory,
  { fleet, log }: { readonly fleet: string; readonly log: AuditedLog },
  tell: (code: ErrorCode, message: string) => void,
): Promise<ReceiptsVerdict> {
  const told = new Set(history.told.map(({ digest }) => digest));
  const keys = history.keys.map(({ key }) => key).reverse();
  const ran: { toplevel: string | null; from: number; to: number }[] = [];
  let last: { key: PublicKey; counter: number; digest: string } | null = null;
  let phase: string | null = null;
  let [receipts, earlier, hasBegun] = [0, 0, false];
  for await (const text of envelopes) {
    receipts += 1;
    const name = `receipt ${receipts}`;
    try {
      const one = verifyAny(text, keys, fleet, history.host);
      const { receipt } = one;
      const isKnown = receipt.manifest === null || told.has(receipt.manifest.sha256);
      const isEarlier = !hasBegun && isOfEarlier(receipt, log, one.key !== null && isKnown);
      if (isEarlier) earlier += 1;
      if (receipt.checkpoint !== null && headOf(receipt.checkpoint).origin === log.origin) {
        hasBegun = true;
      }
      if (one.key === null) {
        if (!isEarlier) throw one.refusal;
        last = null;
        continue;
      }
      const { digest, key } = one;
      const follows =
        receipt.counter === 1
          ? last === null || last.key !== key
          : last?.key === key &&
            receipt.counter === last.counter + 1 &&
            receipt.previous === last.digest;
      if (!follows) tell('E_RECEIPT_CHAIN', `${name} does not follow the one before it`);
      last = { key, counter: receipt.counter, digest };
      // It goes on to name what it accepted of the earlier log, until this one tells it something.
      if (isEarlier && receipt.manifest !== null) told.add(receipt.manifest.sha256);
      else if (receipt.manifest !== null && !isKnown) {
        const { epoch, sequence } = receipt.manifest;
        tell(
          'E_AUDIT_RECEIPT',
          `${name} is of a manifest ${epoch}.${sequence} that is not in the log`,
        );
      }
      for (const { code, says } of wrongOf(receipt, log)) tell(code, `${name} ${says}`);
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
  return { receipts, earlier, ran, phase };
}

function verify(text: string, keys: readonly PublicKey[], fleet: string, host: string) {
  const envelope = parseEnvelope(text);
  return byOne(keys, host, (publicKey) => {
    return { ...verifyReceipt(envelope, { publicKey, fleet, host }), key: publicKey };
  });
}

/** A receipt that some key of the host signed; or one that none did that is known, as which it says that it is. */
export function verifyAny(
  text: string,
  keys: readonly PublicKey[],
  fleet: string,
  host: string,
):
  | ReturnType<typeof verify>
  | { readonly key: null; readonly receipt: Receipt; readonly refusal: FleetError } {
  try {
    return verify(text, keys, fleet, host);
  } catch (error) {
    const isUnknown =
      isFleetError(error) && /^E_(SIGNATURE_UNKNOWN_KEY|AUDIT_RECEIPT)$/.test(error.code);
    if (!isUnknown) throw error;
    const receipt = parseReceipt(parseEnvelope(text).payload);
    if (receipt.fleet !== fleet || receipt.host !== host) throw error;
    return { key: null, receipt, refusal: error };
  }
}

/**
 * Whether a receipt is of before this log: its checkpoint is of an earlier one, and signed by that; or it saw none, and
 * says what this log cannot know. `isToldHere`: that its key and its manifest are told in this log.
 */
export function isOfEarlier(
  { checkpoint }: Receipt,
  log: AuditedLog,
  isToldHere: boolean,
): boolean {
  if (checkpoint === null) return !isToldHere && !log.origin.endsWith('/log/1');
  return isLaterLog(headOf(checkpoint).origin, log.origin) && isSignedByLog(checkpoint, log);
}

/** What the first key says that does not refuse. The newest keys first: most receipts are of the one in use. */
export function byOne<T>(
  keys: readonly PublicKey[],
  host: string,
  verified: (key: PublicKey) => T,
): T {
  let refusal: unknown = null;
  for (const key of keys) {
    try {
      return verified(key);
    } catch (error) {
      refusal = error;
    }
  }
  if (refusal !== null) throw refusal;
  throw new FleetError('E_AUDIT_RECEIPT', `the log tells no key of ${host}`);
}

type Wrong = { readonly code: ErrorCode; readonly says: string };

/** What the checkpoints that a host saw say against the log that was audited, or against the host. */
export function wrongOf({ checkpoint, conflict }: Receipt, log: AuditedLog): Wrong[] {
  const seen = [checkpoint, conflict].filter((text) => text !== null);
  const others = seen.filter((text) => standingOf(text, log) === 'other');
  if (others.length > 0) return others.map((text) => otherLog(text, log));
  // One that is longer says what came after this copy was made; two that the host could not bring together
  // are to be looked at, once there is a copy that is long enough.
  if (conflict === null || seen.every((text) => standingOf(text, log) === 'same')) return [];
  const sizes = seen.map((text) => headOf(text).size).join(' and ');
  const says = `holds two checkpoints, of ${sizes} entries, of which one is longer than this copy of the log`;
  return [{ code: 'E_CONSISTENCY', says: `${says}, and which the host could not bring together` }];
}

/** Two histories that one key signed; or a host that makes one up. */
function otherLog(text: string, log: AuditedLog): Wrong {
  const { size } = headOf(text);
  const what = `a checkpoint of ${size} entries that are not those of this log`;
  return isSignedByLog(text, log)
    ? { code: 'E_FORK', says: `holds ${what}, signed by its key: two histories` }
    : { code: 'E_AUDIT_RECEIPT', says: `holds ${what}, and its key has not signed it` };
}

function isSignedByLog(text: string, { vkeys }: AuditedLog): boolean {
  const note = parseNote(text);
  return vkeys.some((vkey) => {
    try {
      return verifyNote(note, [parseVerifierKey(vkey, NOTE_ED25519)]).length > 0;
    } catch {
      return false;
    }
  });
}

function standingOf(text: string, { origin, tree }: AuditedLog): 'same' | 'other' | 'longer' {
  const seen = headOf(text);
  // Of an earlier or a later log of the fleet, or of less than was read: not to be compared.
  if (seen.origin !== origin || seen.size < tree.from) return 'same';
  if (seen.size > tree.size) return 'longer';
  return equalHashes(seen.root, tree.rootAt(seen.size)) ? 'same' : 'other';
}
