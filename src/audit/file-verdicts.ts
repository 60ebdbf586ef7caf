// The words of a verdict upon files: what each kind says of itself once it was verified.
import { FleetError, isFleetError, messageOf } from '../errors.ts';
import type { PublicKey } from '../keyfile.ts';
import type { Approval } from '../manifest/approval.ts';
import type { Enrolment } from '../manifest/enrolment.ts';
import type { Receipt } from '../manifest/receipt.ts';
import type { Root } from '../manifest/root.ts';
import type { VerifiedManifest } from '../manifest/verify.ts';
import type { Kind } from './kinds.ts';

export type Input = { readonly file: string; readonly bytes: Buffer; readonly kind: Kind };

/** A log's head. `freshAt`: POSIX seconds when it was said to be the newest; null when it was not. */
export type Head = {
  readonly origin: string;
  readonly size: number;
  readonly freshAt: number | null;
};

/** Where an entry is in the log, and whether that shows it to be its host's newest. */
export type Logged = Head & { readonly index: number; readonly isNewest: boolean };

/** Which keys signed, of how many that may, and how many must. */
export type SignedBy = {
  readonly signers: readonly PublicKey[];
  readonly of: number;
  readonly needed: number;
};

/** A manifest; `of`: how many director keys there are. */
export type JudgedManifest = VerifiedManifest & {
  readonly log: Logged | null;
  readonly of: number;
};

export type Says =
  | { readonly kind: 'root'; readonly root: Root; readonly signed: SignedBy }
  | { readonly kind: 'manifest' | 'closure'; readonly manifest: JudgedManifest }
  | {
      readonly kind: 'approval';
      readonly approval: Approval;
      readonly signed: SignedBy;
      readonly hasBatch: boolean;
      readonly log: Logged | null;
    }
  | { readonly kind: 'batch'; readonly count: number }
  | {
      readonly kind: 'enrolment';
      readonly enrolment: Enrolment;
      readonly signed: SignedBy;
      readonly log: Logged | null;
    }
  | {
      readonly kind: 'receipt';
      readonly receipt: Receipt;
      readonly digest: string;
      readonly key: PublicKey;
      /** Whether the manifest that it is about is here as well, and verified. */
      readonly hasManifest: boolean;
    }
  | {
      /** Lines that a host signed: receipts, and requests for tokens among what contradicts them. */
      readonly kind: 'receipts';
      readonly host: string;
      readonly receipts: number;
      readonly requests: number;
      /** Each receipt follows the one before it, from the first of its key on. */
      readonly isChain: boolean;
    }
  | { readonly kind: 'host-key'; readonly host: string; readonly key: PublicKey }
  | { readonly kind: 'checkpoint'; readonly log: Head }
  /** `entry`: the file that it proves. */
  | { readonly kind: 'proof'; readonly entry: string; readonly log: Logged }
  | {
      readonly kind: 'bundle';
      readonly log: Head;
      readonly rootVersion: number;
      readonly receipts: number;
    };

/** What one file turned out to be. */
export type Verdict = { readonly file: string; readonly kind: Kind } & (
  | { readonly says: Says }
  | { readonly error: FleetError }
);

export type Judge = (input: Input, says: () => Says) => void;

export function known(error: unknown): FleetError {
  if (isFleetError(error)) return error;
  return new FleetError('E_INTERNAL', messageOf(error), { cause: error });
}
