// What the threads of pack-pool.ts are asked, and what they say.
import type { PackIndex, Renames } from '../delta/pack-index.ts';
import type { Closure, PathInfo } from '../nix/closure.ts';
import type { ThreadError } from '../thread-error.ts';

/** A NAR as it is stored: one zstd frame in a file. */
export type NarFile = Pick<PathInfo, 'narHash' | 'narSize'> & { readonly file: string };

/** One piece of work for a thread. `most`: more bytes than this are not worth keeping. */
export type SegmentTask =
  | {
      readonly kind: 'patch';
      readonly old: NarFile;
      readonly renames: Renames;
      readonly nar: NarFile;
      readonly most: number;
    }
  | { readonly kind: 'whole'; readonly nars: readonly NarFile[]; readonly most: number };

export type IndexTask = {
  readonly kind: 'index';
  readonly index: PackIndex;
  readonly paths: Closure['paths'];
};

export type PackTask = SegmentTask | IndexTask;

/** `next`: the piece was taken; `stop`: no more are wanted. */
export type PackRequest = PackTask | { readonly kind: 'next' } | { readonly kind: 'stop' };

/**
 * Pieces, each answered by `next` or `stop`; then one of the others. `memory`: bytes that applying it takes; `no-old`:
 * the old NAR cannot be read.
 */
export type PackReply =
  | { readonly kind: 'piece'; readonly bytes: Uint8Array<ArrayBuffer> }
  | { readonly kind: 'end'; readonly memory: number }
  | { readonly kind: 'copy' | 'poor' | 'no-old' }
  | { readonly kind: 'error'; readonly error: ThreadError };

/** What the threads are started with: where an old NAR lies that is too large for memory. */
export type PackSettings = { readonly scratch: string };
