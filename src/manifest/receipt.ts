// What became of an update, as the host signs it ↔ a typed receipt (SPEC §6): a DSSE envelope by the
// host's key around canonical JSON. Receipts form a chain: `counter` grows by 1 from 1, `previous` is
// the digest of the payload before. Refuses unknown fields, phases that no host reports of itself,
// a phase without the reason it needs, and another host's or fleet's receipt.
import { createHash } from 'node:crypto';
import type { Static } from 'typebox';
import * as Type from 'typebox';
import { FleetError } from '../errors.ts';
import type { PublicKey } from '../keyfile.ts';
import { type Envelope, requireSignatures, signEnvelope } from './dsse.ts';
import {
  Exact,
  FleetName,
  HostId,
  Line,
  Nullable,
  Ordinal,
  Sha256,
  StorePathText,
  Time,
} from './fields.ts';
import { canonicalBytes, parseCanonical } from './jcs.ts';
import { type Frozen, requireShape } from './shape.ts';
import { formatTime, parseTime } from './time.ts';

export const RECEIPT_PAYLOAD_TYPE = 'application/vnd.fleet.receipt+json';

/** Every word for the state of a host. The server alone says `never-seen` and `offline`. SPEC §6.2 */
export const PHASES = [
  'never-seen',
  'in-sync',
  'manifest-pending',
  'fetching',
  'staged',
  'awaiting-user',
  'awaiting-window',
  'awaiting-lock',
  'preflight-failed',
  'activating',
  'verifying',
  'in-sync-degraded',
  'reboot-pending',
  'rebooting',
  'rolled-back',
  'failed',
  'held',
  'refused',
  'drifted',
  'offline',
  'decommissioned',
] as const;

export type Phase = (typeof PHASES)[number];
/** The phases that a host reports of itself. */
export type ReportedPhase = Exclude<Phase, 'never-seen' | 'offline'>;

const REPORTED: ReportedPhase[] = PHASES.filter(
  (phase): phase is ReportedPhase => phase !== 'never-seen' && phase !== 'offline',
);

/** These mean nothing to a person without the reason. */
const NEEDS_REASON: ReadonlySet<Phase> = new Set<Phase>([
  'preflight-failed',
  'in-sync-degraded',
  'reboot-pending',
  'rolled-back',
  'failed',
  'held',
  'refused',
  'drifted',
]);

/** As many units as each list of a receipt may have. */
export const MAX_UNITS = 64;
const Units = Type.Array(Type.String({ pattern: '^[!-~]{1,255}$' }), {
  maxItems: MAX_UNITS,
  uniqueItems: true,
});

/** What root at the machine did that the rules alone would not have. SPEC §6.1 */
export const EXCEPTIONS = ['age-accepted', 'trust-reset'] as const;
export type Exception = (typeof EXCEPTIONS)[number];

/** The text of a signed note. */
const Note = Type.String({ minLength: 1, maxLength: 2048 });

/** The payload of a receipt. */
export const ReceiptSchema = Exact({
  fleet: FleetName,
  host: HostId,
  counter: Ordinal,
  previous: Nullable(Sha256),
  manifest: Nullable(Exact({ epoch: Ordinal, sequence: Ordinal, sha256: Sha256 })),
  /** The signed checkpoint that the host accepted last. */
  checkpoint: Nullable(Note),
  /** Another one, of the same log, that contradicts it. */
  conflict: Nullable(Note),
  /** Left out where there are none. */
  exceptions: Type.Optional(
    Type.Array(Type.Enum([...EXCEPTIONS]), { minItems: 1, uniqueItems: true }),
  ),
  /** What somebody at the machine asks of the admin, numbered by the host from 1; left out in all other receipts. */
  request: Type.Optional(
    Exact({ number: Ordinal, text: Type.String({ pattern: '^\\P{Cc}{1,1024}$' }) }),
  ),
  phase: Type.Enum(REPORTED),
  reason: Nullable(Exact({ code: Type.String({ pattern: '^[A-Za-z0-9_-]{1,64}$' }), text: Line })),
  booted: Nullable(StorePathText),
  current: Nullable(StorePathText),
  profile: Nullable(StorePathText),
  exitCode: Nullable(Type.Integer({ minimum: -255, maximum: 255 })),
  failedUnits: Exact({ added: Units, removed: Units }),
  /** What the new system's program said that its switch would do. Left out where it did not say. */
  foretold: Type.Optional(Type.String({ pattern: '^[\\P{Cc}\n]{1,2048}$' })),
  who: Type.Enum(['policy', 'local group', 'root']),
  times: Exact({ started: Time, finished: Time }),
});

