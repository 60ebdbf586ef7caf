// What State keeps of update packs (SPEC §12): what was made of two NARs or of a few, by a key that says of which, so that
// it is made once for all packs; and of which blobs each pack consists. Their bytes are blobs, which come first.
import type { StorePath } from '../nix/storepath.ts';
import type { BlobId, BlobRef } from './blobs.ts';

/**
 * What came of making a segment. `copy`: the rewritten old NAR is the new one; `poor`: it would save too little, and
 * is not tried again.
 */
export type MadeSegment =
  | { readonly outcome: 'copy' | 'poor' }
  | {
      readonly outcome: 'patch' | 'whole';
      readonly blob: BlobRef;
      /** Bytes of memory that applying it takes. */
      readonly memory: number;
    };

/** What a pack is for. Both are digests of closure files; base null: for a host that has nothing. */
export type PackStep = { readonly closure: BlobId; readonly base: BlobId | null };

export type KeptPack = PackStep & {
  /** What its paths are signed by, as text; a pack by other keys is of no use to hosts that no longer believe them. */
  readonly signers: string;
  /** POSIX seconds. */
  readonly madeAt: number;
  /** The blobs that it consists of, one after another; the first is its beginning, with the index. */
  readonly parts: readonly BlobRef[];
};

export interface PackReads {
  pack(step: PackStep): Promise<KeptPack | null>;
  /** Whether a manifest among the newest `perHost` of any host that was not removed names this closure. */
  isRecentClosure(closure: BlobId, perHost: number): Promise<boolean>;
  /** What a closure file is of, and its length, where a published manifest names it. */
  systemOf(
    closure: BlobId,
  ): Promise<{ readonly toplevel: StorePath; readonly closureBytes: number } | null>;
  /** The closures that manifests gave this system, the newest first. */
  closuresOf(toplevel: StorePath): Promise<BlobId[]>;
}

export interface PackWrites {
  /** Segments that were made before, by key; all are used now, which keeps them from a garbage collection. */
  useSegments(keys: readonly string[], now: number): Promise<ReadonlyMap<string, MadeSegment>>;
  /** Adds or replaces what was made, used now. Its blob must be durable already. */
  addSegment(key: string, made: MadeSegment, now: number): Promise<void>;
  /** Adds a pack, in place of one for the same step. Its blobs must be durable already. */
  addPack(pack: KeptPack): Promise<void>;
  /** Removes a pack; it is no error when there is none. */
  dropPack(step: PackStep): Promise<void>;
  /** Removes up to `limit` packs that were made before `time` and whose closure or base is none of these; returns how many. */
  sweepPacks(
    keep: { readonly closures: readonly BlobId[]; readonly bases: readonly BlobId[] },
    time: number,
    limit: number,
  ): Promise<number>;
  /** Forgets up to `limit` segments that no pack consists of and nothing has used since `cutoff`; returns how many. */
  sweepSegments(cutoff: number, limit: number): Promise<number>;
}
