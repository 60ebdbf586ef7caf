// The root that somebody trusts and names with --root → that root, or what is wrong with the file, in words for whoever
// took another file for it.
import { type Kind, kindOf } from '../src/audit/kinds.ts';
import { type ErrorCode, FleetError, isFleetError } from '../src/errors.ts';
import { parseEnvelope } from '../src/manifest/dsse.ts';
import { verifyInitialRoot } from '../src/manifest/root.ts';
import type { TrustedRoot } from '../src/manifest/verify-offer.ts';
import { readInput } from './input.ts';

const ADVICE =
  'give the first root of the fleet, 1.root.json, as it came to you by a way that you trust';
const DAMAGED: readonly ErrorCode[] = ['E_ENVELOPE', 'E_PAYLOAD_FORM', 'E_ROOT_FORM', 'E_KEY_ROLE'];
const UNSIGNED: readonly ErrorCode[] = [
  'E_ROOT_OWN_SIGNATURE',
  'E_SIGNATURE',
  'E_SIGNATURE_THRESHOLD',
  'E_SIGNATURE_UNKNOWN_KEY',
];

/** @throws FleetError E_USAGE for no file, and those of verifyInitialRoot, with the file's name. */
export async function readOwnRoot(file: string): Promise<TrustedRoot> {
  const bytes = await readInput(file);
  try {
    return { root: verifyInitialRoot(parseEnvelope(bytes)), envelope: bytes.toString('utf8') };
  } catch (cause) {
    if (!isFleetError(cause)) throw cause;
    const { code, message, hint } = cause;
    const other = otherKind(bytes);
    if (other !== null) {
      const what = `--root ${file} is ${other}, and no root`;
      throw new FleetError('E_ROOT_FORM', what, { hint: ADVICE, cause });
    }
    const isBroken = DAMAGED.includes(code) || UNSIGNED.includes(code);
    const advice = isBroken ? `it was damaged or changed; ${ADVICE}` : hint;
    throw new FleetError(code, `--root ${file}: ${message}`, { hint: advice, cause });
  }
}

const NAMES: Partial<Record<Kind, string>> = {
  offer: 'an offer',
  approval: 'an approval',
  batch: 'a batch of an approval',
  enrolment: 'an enrolment',
  receipt: 'a receipt',
  receipts: 'a list of receipts',
  'host-key': 'the key of a host',
  closure: 'a closure file',
  checkpoint: 'a checkpoint',
  proof: 'a log proof',
  bundle: 'a bundle of a log',
};

/** What it is instead, where that can be told. */
function otherKind(bytes: Buffer): string | null {
  const kind = kindOf(bytes);
  if (kind !== 'manifest') return NAMES[kind] ?? null;
  // That is also what the rest is taken for.
  try {
    const { payload } = parseEnvelope(bytes);
    return Buffer.from(payload).includes('"predicateType":"urn:fleet:manifest:v1"')
      ? 'a manifest'
      : null;
  } catch {
    return null;
  }
}