type ReceiptPayload = Frozen<Static<typeof ReceiptSchema>>;

/** A receipt with times in POSIX seconds; `failedUnits` compares with before the switch. */
export type Receipt = Omit<ReceiptPayload, 'times' | 'phase'> & {
  readonly phase: ReportedPhase;
  readonly times: { readonly started: number; readonly finished: number };
};

/** Units that failed after and not before, and the reverse. */
export type FailedUnits = Receipt['failedUnits'];

export type Reason = NonNullable<Receipt['reason']>;

/** A reason whose text fits a receipt: one line of at most 1024 characters. */
export function makeReason(code: string, text: string): Reason {
  const line = text
    .toWellFormed()
    .replace(/\p{Cc}+/gu, ' ')
    .trim();
  return { code, text: line.length <= 1000 ? line : `${line.slice(0, 1000).toWellFormed()}…` };
}

/** @throws FleetError E_PAYLOAD_FORM, E_RECEIPT_FORM. */
export function parseReceipt(payload: Uint8Array): Receipt {
  const wire = requireShape(ReceiptSchema, parseCanonical(payload), 'E_RECEIPT_FORM', 'receipt');
  const phase = wire.phase as ReportedPhase;
  if (wire.reason === null && NEEDS_REASON.has(phase)) refuse(`phase ${phase} needs a reason`);
  if ((wire.counter === 1) !== (wire.previous === null)) {
    refuse('the first receipt, and no other, has no previous one');
  }
  const times = {
    started: parseTime(wire.times.started),
    finished: parseTime(wire.times.finished),
  };
  return { ...wire, phase, times };
}

/** The payload's bytes, canonical. @throws as parseReceipt for what parseReceipt would not accept. */
export function formatReceipt(receipt: Receipt): Uint8Array {
  const { started, finished } = receipt.times;
  const payload = canonicalBytes({
    ...receipt,
    times: { started: formatTime(started), finished: formatTime(finished) },
  });
  parseReceipt(payload);
  return payload;
}

/** SHA-256 of a receipt's payload, lowercase hex: the next one's `previous`. */
export function receiptDigest(payload: Uint8Array): string {
  return createHash('sha256').update(payload).digest('hex');
}

/** A receipt's envelope, signed by the host's 32-byte secret key, and its digest. */
export function signReceipt(
  receipt: Receipt,
  secret: Uint8Array,
): { readonly envelope: string; readonly digest: string } {
  const payload = formatReceipt(receipt);
  return {
    envelope: signEnvelope(RECEIPT_PAYLOAD_TYPE, payload, [secret]),
    digest: receiptDigest(payload),
  };
}

/**
 * The receipt in an envelope, which must be of this host and signed by its key.
 * @throws FleetError E_SIGNATURE…, E_PAYLOAD_FORM, E_RECEIPT_FORM, E_FLEET_MISMATCH, E_HOST_MISMATCH.
 */
export function verifyReceipt(
  envelope: Envelope,
  expect: { readonly publicKey: PublicKey; readonly fleet: string; readonly host: string },
): { readonly receipt: Receipt; readonly digest: string } {
  requireSignatures(envelope, [expect.publicKey], 1, `host (${expect.host})`);
  if (envelope.payloadType !== RECEIPT_PAYLOAD_TYPE) {
    refuse('the envelope holds something else');
  }
  const receipt = parseReceipt(envelope.payload);
  if (receipt.fleet !== expect.fleet) {
    throw new FleetError('E_FLEET_MISMATCH', `the receipt is of fleet ${receipt.fleet}`);
  }
  if (receipt.host !== expect.host) {
    throw new FleetError('E_HOST_MISMATCH', `the receipt is of host ${receipt.host}`);
  }
  return { receipt, digest: receiptDigest(envelope.payload) };
}

function refuse(what: string): never {
  throw new FleetError('E_RECEIPT_FORM', `receipt: ${what}`);
}
