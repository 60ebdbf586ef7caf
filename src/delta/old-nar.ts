// What a patch copies from: the NAR of a valid store path, read at any place (SPEC §12.4, §12.5). Reading is synchronous, since
// patches copy in many small pieces; whoever gives one decides where the bytes lie.

export type OldNar = {
  /** Bytes of the NAR. */
  readonly size: number;
  /**
   * Fills `target` with what begins at `offset`.
   * @throws FleetError E_PATCH_BAD where that reaches beyond the end; or what keeps it from being read
   */
  readonly read: (offset: number, target: Uint8Array) => void;
};
