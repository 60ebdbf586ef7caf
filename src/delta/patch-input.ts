// The chunks of a patch, as they come → the pieces that it is read in. Refuses one that is cut off.
import { badPatch } from './patch-format.ts';

export class PatchInput {
  readonly #chunks: AsyncIterator<Uint8Array>;
  #held: Uint8Array = new Uint8Array();

  constructor(chunks: AsyncIterable<Uint8Array>) {
    this.#chunks = chunks[Symbol.asyncIterator]();
  }

  async isAtEnd(): Promise<boolean> {
    while (this.#held.length === 0) {
      const next = await this.#chunks.next();
      if (next.done === true) return true;
      this.#held = next.value;
    }
    return false;
  }

  /** Valid for good. */
  async take(bytes: number): Promise<Uint8Array> {
    const taken = Buffer.allocUnsafeSlow(bytes);
    for (let at = 0; at < bytes; ) {
      if (await this.isAtEnd()) throw badPatch('it is cut off');
      const piece = this.#held.subarray(0, bytes - at);
      taken.set(piece, at);
      at += piece.length;
      this.#held = this.#held.subarray(piece.length);
    }
    return taken;
  }

  /** @throws FleetError E_PATCH_BAD at the end */
  async byte(): Promise<number> {
    if (await this.isAtEnd()) throw badPatch('it is cut off');
    const [byte = 0] = this.#held;
    this.#held = this.#held.subarray(1);
    return byte;
  }

  async close(): Promise<void> {
    await this.#chunks.return?.();
  }
}
