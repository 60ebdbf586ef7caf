// xz → bytes, by the WebAssembly decoder of xz-decompress (xz-embedded), with a memory of its own for
// each stream. The package's own stream class shares one decoder among all, behind a lock: whoever
// stalls would stall every other upload. So its decoder is driven from here. It reads
// concatenated streams and padding, checks every CRC, and takes dictionaries up to 64 MiB (xz -9).
// Refuses an early end, bytes after the end, SHA-256 checks and filters other than LZMA2.
import { setImmediate as nextTurn } from 'node:timers/promises';
import { FleetError, messageOf } from '../errors.ts';

/** As many decoders at once, each of a dictionary and little else; further streams wait. */
const PARALLEL = 4;

/** How long the event loop may be kept waiting. */
const TURN_MS = 4;

/** xz-embedded's enum xz_ret. */
const OK = 0;
const STREAM_END = 1;
const FAULTS: ReadonlyMap<number, string> = new Map([
  [3, 'no memory for its dictionary'],
  [4, 'its dictionary is larger than 64 MiB'],
  [5, 'no xz header where one should be'],
  [6, 'a check or filter that cannot be read here'],
  [7, 'corrupt data'],
  [8, 'it ends early, or other bytes follow'],
]);

type Exports = {
  readonly memory: { readonly buffer: ArrayBuffer };
  readonly create_context: () => number;
  readonly supply_input: (context: number, length: number) => void;
  readonly get_next_output: (context: number) => number;
};

/** What is used of the package, which keeps it to itself; its version is pinned. */
type Package = {
  readonly default: {
    readonly XzReadableStream: {
      /** Sets `_moduleInstance` to a new instance. */
      readonly _getModuleInstance: () => Promise<void>;
      _moduleInstance: { readonly exports: Exports } | null;
    };
  };
};

let running = 0;
const waiting: (() => void)[] = [];

/**
 * Streamed with backpressure; its decoder is dropped when the reader stops. It works on the calling
 * thread, 64 KiB at a time.
 * @throws FleetError E_NAR_BAD; or what `chunks` throws
 */
export async function* unxz(chunks: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  if (running < PARALLEL) running += 1;
  else {
    const { promise, resolve } = Promise.withResolvers<void>();
    waiting.push(resolve);
    await promise;
  }
  try {
    const decoder = new Decoder(await newInstance());
    for await (const chunk of chunks) yield* inTurns(decoder.push(chunk));
    yield* inTurns(decoder.finish());
  } finally {
    const next = waiting.shift();
    if (next === undefined) running -= 1;
    else next();
  }
}

/** Lets other work in between: a few bytes may unpack to gigabytes. */
async function* inTurns(pieces: Iterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  let turn = performance.now();
  for (const piece of pieces) {
    yield piece;
    if (performance.now() - turn < TURN_MS) continue;
    await nextTurn();
    turn = performance.now();
  }
}

async function newInstance(): Promise<Exports> {
  // Only here: most processes never see xz.
  const { XzReadableStream } = ((await import('xz-decompress')) as unknown as Package).default;
  for (;;) {
    await XzReadableStream._getModuleInstance();
    const instance = XzReadableStream._moduleInstance;
    // Taken away, so that nobody else gets it and its memory goes with its stream.
    XzReadableStream._moduleInstance = null;
    if (instance !== null) return instance.exports;
  }
}

/** One decoder in its own memory, which goes with it. */
class Decoder {
  readonly #wasm: Exports;
  /** Where its context is: {bufferSize, in, inPosition, inSize, out, outPosition, …}, each of 4 bytes. */
  readonly #context: number;
  readonly #bufferSize: number;

  constructor(wasm: Exports) {
    this.#wasm = wasm;
    this.#context = wasm.create_context();
    this.#bufferSize = this.#fields()[0] ?? 0;
  }

  *push(chunk: Uint8Array): Generator<Uint8Array> {
    // An empty input would mean the end.
    for (let at = 0; at < chunk.length; at += this.#bufferSize) {
      this.#supply(chunk.subarray(at, at + this.#bufferSize));
      for (;;) {
        const { bytes, ended } = this.#step();
        if (bytes.length > 0) yield bytes;
        const [, , position, size] = this.#fields();
        if (ended || (position === size && bytes.length < this.#bufferSize)) break;
      }
    }
  }

  /** What is still in the decoder. */
  *finish(): Generator<Uint8Array> {
    this.#supply(new Uint8Array());
    for (;;) {
      const { bytes, ended } = this.#step();
      if (bytes.length > 0) yield bytes;
      if (ended) return;
    }
  }

  /** Its memory may have moved after every call. */
  #fields(): Uint32Array {
    return new Uint32Array(this.#wasm.memory.buffer, this.#context, 6);
  }

  #supply(bytes: Uint8Array): void {
    const [, input = 0] = this.#fields();
    new Uint8Array(this.#wasm.memory.buffer, input, this.#bufferSize).set(bytes);
    this.#wasm.supply_input(this.#context, bytes.length);
  }

  #step(): { readonly bytes: Uint8Array; readonly ended: boolean } {
    const result = this.#run();
    const fault = FAULTS.get(result) ?? `fault ${result}`;
    if (result !== OK && result !== STREAM_END) throw notXz(fault);
    const fields = this.#fields();
    const [, , , , output = 0, length = 0] = fields;
    const bytes = new Uint8Array(this.#wasm.memory.buffer, output, length).slice();
    fields[5] = 0;
    return { bytes, ended: result === STREAM_END };
  }

  #run(): number {
    try {
      return this.#wasm.get_next_output(this.#context);
    } catch (cause) {
      // A trap: the decoder's own fault, but these bytes do not unpack.
      throw notXz(messageOf(cause), cause);
    }
  }
}

function notXz(what: string, cause?: unknown): FleetError {
  return new FleetError('E_NAR_BAD', `not an xz stream: ${what}`, { cause });
}
