// What a server did not take of a host's, because it contradicts what it had → two machines with one key, or a machine
// that lost its memory. It is irregular as long as that key counts; once the log tells another in its place, or the end
// of the host, it is history. What it shows of the log itself stays irregular.
import { isFleetError } from '../errors.ts';
import type { PublicKey } from '../keyfile.ts';
import { type Envelope, parseEnvelope } from '../manifest/dsse.ts';
import {
  parseTokenRequest,
  TOKEN_REQUEST_PAYLOAD_TYPE,
  verifyTokenRequest,
} from '../manifest/token-request.ts';
import type { HostHistory } from './hosts.ts';
import type { Irregularities } from './irregular.ts';
import { type AuditedLog, byOne, isOfEarlier, verifyAny, wrongOf } from './receipts.ts';

const MEANS = 'the machine was cloned, or lost its state';

/** `envelopes`: receipts, and requests for tokens, as texts. */
export async function auditConflicts(
  envelopes: AsyncIterable<string>,
  history: HostHistory,
  { fleet, log }: { readonly fleet: string; readonly log: AuditedLog },
  irregular: Irregularities,
): Promise<void> {
  const { host } = history;
  const keys = history.keys.map(({ key }) => key).reverse();
  const note = (code: 'E_RECEIPT_CHAIN' | 'E_TOKEN_SUCCESSOR', says: string, by: Signed) => {
    const endedBy = by.key === null ? null : endOf(by.key, history);
    if (by.key !== null && endedBy === null) irregular.tell(null, host, code, says);
    else irregular.settle({ host, code, message: says, saidAt: by.saidAt, endedBy });
  };
  let place = 0;
  for await (const text of envelopes) {
    place += 1;
    let name = `refused receipt ${place}`;
    try {
      const envelope = parseEnvelope(text);
      if (envelope.payloadType === TOKEN_REQUEST_PAYLOAD_TYPE) {
        name = `refused request ${place}`;
        const key = signerOf(envelope, keys, history.host, { fleet, log });
        const says = `${name} asks for a second successor of a token: ${MEANS}`;
        note('E_TOKEN_SUCCESSOR', says, { key, saidAt: null });
        continue;
      }
      const one = verifyAny(text, keys, fleet, host);
      const { key, receipt } = one;
      if (one.key === null && !isOfEarlier(receipt, log, false)) throw one.refusal;
      const says = `${name}, of counter ${receipt.counter}, contradicts the others: ${MEANS}`;
      note('E_RECEIPT_CHAIN', says, { key, saidAt: receipt.times.finished });
      for (const { code, says } of wrongOf(receipt, log)) {
        irregular.tell(null, host, code, `${name} ${says}`);
      }
    } catch (error) {
      if (!isFleetError(error)) throw error;
      irregular.tell(null, host, error.code, `${name}: ${error.message}`);
    }
  }
}

/** `key`: null where it is one that only an earlier log told. `saidAt`: by the host's own clock, where it says so. */
type Signed = { readonly key: PublicKey | null; readonly saidAt: number | null };

/** Of a request; null where no key that this log tells signed it, and it may be of a log before this one. */
function signerOf(
  envelope: Envelope,
  keys: readonly PublicKey[],
  host: string,
  { fleet, log }: { readonly fleet: string; readonly log: AuditedLog },
): PublicKey | null {
  try {
    return byOne(keys, host, (publicKey) => {
      verifyTokenRequest(envelope, { publicKey, fleet, host });
      return publicKey;
    });
  } catch (error) {
    const isUnknown = isFleetError(error, 'E_SIGNATURE_UNKNOWN_KEY', 'E_AUDIT_RECEIPT');
    if (!isUnknown || log.origin.endsWith('/log/1')) throw error;
    const request = parseTokenRequest(envelope.payload);
    if (request.fleet !== fleet || request.host !== host) throw error;
    return null;
  }
}

/** The entry that put another key in its place, or ended the host; null while the key counts. */
function endOf(key: PublicKey, { keys, lastKey, last }: HostHistory): number | null {
  if (lastKey !== null && lastKey.key !== key) {
    return keys[keys.findLastIndex((one) => one.key === key) + 1]?.index ?? lastKey.index;
  }
  return last?.intent === 'decommission' ? last.index : null;
}
