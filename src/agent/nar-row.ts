// A stream of NARs, one right behind the other (a whole segment, SPEC §12.3) → each by itself. What of one is not read is passed
// over before the next; where the stream ends early, so does the NAR.
export class NarRow implements AsyncDisposable {
  readonly #chunks: AsyncGenerator<Uint8Array, void, undefined>;
  #held: Uint8Array = new Uint8Array();
  /** Bytes of the NAR at hand that nobody read. */
  #left = 0;

  constructor(chunks: AsyncGenerator<Uint8Array, void, undefined>) {
    this.#chunks = chunks;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#chunks.return();
  }

  /** The next one. Chunks are valid until another is asked for. */
  async *next(size: number): AsyncGenerator<Uint8Array, void, undefined> {
    while (this.#left > 0 && (await this.#take()) !== null);
    this.#left = size;
    while (this.#left > 0) {
      const piece = await this.#take();
      if (piece === null) return;
      yield piece;
    }
  }

  async #take(): Promise<Uint8Array | null> {
    if (this.#held.length === 0) {
      const next = await this.#chunks.next();
      if (next.done === true) return null;
      this.#held = next.value;
    }
    const piece = this.#held.subarray(0, this.#left);
    this.#held = this.#held.subarray(piece.length);
    this.#left -= piece.length;
    return piece;
  }
}
