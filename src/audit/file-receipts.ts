// What a host signed, among an auditor's files → what it says, if an enrolment here tells the key that signed it
// (SPEC §6, §7.3, §7.4): a receipt, many of them a line each, or the key itself.
import { FleetError } from '../errors.ts';
import { type PublicKey, parsePublicKeyFile } from '../keyfile.ts';
import { parseEnvelope, requireSignatures } from '../manifest/dsse.ts';
import { parseReceipt, type Receipt, verifyReceipt } from '../manifest/receipt.ts';
import { TOKEN_REQUEST_PAYLOAD_TYPE } from '../manifest/token-request.ts';
import type { VerifiedManifest } from '../manifest/verify.ts';
import type { Says } from './file-verdicts.ts';

/** Keys of each host, as verified enrolments tell them. */
type KeysOf = ReadonlyMap<string, readonly PublicKey[]>;
type Signed = { readonly receipt: Receipt; readonly digest: string; readonly key: PublicKey };

/** @throws FleetError E_SIGNATURE_UNKNOWN_KEY and those of verifyReceipt. */
export function judgeReceipt(
  bytes: Buffer,
  keysOf: KeysOf,
  fleet: string,
  manifests: readonly VerifiedManifest[],
): Says {
  const { receipt, digest, key } = receiptOf(bytes, keysOf, fleet);
  const hasManifest = manifests.some((one) => one.digest === receipt.manifest?.sha256);
  return { kind: 'receipt', receipt, digest, key, hasManifest };
}

/** @throws FleetError E_AUDIT_RECEIPT for lines of several hosts; as judgeReceipt for each line. */
export function judgeReceipts(bytes: Buffer, keysOf: KeysOf, fleet: string): Says {
  const hosts = new Set<string>();
  let last: Signed | null = null;
  let [receipts, requests, isChain] = [0, 0, true];
  for (const line of bytes.toString('utf8').trimEnd().split('\n')) {
    const envelope = parseEnvelope(line);
    if (envelope.payloadType === TOKEN_REQUEST_PAYLOAD_TYPE) {
      const { host } = JSON.parse(Buffer.from(envelope.payload).toString('utf8')) as {
        host: string;
      };
      requireSignatures(envelope, keysOf.get(host) ?? [], 1, `host (${host})`);
      hosts.add(host);
      requests += 1;
      continue;
    }
    const one = receiptOf(Buffer.from(line), keysOf, fleet);
    const { host, counter, previous } = one.receipt;
    hosts.add(host);
    receipts += 1;
    const follows: boolean =
      last === null || last.key !== one.key
        ? counter === 1
        : counter === last.receipt.counter + 1 && previous === last.digest;
    isChain &&= follows;
    last = one;
  }
  const [host, other] = hosts;
  if (host !== undefined && other === undefined) {
    return { kind: 'receipts', host, receipts, requests, isChain };
  }
  throw new FleetError(
    'E_AUDIT_RECEIPT',
    `the lines are of several hosts: ${[...hosts].join(', ')}`,
  );
}

/** @throws FleetError E_SIGNATURE_UNKNOWN_KEY, E_PUBLIC_KEY. */
export function judgeHostKey(bytes: Buffer, keysOf: KeysOf): Says {
  const key = parsePublicKeyFile(bytes.toString('utf8'));
  const found = [...keysOf].find(([, keys]) => keys.includes(key));
  if (found !== undefined) return { kind: 'host-key', host: found[0], key };
  throw new FleetError('E_SIGNATURE_UNKNOWN_KEY', 'no verified enrolment here tells this key', {
    hint: 'give the enrolment that tells it in the same command',
  });
}

function receiptOf(bytes: Buffer, keysOf: KeysOf, fleet: string): Signed {
  const envelope = parseEnvelope(bytes);
  const { host } = parseReceipt(envelope.payload);
  let refusal: unknown = new FleetError('E_SIGNATURE_UNKNOWN_KEY', `no key of ${host} is known`, {
    hint: `give the enrolment of ${host} in the same command`,
  });
  // The newest first.
  for (const publicKey of (keysOf.get(host) ?? []).toReversed()) {
    try {
      return { ...verifyReceipt(envelope, { publicKey, fleet, host }), key: publicKey };
    } catch (error) {
      refusal = error;
    }
  }
  throw refusal;
}
