// The bytes of a file that someone gave an auditor → what it says it is. Nothing is believed for it: each kind is
// verified as that (files.ts), and refused as what it is not.
import { APPROVAL_PREDICATE_TYPE } from '../manifest/approval.ts';
import { MAX_ENVELOPE_BYTES, parseEnvelope } from '../manifest/dsse.ts';
import { ENROLMENT_PREDICATE_TYPE } from '../manifest/enrolment.ts';
import { RECEIPT_PAYLOAD_TYPE } from '../manifest/receipt.ts';
import { ROOT_PAYLOAD_TYPE } from '../manifest/root.ts';
import { TOKEN_REQUEST_PAYLOAD_TYPE } from '../manifest/token-request.ts';

export type Kind =
  | 'root'
  | 'manifest'
  | 'offer'
  | 'approval'
  | 'batch'
  | 'enrolment'
  | 'receipt'
  | 'receipts'
  | 'host-key'
  | 'closure'
  | 'checkpoint'
  | 'proof'
  | 'bundle';

/** A file of several hundred megabytes is not parsed to see what it is. */
const MOST_JSON = 16 * 2 ** 20;

export function kindOf(bytes: Buffer): Kind {
  const head = bytes.subarray(0, 512).toString('latin1');
  if (isTar(bytes)) return 'bundle';
  if (head.startsWith('1;/nix/store/')) return 'closure';
  if (head.startsWith('c2sp.org/tlog-proof@')) return 'proof';
  if (head.startsWith('-----BEGIN PUBLIC KEY-----')) return 'host-key';
  if (/^[0-9a-f]{64}\n/.test(head)) return 'batch';
  if (/^[^\s+]+\n\d+\n[A-Za-z0-9+/=]+\n/.test(head)) return 'checkpoint';
  if (isLinesOfHost(bytes)) return 'receipts';
  const fields = bytes.length > MOST_JSON ? [] : fieldsOf(bytes);
  if (fields.includes('payloadType')) return kindOfEnvelope(bytes);
  if (fields.includes('offerVersion')) return 'offer';
  return fields.includes('batch') ? 'approval' : 'manifest';
}

/** True for what begins as a tar file does (POSIX ustar). */
export function isTar(head: Uint8Array): boolean {
  return Buffer.from(head.subarray(257, 262)).toString('latin1') === 'ustar';
}

/** What a host signed, an envelope a line, more than one. */
function isLinesOfHost(bytes: Buffer): boolean {
  const end = bytes.indexOf('\n');
  if (end === -1 || end === bytes.length - 1 || end > MAX_ENVELOPE_BYTES) return false;
  try {
    const { payloadType } = parseEnvelope(bytes.subarray(0, end));
    return payloadType === RECEIPT_PAYLOAD_TYPE || payloadType === TOKEN_REQUEST_PAYLOAD_TYPE;
  } catch {
    return false;
  }
}

function fieldsOf(bytes: Buffer): string[] {
  try {
    const json: unknown = JSON.parse(bytes.toString('utf8'));
    return typeof json === 'object' && json !== null ? Object.keys(json) : [];
  } catch {
    return [];
  }
}

/** What is no envelope, or holds what nobody knows, is refused as a manifest. */
function kindOfEnvelope(bytes: Buffer): Kind {
  try {
    const { payloadType, payload } = parseEnvelope(bytes);
    if (payloadType === ROOT_PAYLOAD_TYPE) return 'root';
    if (payloadType === RECEIPT_PAYLOAD_TYPE) return 'receipt';
    if (payloadType === TOKEN_REQUEST_PAYLOAD_TYPE) return 'receipts';
    const text = Buffer.from(payload);
    const is = (type: string) => text.includes(`"predicateType":"${type}"`);
    if (is(APPROVAL_PREDICATE_TYPE)) return 'approval';
    if (is(ENROLMENT_PREDICATE_TYPE)) return 'enrolment';
  } catch {}
  return 'manifest';
}
