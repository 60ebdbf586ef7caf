// What a patch copies from: the NAR of a valid store path, read at any place (SPEC §12.4, §12.5). Reading is synchronous, since
// patches copy in many small pieces; whoever gives one decides where the bytes lie.

import { FleetError } from '../errors.ts';

export type OldNar = {
  /** Bytes of the NAR. */
  readonly size: number;
  /**
   * Fills `target` with what begins at `offset`.
   * @throws FleetError E_PATCH_BAD where that reaches beyond the end; or what keeps it from being read
   */
  readonly read: (offset: number, target: Uint8Array) => void;
};

/** A NAR that is in memory. */
export function narInMemory(bytes: Uint8Array): OldNar {
  return {
    size: bytes.length,
    read: (offset, target) => {
      const end = offset + target.length;
      if (end > bytes.length) throw outside(offset, target.length, bytes.length);
      target.set(bytes.subarray(offset, end));
    },
  };
}

/** Whoever asks for bytes that are not there follows a patch that is not for this NAR. */
export function outside(offset: number, length: number, size: number): FleetError {
  const what = `${length} bytes at ${offset} of an old NAR of ${size}`;
  return new FleetError('E_PATCH_BAD', `the patch copies ${what}`);
}
