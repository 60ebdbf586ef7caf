// A receipt among an auditor's files → what it says, if a key signed it that an enrolment here tells (SPEC §6, §7.3).
import { FleetError } from '../errors.ts';
import type { PublicKey } from '../keyfile.ts';
import { parseEnvelope } from '../manifest/dsse.ts';
import { parseReceipt, verifyReceipt } from '../manifest/receipt.ts';
import type { VerifiedManifest } from '../manifest/verify.ts';
import type { Says } from './file-verdicts.ts';

/** `keysOf`: keys of each host, as verified enrolments tell them. */
export function judgeReceipt(
  bytes: Buffer,
  keysOf: ReadonlyMap<string, readonly PublicKey[]>,
  fleet: string,
  manifests: readonly VerifiedManifest[],
): Says {
  const envelope = parseEnvelope(bytes);
  const { host } = parseReceipt(envelope.payload);
  let refusal: unknown = new FleetError('E_SIGNATURE_UNKNOWN_KEY', `no key of ${host} is known`, {
    hint: `give the enrolment of ${host} in the same command`,
  });
  // The newest first.
  for (const publicKey of (keysOf.get(host) ?? []).toReversed()) {
    try {
      const { receipt, digest } = verifyReceipt(envelope, { publicKey, fleet, host });
      const hasManifest = manifests.some((one) => one.digest === receipt.manifest?.sha256);
      return { kind: 'receipt', receipt, digest, key: publicKey, hasManifest };
    } catch (error) {
      refusal = error;
    }
  }
  throw refusal;
}
