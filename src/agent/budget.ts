// Bytes of memory, or places, for what works at the same time: whoever wants some waits until there are as many, in the order of asking.
// A piece larger than all of it gets all of it.
export class Budget {
  #free: number;
  readonly #total: number;
  readonly #waiting: { readonly wanted: number; readonly go: () => void }[] = [];

  /** Of bytes, or of places. */
  constructor(total: number) {
    this.#total = total;
    this.#free = total;
  }

  /** Held until it is disposed of. */
  async take(wanted: number): Promise<Disposable> {
    const taken = Math.min(wanted, this.#total);
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#waiting.push({ wanted: taken, go: resolve });
    this.#serve();
    await promise;
    return {
      [Symbol.dispose]: () => {
        this.#free += taken;
        this.#serve();
      },
    };
  }

  #serve(): void {
    for (let [first] = this.#waiting; first !== undefined && first.wanted <= this.#free; ) {
      this.#free -= first.wanted;
      this.#waiting.shift();
      first.go();
      [first] = this.#waiting;
    }
  }
}
