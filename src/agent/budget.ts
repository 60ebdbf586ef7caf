// Bytes of memory for what works at the same time: whoever wants some waits until there are as many, in the order of asking.
// A piece larger than all of it gets all of it.
export class Budget {
  #free: number;
  readonly #total: number;
  readonly #waiting: { readonly bytes: number; readonly go: () => void }[] = [];

  constructor(bytes: number) {
    this.#total = bytes;
    this.#free = bytes;
  }

  /** Held until it is disposed of. */
  async take(wanted: number): Promise<Disposable> {
    const bytes = Math.min(wanted, this.#total);
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#waiting.push({ bytes, go: resolve });
    this.#serve();
    await promise;
    return {
      [Symbol.dispose]: () => {
        this.#free += bytes;
        this.#serve();
      },
    };
  }

  #serve(): void {
    for (let [first] = this.#waiting; first !== undefined && first.bytes <= this.#free; ) {
      this.#free -= first.bytes;
      this.#waiting.shift();
      first.go();
      [first] = this.#waiting;
    }
  }
}
