// What people at the machine asked for and what is coming → what there is to tell them, in a form that a program can
// compare with what it told last. Pure. Loads no library: run.ts.
import type { Local } from './local.ts';
import { latestOf } from './wishes.ts';

/** What `fleet agent notify` shows. */
export type News = {
  /** null: nothing waits to be applied. */
  readonly coming: {
    readonly sequence: number;
    readonly toplevel: string;
    readonly narBytes: number;
    /** POSIX seconds: until when it was put off, and may be put off; null: it was not, may not be. */
    readonly deferredUntil: number | null;
    readonly latest: number | null;
  } | null;
  /** The host was taken back by hand, and why. */
  readonly held: { readonly reason: string; readonly at: number } | null;
};

export function newsOf(local: Local, now: number): News {
  const { coming, deferred, held } = local;
  const isDeferred = coming !== null && deferred?.sha256 === coming.sha256 && deferred.until > now;
  return {
    coming: coming && {
      sequence: coming.sequence,
      toplevel: coming.toplevel,
      narBytes: coming.narBytes,
      deferredUntil: isDeferred ? deferred.until : null,
      latest: latestOf(coming),
    },
    held: held && { reason: held.reason, at: held.at },
  };
}
